"""Contract, "Frames": a message that has begun must be complete within 30 s."""

import pytest
import trio
from trio.testing import MockClock

from relayd.ops.events import PhoneUnregistered
from tests.trio_client import Client, RelayUnderTest, relay_under_test

# Frames with a mask of zeros: text "[1," as a first fragment, "2," as one in the middle, "3]" as the last.
FIRST = b"\x01\x83\0\0\0\0[1,"
MIDDLE = b"\x00\x82\0\0\0\x002,"
LAST = b"\x80\x82\0\0\0\x003]"
PING = b"\x89\x80\0\0\0\0"
LONG = b"\x81\xfe\x03\xe8\0\0\0\0" + b'"' + b"x" * 998 + b'"'

TOO_SLOW = (1008, "message too slow")


async def peer(relay: RelayUnderTest, nursery: trio.Nursery, leg: str) -> Client:
    """A peer on ``leg``; a phone's binary answers its pings in ``nursery``."""
    binary = await relay.binary()
    if leg == "binary":
        return binary
    nursery.start_soon(binary.answer_pings)
    return await relay.phone()


@pytest.mark.parametrize("leg", ["binary", "phone"])
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([(0, FIRST)], id="first fragment, then nothing"),
        pytest.param([(0, LONG[:1])], id="one byte of a header, then nothing"),
        pytest.param([(second, LONG[second : second + 1]) for second in range(30)], id="a byte a second"),
        pytest.param([(0, FIRST), (10, MIDDLE), (20, MIDDLE), (29, MIDDLE)], id="a fragment at a time"),
        pytest.param([(0, FIRST), (10, PING), (20, PING), (29, PING)], id="pings between fragments"),
    ],
)
async def test_message_not_complete_after_30_s_closes_its_sender_with_1008(
    autojump_clock: MockClock, leg: str, parts: list[tuple[float, bytes]]
) -> None:
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        client = await peer(relay, nursery, leg)
        begun = trio.current_time()
        for after, part in parts:
            await trio.sleep_until(begun + after)
            await client.stream.send_all(part)
        assert await client.closed() == TOO_SLOW
        assert trio.current_time() - begun == pytest.approx(30)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param([(0, FIRST), (29.9, LAST)], ["[1,3]"], id="complete just in time"),
        pytest.param(
            [(0, FIRST), (20, LAST + FIRST), (45, LAST)],
            ["[1,3]", "[1,3]"],
            id="completing one and beginning another renews",
        ),
        pytest.param(
            [(0, FIRST), (20, LAST + FIRST + MIDDLE), (45, LAST + FIRST), (70, LAST)],
            ["[1,3]", "[1,2,3]", "[1,3]"],
            id="in one read, again and again",
        ),
        pytest.param(
            [(0, FIRST + LAST), (29, PING), (58, PING), (87, PING), (110, FIRST), (139, LAST)],
            ["[1,3]", "[1,3]"],
            id="silence between messages",
        ),
    ],
)
async def test_messages_complete_within_30_s_each_are_carried(
    autojump_clock: MockClock, parts: list[tuple[float, bytes]], expected: list[str]
) -> None:
    async with relay_under_test(heartbeat_interval=1_000) as relay:
        binary = await relay.binary()
        phone = await relay.phone()
        begun = trio.current_time()
        for after, part in parts:
            await trio.sleep_until(begun + after)
            await phone.stream.send_all(part)
        for text in expected:
            assert (await binary.next_message()).endswith(f'"frame":{text}}}')
        assert not relay.seen(PhoneUnregistered)
        await phone.stream.aclose()
        await binary.stream.aclose()


async def test_time_that_backpressure_takes_does_not_count(autojump_clock: MockClock) -> None:
    # What the kernel's own timers owe us (delayed acknowledgements) comes in real time.
    autojump_clock.autojump_threshold = 0.05
    messages = 100
    text = '"' + "x" * 200_000 + '"'
    async with (
        relay_under_test(write_timeout=1_000, heartbeat_interval=1_000) as relay,
        trio.open_nursery() as nursery,
    ):
        binary = await relay.binary()
        phone = await relay.phone()

        async def flood() -> None:
            for _ in range(messages):
                await phone.send_text(text)

        nursery.start_soon(flood)
        await trio.sleep(100)
        assert not relay.seen(PhoneUnregistered)
        for _ in range(messages):
            assert (await binary.next_message()).endswith(text + "}")
        await phone.stream.aclose()
        await binary.stream.aclose()
