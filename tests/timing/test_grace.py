"""Contract, "Life of a binary", step 5: the grace window."""

import pytest
import trio
from trio.testing import MockClock

from relayd.ops.events import BinaryClaimed, BinaryReclaimed, BinaryReleased, GraceExpired, PhoneRegistered
from tests.trio_client import relay_under_test


async def test_window_that_passes_unclaimed_closes_phones_with_4404_binary_is_gone(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test(grace=30) as relay:
        binary = await relay.binary()
        phone = await relay.phone()
        await binary.close()
        await relay.until(lambda: relay.seen(BinaryReleased))
        released = trio.current_time()
        assert await phone.closed() == (4404, "binary is gone")
        assert trio.current_time() - released == 30
        assert relay.seen(GraceExpired) == [GraceExpired("server", 1)]


async def test_window_that_passes_unclaimed_frees_the_id(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary()
        await binary.close()
        await trio.sleep(30.001)
        late = await relay.phone()
        assert await late.closed() == (4404, "no server with that id")
        successor = await relay.binary()
        await relay.until(lambda: len(relay.seen(BinaryClaimed)) == 2)
        await successor.stream.aclose()


@pytest.mark.parametrize("after", [0, 29.999])
async def test_claim_inside_the_window_succeeds_at_once_and_closes_the_old_phones_with_4404(
    autojump_clock: MockClock, after: float
) -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary()
        phone = await relay.phone()
        await binary.close()
        await relay.until(lambda: relay.seen(BinaryReleased))
        await trio.sleep(after)
        asked = trio.current_time()
        successor = await relay.binary()
        assert await phone.closed() == (4404, "binary reclaimed server-id")
        assert trio.current_time() == asked
        assert [event.phones for event in relay.seen(BinaryReclaimed)] == [1]
        newer = await relay.phone()
        await newer.send_text("1")
        assert (await successor.next_message()).endswith('"frame":1}')
        await newer.stream.aclose()
        await successor.stream.aclose()


async def test_window_of_a_reclaimed_claim_is_void(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        await (await relay.binary()).close()
        await trio.sleep(20)
        successor = await relay.binary()
        phone = await relay.phone()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(successor.answer_pings)
            nursery.start_soon(phone.answer_pings)
            await trio.sleep(100)
            assert not relay.seen(GraceExpired)
            assert relay.relay.registry.connected_binaries == 1
            assert relay.relay.registry.connected_phones == 1
            nursery.cancel_scope.cancel()
        await phone.stream.aclose()
        await successor.stream.aclose()


async def test_new_phones_are_admitted_during_the_window(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        await (await relay.binary()).close()
        await relay.until(lambda: relay.seen(BinaryReleased))
        released = trio.current_time()
        await trio.sleep(10)
        phone = await relay.phone()
        await relay.until(lambda: relay.seen(PhoneRegistered))
        assert await phone.closed() == (4404, "binary is gone")
        assert trio.current_time() - released == 30


async def test_frame_sent_during_the_window_closes_its_phone_with_4404(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary()
        sender = await relay.phone()
        await binary.close()
        await relay.until(lambda: relay.seen(BinaryReleased))
        asked = trio.current_time()
        await sender.send_text("1")
        assert await sender.closed() == (4404, "binary is gone")
        assert trio.current_time() == asked
