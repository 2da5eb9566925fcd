"""Evicting a server-id while something else is under way with it."""

import trio
from trio.testing import MockClock

from relayd.ops.events import BinaryClaimed, BinaryReclaimed, BinaryReleased, BinaryTookOver, GraceExpired
from tests.trio_client import relay_under_test


async def test_evict_during_a_probe_frees_the_id_for_the_newcomer_at_once(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        registry = relay.relay.registry
        await relay.binary()
        await relay.until(lambda: registry.connected_binaries)
        await relay.binary(**{"x-pyrycode-version": "2"})
        await relay.until(lambda: len(relay.relay.connections) == 2)
        assert registry.evict("server") == 0
        await relay.until(lambda: len(relay.seen(BinaryClaimed)) == 2)
        await relay.until(lambda: relay.seen(BinaryReleased))
        # What the old one leaves behind is not the newcomer's.
        ((slot, grace_end),) = registry.slots()
        assert (slot.version, grace_end) == ("2", None)
        assert slot.binary is not None
        assert relay.seen(BinaryTookOver) == relay.seen(BinaryReclaimed) == []


async def test_grace_window_that_was_evicted_does_not_expire_for_the_next_holder(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test(grace=1.0) as relay:
        registry = relay.relay.registry
        first = await relay.binary()
        await relay.until(lambda: registry.connected_binaries)
        await first.close()
        await relay.until(lambda: registry.slots()[0][1] is not None)
        assert registry.evict("server") == 0
        assert registry.slots() == []
        second = await relay.binary()
        await relay.until(lambda: registry.connected_binaries)
        phone = await relay.phone()
        await relay.until(lambda: registry.connected_phones)
        await trio.sleep(2)
        assert relay.seen(GraceExpired) == []
        await phone.send_text("1")
        assert '"frame":1' in await second.next_message()
