"""Control frames: who answers them, and that nobody is there before there are any."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import BytesMessage, Ping, Pong, TextMessage

from relayd.ops.events import BinaryReleased, InternalError, PhoneUnregistered
from tests.trio_client import RelayUnderTest, relay_under_test

# As a client sends them, with a mask of zeros.
PING = b"\x89\x81\0\0\0\0"
CLOSE_1000 = b"\x88\x82\0\0\0\0\x03\xe8"


async def tasks_of(relay: RelayUnderTest) -> int:
    await wait_all_tasks_blocked()
    return trio.lowlevel.current_statistics().tasks_living


async def test_connection_that_never_pings_has_one_task_and_the_first_ping_brings_another(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay:
        before = await tasks_of(relay)
        binary = await relay.binary()
        assert await tasks_of(relay) == before + 1
        for payload in (b"one", b"two"):
            await binary.send(Ping(payload))
            assert await binary.next_event() == Pong(payload)
            assert await tasks_of(relay) == before + 2


async def test_ping_and_close_in_one_read_are_answered_in_order(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary()
        await binary.stream.send_all(PING + b"a" + PING + b"b" + CLOSE_1000)
        assert await binary.next_event() == Pong(b"a")
        assert await binary.next_event() == Pong(b"b")
        assert await binary.closed() == (1000, "")


async def test_peer_that_hangs_up_right_behind_its_first_ping_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay:
        before = await tasks_of(relay)
        binary = await relay.binary()
        await binary.stream.send_all(PING + b"a")
        await binary.stream.aclose()
        assert await tasks_of(relay) == before
        assert [event.by for event in relay.seen(BinaryReleased)] == ["network"]
        assert not relay.seen(InternalError)


async def test_close_that_relayd_begins_while_a_first_ping_is_being_answered_reaches_the_peer(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary()
        phone = await relay.phone()
        await phone.send_text("1")
        envelope = await binary.next_message()
        conn_id = envelope.split('"')[3]
        # Both are read in the same turn of the loop, whichever connection is first.
        await phone.stream.send_all(PING + b"a")
        await binary.send_text(f'{{"conn_id":"{conn_id}","close_code":4401}}')
        assert await phone.closed() == (4401, "")
        await wait_all_tasks_blocked()
        assert [event.code for event in relay.seen(PhoneUnregistered)] == [4401]
        assert not relay.seen(InternalError)


async def test_goodbye_of_relayds_own_brings_nobody(autojump_clock: MockClock) -> None:
    # In a drain there may be 20,000 of them, and a task more for each would take longer than a drain may.
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        binary = await relay.binary()
        phones = [await relay.phone() for _ in range(3)]
        before = await tasks_of(relay)
        nursery.start_soon(relay.relay.drain, "test")
        assert await tasks_of(relay) == before + 1
        for client in (binary, *phones):
            assert await client.closed() == (1001, "shutting down")


async def test_data_is_never_seen_by_who_answers_control_frames(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary()
        phone = await relay.phone()
        await phone.send(Ping(b"x"))
        assert await phone.next_event() == Pong(b"x")
        await phone.send(TextMessage(data="1"))
        await phone.send(BytesMessage(data=b"2"))
        await phone.send(Ping(b"y"))
        assert await phone.next_event() == Pong(b"y")
        frames = [(await binary.next_message()).rpartition(":")[2] for _ in range(2)]
        assert frames == ["1}", "2}"]
