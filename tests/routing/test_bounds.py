"""What is held for a peer has a bound, and what a peer has received never has a gap."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import CloseConnection, TextMessage

from relayd.ops.events import BinaryClaimed
from tests.trio_client import relay_under_test

LONG = '"' + "x" * 200_000 + '"'


async def test_phones_that_find_a_binary_full_wait_with_their_first_message(autojump_clock: MockClock) -> None:
    """However many phones dial a binary that does not read, its outbox holds one batch beyond its bound."""
    async with relay_under_test(max_phones=100, write_timeout=1000, heartbeat_interval=1000) as relay:
        await relay.binary()
        await wait_all_tasks_blocked()
        phones = [await relay.phone() for _ in range(60)]
        for phone in phones:
            await phone.send_text(LONG)
        await wait_all_tasks_blocked()
        binary = relay.relay.registry._slots["server"].binary
        assert binary is not None
        assert binary.outbox.charge <= 2 * 262_144


async def test_peer_that_closes_with_frames_queued_for_it_gets_its_close_answered(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test(heartbeat_interval=1000) as relay:
        binary = await relay.binary()
        phone = await relay.phone()
        await phone.send_text("1")
        conn_id = (await binary.next_message())[12:36]
        for _ in range(18):
            await binary.send_text(f'{{"conn_id":"{conn_id}","frame":{LONG}}}')
        await wait_all_tasks_blocked()
        await phone.send(CloseConnection(code=4001))
        with trio.fail_after(60):
            while not isinstance(event := await phone.next_event(), CloseConnection):
                pass
        assert event.code == 4001


async def test_nothing_follows_the_frame_that_overflowed_an_outbox(autojump_clock: MockClock) -> None:
    async with relay_under_test(outbox_bytes=1000) as relay:
        binary = await relay.binary()
        phone = await relay.phone()
        await phone.send_text("1")
        conn_id = (await binary.next_message())[12:36]
        first, second, third = (
            f'{{"conn_id":"{conn_id}","frame":"{frame}"}}' for frame in ("a", "B" * 2000, "c")
        )
        together = b"".join(binary._protocol.send(TextMessage(data=text)) for text in (first, second, third))
        await binary.stream.send_all(together)
        assert await phone.next_message() == '"a"'
        assert await phone.next_event() == CloseConnection(code=1011, reason="phone backlog full")


async def test_message_drawn_out_with_empty_fragments_is_closed_with_1008(autojump_clock: MockClock) -> None:
    async with relay_under_test(message_timeout=0.3) as relay:
        await relay.binary()
        await relay.until(lambda: relay.seen(BinaryClaimed))
        phone = await relay.phone()
        await phone.stream.send_all(bytes.fromhex("01810000000031"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drag_on, phone.stream)
            assert await phone.next_event() == CloseConnection(code=1008, reason="message too slow")
            nursery.cancel_scope.cancel()


async def drag_on(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(bytes.fromhex("008000000000") * 100)
