"""Control frames: who answers them, and that nobody is there before there are any."""

import socket
import struct

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import BytesMessage, Ping, Pong, TextMessage

from relayd.ops.events import BinaryReleased, InternalError, PhoneUnregistered
from tests.trio_client import Client, RelayUnderTest, relay_under_test

# As a client sends them, with a mask of zeros.
PING = b"\x89\x81\0\0\0\0"
NOT_JSON = b"\x81\x81\0\0\0\0x"
NO_JSON = b"\x88\x20\x03\xefnot one JSON document in UTF-8"
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


async def everything(client: Client) -> bytes:
    """What comes until the relay hangs up."""
    received = b""
    while data := await client.stream.receive_some(65536):
        received += data
    return received


async def test_ping_behind_our_close_frame_gets_no_pong_and_its_close_no_second_one(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay:
        await relay.binary()
        phone = await relay.phone()
        await phone.stream.send_all(NOT_JSON)
        await wait_all_tasks_blocked()
        await phone.stream.send_all(PING + b"a")
        await wait_all_tasks_blocked()
        await phone.stream.send_all(CLOSE_1000)
        assert await everything(phone) == NO_JSON


async def test_ping_in_one_read_with_what_ends_the_connection_gets_its_pong_before_our_close_or_none(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay:
        await relay.binary()
        for _ in range(20):  # trio runs what is ready in random order
            phone = await relay.phone()
            await phone.send(Ping(b"open"))
            assert await phone.next_event() == Pong(b"open")
            await phone.stream.send_all(PING + b"a" + NOT_JSON)
            await wait_all_tasks_blocked()
            await phone.stream.send_all(CLOSE_1000)
            assert await everything(phone) in (NO_JSON, b"\x8a\x01a" + NO_JSON)


@pytest.mark.parametrize("goodbye", [CLOSE_1000, b""])
async def test_begun_frame_and_our_close_reach_a_peer_that_says_goodbye_behind_a_backlog(
    mock_clock: MockClock, goodbye: bytes
) -> None:
    async with relay_under_test(outbox_bytes=1_000_000) as relay:
        binary = await relay.binary()
        phone = await relay.phone()
        phone.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await phone.send_text("1")
        conn_id = (await binary.next_message()).split('"')[3]
        size = 200_000
        while not relay.seen(PhoneUnregistered):
            await binary.send_text(f'{{"conn_id":"{conn_id}","frame":"{"a" * (size - 2)}"}}')
            await wait_all_tasks_blocked()
        if goodbye:
            await phone.stream.send_all(goodbye)
        else:
            await phone.stream.send_eof()
        await wait_all_tasks_blocked()
        frames = await everything(phone)
        close = b"\x88\x14\x03\xf3phone backlog full"
        assert frames.endswith(close)
        assert (len(frames) - len(close)) % (size + 10) == 0


async def test_peer_that_resets_behind_its_close_frame_is_let_go_at_once(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        before, begun = await tasks_of(relay), trio.current_time()
        binary = await relay.binary()
        binary.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await binary.stream.send_all(CLOSE_1000)
        await binary.stream.aclose()
        assert await tasks_of(relay) == before
        assert trio.current_time() == begun


async def test_close_of_a_peer_is_answered_when_its_messages_have_gone_where_they_belong(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test(write_timeout=1_000) as relay, trio.open_nursery() as nursery:
        binary = await relay.binary()
        binary.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        phone, flood = await relay.phone(), await relay.phone()
        await phone.send_text("1")
        conn_id = (await binary.next_message()).split('"')[3]

        async def fill_the_binary() -> None:
            while True:
                await flood.send_text(f'"{"x" * 200_000}"')

        nursery.start_soon(fill_the_binary)
        await wait_all_tasks_blocked()
        await phone.stream.send_all(PING + b"a" + b"\x81\x81\0\0\0\0" + b"2" + CLOSE_1000)
        await wait_all_tasks_blocked()
        await binary.send_text(f'{{"conn_id":"{conn_id}","frame":3}}')
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            received = await phone.stream.receive_some(65536)
            assert received == b"\x8a\x01a" + b"\x81\x013"


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
