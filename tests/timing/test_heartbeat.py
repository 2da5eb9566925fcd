"""Contract, "Heartbeat"."""

import pytest
import trio
from trio.testing import MockClock
from wsproto.events import Ping

from relayd.ops.events import BinaryReleased, PhoneUnregistered
from tests.trio_client import Client, RelayUnderTest, relay_under_test

PONG = b"\x8a\x80\0\0\0\0"
PING = b"\x89\x80\0\0\0\0"
TEXT = b"\x81\x82\0\0\0\0{}"

legs = pytest.mark.parametrize("leg", ["binary", "phone"])


async def peer(relay: RelayUnderTest, nursery: trio.Nursery, leg: str) -> Client:
    """A peer on ``leg``; a phone's binary answers its pings in ``nursery``."""
    binary = await relay.binary()
    if leg == "binary":
        return binary
    nursery.start_soon(binary.answer_pings)
    return await relay.phone()


@legs
async def test_ping_goes_out_every_30_s(autojump_clock: MockClock, leg: str) -> None:
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        client = await peer(relay, nursery, leg)
        start = trio.current_time()
        for beat in range(1, 5):
            ping = await client.next_event()
            assert isinstance(ping, Ping)
            assert trio.current_time() - start == 30 * beat
            await client.send(ping.response())
        await client.stream.aclose()
        nursery.cancel_scope.cancel()


@legs
async def test_peer_that_is_silent_is_closed_with_1011_heartbeat_timeout_after_60_s(
    autojump_clock: MockClock, leg: str
) -> None:
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        client = await peer(relay, nursery, leg)
        start = trio.current_time()
        assert await client.closed() == (1011, "heartbeat timeout")
        assert trio.current_time() - start == 60
        nursery.cancel_scope.cancel()


@legs
async def test_peer_that_never_reads_the_close_is_gone_from_the_registry_within_60_s(
    autojump_clock: MockClock, leg: str
) -> None:
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        client = await peer(relay, nursery, leg)
        event_type = BinaryReleased if leg == "binary" else PhoneUnregistered
        await trio.sleep(59)
        assert not relay.seen(event_type)
        await trio.sleep(1.001)
        (ended,) = relay.seen(event_type)
        assert (ended.code, ended.by, ended.reason) == (1011, "relay", "heartbeat timeout")
        await client.stream.aclose()
        nursery.cancel_scope.cancel()


@legs
@pytest.mark.parametrize(
    "signs",
    [
        pytest.param([PONG], id="pong"),
        pytest.param([PING], id="ping"),
        pytest.param([TEXT], id="message"),
        pytest.param([TEXT[:1], TEXT[1:]], id="one byte"),
    ],
)
async def test_any_byte_after_the_ping_is_a_sign_of_life_and_a_dead_peer_is_gone_30_s_after_its_next_ping(
    autojump_clock: MockClock, leg: str, signs: list[bytes]
) -> None:
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        client = await peer(relay, nursery, leg)
        start = trio.current_time()
        await trio.sleep_until(start + 45)
        for sign in signs:
            await client.stream.send_all(sign)
            # One moment's sleep keeps the two parts of a message from being read as one.
            await trio.sleep(0.001)
        assert await client.closed() == (1011, "heartbeat timeout")
        assert trio.current_time() - start == 60 + 30
        nursery.cancel_scope.cancel()


async def test_peer_held_back_by_backpressure_is_not_closed_by_the_heartbeat(
    autojump_clock: MockClock,
) -> None:
    # What the kernel's own timers owe us (delayed acknowledgements) comes in real time.
    autojump_clock.autojump_threshold = 0.05
    messages = 100
    text = '"' + "x" * 200_000 + '"'
    async with relay_under_test(write_timeout=1_000) as relay, trio.open_nursery() as nursery:
        binary = await relay.binary()
        phone = await relay.phone()

        async def flood() -> None:
            for _ in range(messages):
                await phone.send_text(text)

        async def live_without_reading() -> None:
            while True:
                await binary.stream.send_all(PONG)
                await trio.sleep(20)

        nursery.start_soon(flood)
        async with trio.open_nursery() as life:
            life.start_soon(live_without_reading)
            await trio.sleep(300)
            assert not relay.seen(PhoneUnregistered)
            assert not relay.seen(BinaryReleased)
            life.cancel_scope.cancel()
        for _ in range(messages):
            assert (await binary.next_message()).endswith(text + "}")
        await phone.stream.aclose()
        await binary.stream.aclose()
