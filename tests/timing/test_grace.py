"""Contract, "Life of a binary", step 5: the grace window."""

import trio
from trio.testing import MockClock

from relayd.ops.events import BinaryReleased, GraceExpired
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
