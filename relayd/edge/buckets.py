"""Token buckets, one for each key, in a table that cannot grow beyond its bound."""

import math
from heapq import heappop, heappush
from typing import Final

__all__ = ["TokenBuckets"]

_MOST_KEYS: Final = 65_536
"""Keys that are remembered: 9 MiB, if so many come at once."""

_EXPIRED_PER_TAKE: Final = 2
"""Full buckets dropped with each token that is asked for: more than it can add, so they cannot pile up."""

_ROUNDING: Final = 1e-6
"""Seconds by which a token may be early, as sums of floats are not exact."""


class TokenBuckets:
    """A bucket holds ``burst`` tokens at first and at most, and gains ``per_minute`` in each minute.

    All that is kept of one is when it will be full again: so many tokens are missing from it as come until
    then. A bucket that is full says nothing and is dropped. If the table has no room for a new key, the
    bucket that is nearest to full, to within one token, is taken for full and forgotten: so who spends
    little from many addresses pushes out others of his kind, and not the memory of those who spend much.
    To forget is to let somebody have more, never less.
    """

    def __init__(self, per_minute: int, burst: int, most: int = _MOST_KEYS) -> None:
        """All three are at least 1."""
        #: Seconds until the next token.
        self._step = 60 / per_minute
        #: How far from full, in seconds, a bucket may be that still has a token.
        self._slack = (burst - 1) * self._step
        self._most = most
        self._full_at: dict[int, float] = {}
        # Keys by when their buckets will be full, in steps; and the steps that there are, as a heap. Those
        # to come are no more than the burst, however many keys there are.
        self._due: dict[int, set[int]] = {}
        self._steps: list[int] = []

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._full_at)

    def take(self, key: int, now: float) -> float:
        """Take a token out of the bucket of ``key``; 0, or how many seconds it will be until there is one.

        ``now`` is in seconds, and never goes back.
        """
        for _ in range(_EXPIRED_PER_TAKE):
            self._forget_one(now)
        known = self._full_at.get(key)
        full_at = now if known is None else max(known, now)
        wait = full_at - now - self._slack
        if wait > _ROUNDING:
            return wait
        if known is not None:
            self._due[int(known // self._step)].remove(key)
        elif len(self._full_at) >= self._most:
            self._forget_one()
        self._remember(key, full_at + self._step)
        return 0.0

    def _remember(self, key: int, full_at: float) -> None:
        self._full_at[key] = full_at
        step = int(full_at // self._step)
        if step not in self._due:
            self._due[step] = set()
            heappush(self._steps, step)
        self._due[step].add(key)

    def _forget_one(self, now: float = math.inf) -> None:
        """Forget the bucket that is nearest to full, to within one token, if it is full ``now``."""
        while self._steps and (self._steps[0] + 1) * self._step <= now:
            keys = self._due[self._steps[0]]
            if keys:
                del self._full_at[keys.pop()]
                return
            del self._due[heappop(self._steps)]
