"""How long messages spend inside the relay, and how far away peers are: samples for metrics."""

import random
from collections.abc import Callable, Iterable
from typing import Final

import trio

from relayd.routing.outbox import Outbox

__all__ = ["Timing"]

_ONE_IN: Final = 64
"""Reads for each that is timed, on average. Drawn anew each time: with a fixed step, connections that take
turns in step with it would never be looked at."""

_MOST_UNDER_WAY: Final = 256
"""Samples that wait for a slow peer at a time. Beyond it there are none: they must not pile up, too."""


class Timing:
    """Takes the samples of all connections of a relay. Without it, as without metrics, nothing is timed."""

    def __init__(self, inside: Callable[[float], None], round_trip: Callable[[float], None]) -> None:
        """``inside`` and ``round_trip`` are given seconds."""
        self._inside = inside
        #: Takes the time from a ping to its pong.
        self.round_trip = round_trip
        self._until_next = 1
        self._under_way = 0

    def sample(self) -> float | None:
        """After a read: the time now, if what it brought is to be timed."""
        self._until_next -= 1
        if self._until_next:
            return None
        self._until_next = random.randint(1, 2 * _ONE_IN - 1)  # noqa: S311 (nobody gains by guessing it)
        return trio.current_time()

    def handed_on(self, read_at: float, outboxes: Iterable[Outbox], nursery: trio.Nursery) -> None:
        """What was read at ``read_at`` is in ``outboxes``, and they have been flushed.

        What the kernel has not taken yet is waited for in ``nursery``. What it never will has no time.
        """
        outboxes = list(outboxes)
        if any(outbox.dead for outbox in outboxes):
            return
        waiting = [(outbox, outbox.sent_count + outbox.waiting) for outbox in outboxes if outbox.waiting]
        if not waiting:
            self._inside(trio.current_time() - read_at)
        elif self._under_way < _MOST_UNDER_WAY:
            self._under_way += 1
            nursery.start_soon(self._wait, read_at, waiting)

    async def _wait(self, read_at: float, waiting: list[tuple[Outbox, int]]) -> None:
        """A connection that closes gives up what it still had, and then there is no time to tell."""
        try:
            for outbox, number in waiting:
                await outbox.left(number)
            if all(outbox.delivered >= number for outbox, number in waiting):
                self._inside(trio.current_time() - read_at)
        finally:
            self._under_way -= 1
