"""What becomes of a connection that holds most when all buffers are full."""

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import CloseConnection, TextMessage

from relayd.ops.events import BinaryReleased, BuffersFull, PhoneUnregistered
from relayd.settings import Settings
from tests.attacks.peers import frame, request
from tests.trio_client import Client, RelayUnderTest, relay_under_test

BUDGET = 1_000_000


async def pair(relay: RelayUnderTest) -> tuple[Client, Client, str]:
    """A binary, its phone, and the phone's name."""
    binary, phone = await relay.binary(), await relay.phone()
    await phone.send_text("1")
    return binary, phone, (await binary.next_message())[12:36]


async def flood(relay: RelayUnderTest, binary: Client, conn_id: str, size: int) -> None:
    """Frames of ``size`` bytes for a phone that does not read, until it is closed for what waits for it."""
    text = f'{{"conn_id":"{conn_id}","frame":"{"x" * size}"}}'
    batch = b"".join(binary._protocol.send(TextMessage(data=text)) for _ in range(100_000 // size + 1))
    # What the kernel takes is not counted.
    for _ in range(1_000):
        await binary.stream.send_all(batch)
        await wait_all_tasks_blocked()
        if relay.seen(BuffersFull):
            return
    raise AssertionError("never closed")


async def test_a_phone_that_holds_most_is_told_1011_if_it_reads_on_after_all(autojump_clock: MockClock) -> None:
    async with relay_under_test(max_buffered_bytes=BUDGET, heartbeat_interval=1_000) as relay:
        binary, phone, conn_id = await pair(relay)
        await flood(relay, binary, conn_id, 300)
        full = relay.seen(BuffersFull)[0]
        assert (full.kind, full.bytes, full.held > BUDGET // 2) == ("phone", BUDGET, True)
        assert relay.relay.budget.used < 20_000
        while not isinstance(event := await phone.next_event(), CloseConnection):
            pass
        assert (event.code, event.reason) == (1011, "phone backlog full")
        await phone.stream.aclose()
        await relay.until(lambda: relay.seen(PhoneUnregistered))
        await wait_all_tasks_blocked()
        assert relay.relay.budget.used == 0
        assert '"close_code":1001' in await binary.next_message()


async def test_of_a_large_frame_that_has_begun_nothing_is_kept_for_the_sake_of_a_goodbye(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test(max_buffered_bytes=BUDGET, heartbeat_interval=1_000) as relay:
        binary, phone, conn_id = await pair(relay)
        await flood(relay, binary, conn_id, 200_000)
        # At once, not when a closing handshake has timed out.
        assert relay.relay.budget.used == 0
        assert [event.reason for event in relay.seen(PhoneUnregistered)] == ["phone backlog full"]
        await relay.until(lambda: len(relay.relay.connections) == 1)
        while not isinstance(event := await phone.next_event(), CloseConnection):
            pass
        assert event.code == 1006


@pytest.mark.parametrize("kind", ["phone", "binary"])
async def test_whoever_holds_an_unfinished_message_is_told_1011(autojump_clock: MockClock, kind: str) -> None:
    async with relay_under_test(max_buffered_bytes=BUDGET, max_frame_bytes=4_000_000) as relay:
        binary, phone, _ = await pair(relay)
        sender = phone if kind == "phone" else binary
        half = frame(bytes(3_000_000))[:1_500_000]
        await sender.stream.send_all(half)
        assert await sender.closed() == (1011, "relay buffers full")
        await relay.until(lambda: relay.seen(PhoneUnregistered if kind == "phone" else BinaryReleased))
        await wait_all_tasks_blocked()
        assert [event.kind for event in relay.seen(BuffersFull)] == [kind]
        assert relay.relay.budget.used == 0


async def test_a_connection_that_is_closing_cannot_hold_on_to_an_unfinished_message(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test(max_buffered_bytes=BUDGET, max_frame_bytes=4_000_000) as relay:
        binary, phone, conn_id = await pair(relay)
        await binary.send_text(f'{{"conn_id":"{conn_id}","close_code":4401}}')
        await relay.until(lambda: relay.seen(PhoneUnregistered))
        assert relay.seen(BuffersFull) == []
        # It was told 4401, and has not answered.
        with suppress(trio.BrokenResourceError):
            await phone.stream.send_all(frame(bytes(3_000_000))[:1_500_000])
        await relay.until(lambda: relay.seen(BuffersFull))
        assert relay.relay.budget.used == 0
        assert [event.code for event in relay.seen(PhoneUnregistered)] == [4401]


async def test_request_heads_that_do_not_end_count_and_are_given_up(autojump_clock: MockClock) -> None:
    async with relay_under_test(max_buffered_bytes=100_000) as relay:
        unfinished = request("/v1/client", "s")[:-2] + b"x-fill: " + b"x" * 10_000
        clients = [await relay.connect() for _ in range(9)]
        for client in clients:
            await client.stream.send_all(unfinished)
            await wait_all_tasks_blocked()
        assert relay.relay.budget.used == pytest.approx(9 * len(unfinished))
        clients.append(await relay.connect())
        await clients[-1].stream.send_all(unfinished)
        await wait_all_tasks_blocked()
        assert 0 < relay.relay.budget.used <= 100_000 * 7 // 8
        # The rest have until the handshake timeout.
        closed = [await client.stream.receive_some(4096) for client in clients]
        assert 2 <= closed.count(b"") < 10
        assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in closed if answer)
        assert relay.relay.budget.used == 0


async def test_a_lower_bound_counts_at_once(autojump_clock: MockClock) -> None:
    async with relay_under_test(heartbeat_interval=1_000) as relay:
        _, phone, _ = await pair(relay)
        await phone.stream.send_all(frame(bytes(260_000))[:200_000])
        await wait_all_tasks_blocked()
        assert relay.relay.budget.used >= 200_000
        relay.relay.apply(Settings(max_buffered_bytes=100_000))
        assert await phone.closed() == (1011, "relay buffers full")
