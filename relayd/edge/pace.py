"""How fast a peer may send: where there is a bound, whoever reads from it waits, and nothing is dropped.

A token bucket for each bound, that holds as much as comes in a second. What is read beyond that is owed,
and the next read waits until it is made up for.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, get_args

import trio

from relayd.values import Rate

__all__ = ["CONTROL_BURST", "CONTROL_RATE", "EXCESSES", "Excess", "Pace", "Pauses"]

Excess = Literal["bytes", "frames", "control"]
"""What a peer sends too much of; control: pings, pongs and empty fragments, which carry nothing."""

EXCESSES: Final[tuple[Excess, ...]] = get_args(Excess)

CONTROL_RATE: Final = 10
"""Frames a second that carry nothing. Peers in good order have one every few seconds, and each ping costs
us about 100 µs, as much as some 50 messages: so one who only sends pings may have a thousandth of a core."""

CONTROL_BURST: Final = 100
"""Such frames at once, after a silence."""

_BURST: Final = 1.0
"""Seconds' worth of bytes or frames that may come at once, after a silence."""


class Pace:
    """What one peer has sent, against its bounds."""

    __slots__ = ("_bytes_paid", "_control_paid", "_frames_paid", "_rate", "bound", "noticed", "until")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        # When what has been sent would all have been sent at exactly the rate.
        self._bytes_paid = self._frames_paid = self._control_paid = 0.0
        #: When to read again; 0 if there is no need to wait.
        self.until = 0.0
        #: Why there is.
        self.bound: Excess = "bytes"
        #: Whether it has been reported that there ever was.
        self.noticed = False

    def most_bytes(self, ask: int) -> int:
        """What to read at once instead of ``ask`` bytes, so that no read is paid for with long silence."""
        return min(ask, self._rate.bytes) if self._rate.bytes else ask

    def most_frames(self, frames: int) -> int:
        """How many frames to decode at once instead of ``frames``."""
        return min(frames, self._rate.frames) if self._rate.frames else frames

    def spend(self, size: int, frames: int, control: int) -> None:
        """So many bytes have been read, and ``frames`` decoded, of which ``control`` carried nothing."""
        now = trio.current_time()
        if self._rate.bytes and size:
            self._bytes_paid = max(self._bytes_paid, now) + size / self._rate.bytes
            self._wait("bytes", self._bytes_paid - _BURST, now)
        if self._rate.frames and frames:
            self._frames_paid = max(self._frames_paid, now) + frames / self._rate.frames
            self._wait("frames", self._frames_paid - _BURST, now)
        if control:
            self._control_paid = max(self._control_paid, now) + control / CONTROL_RATE
            self._wait("control", self._control_paid - CONTROL_BURST / CONTROL_RATE, now)

    def _wait(self, bound: Excess, until: float, now: float) -> None:
        if until > max(now, self.until):
            self.until, self.bound = until, bound


class Pauses:
    """How often and how long peers have been held back, over all connections of a relay."""

    def __init__(self) -> None:
        #: Connections that are being held back now.
        self.under_way = 0
        #: By the connection's kind and the bound.
        self.count: Counter[tuple[str, Excess]] = Counter()
        self.seconds: dict[tuple[str, Excess], float] = defaultdict(float)

    @contextmanager
    def noted(self, kind: str, bound: Excess) -> Iterator[None]:
        """Around a pause."""
        begun = trio.current_time()
        self.count[kind, bound] += 1
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self.seconds[kind, bound] += trio.current_time() - begun
