"""How much of the loop's time a connection may take at once, and how many newcomers may."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from relayd.wire.frames import FRAMES_PER_BATCH

__all__ = ["LEAST_FRAMES", "NEWCOMERS_AT_ONCE", "Gate", "Place", "Turns"]

LEAST_FRAMES: Final = 64
"""Frames that every turn may have, however many connections take turns: with fewer, the system calls of
each turn cost more than its frames."""

NEWCOMERS_AT_ONCE: Final = 32
"""Newcomers who are served in one pass of the loop. A handshake's signature takes half a millisecond to one:
who is in waits for so many at most, and newcomers have most of a core all the same."""

_GROWTH: Final = 16
"""Frames by which each undisturbed turn is longer than the one before."""


class Turns:
    """Numbers the turns that connections take, so that one which is alone can take longer ones.

    The more frames a turn has, the fewer system calls there are for each; but whoever comes with a
    single frame waits for everybody's turn to end. So the longest turns go to a connection that has
    been alone for some, and they are short again as soon as there is somebody else.
    """

    def __init__(self) -> None:
        #: The number of the latest turn.
        self.latest = 0

    def begin(self, previous: int, frames: int) -> int:
        """Begin a turn; how many frames it may have.

        Its connection's previous one was number ``previous`` and might have had ``frames``.
        """
        self.latest += 1
        # Everybody who has something to read had a turn in between.
        takers = self.latest - previous
        if takers == 1:
            return min(frames + _GROWTH, FRAMES_PER_BATCH)
        return max(FRAMES_PER_BATCH // takers, LEAST_FRAMES)


class Gate:
    """Lets a few newcomers through in each pass of trio's loop, in the order in which they came.

    In one pass, all tasks run that have something to do. Whoever is in does a little at a time there; but
    thousands who come at once would do much, each, before anybody else is served again.
    """

    def __init__(self) -> None:
        self._places = trio.Semaphore(NEWCOMERS_AT_ONCE)

    @contextmanager
    def approached(self) -> Iterator["Place"]:
        """A newcomer's place, for as long as he is one; he does not have it yet."""
        place = Place(self._places)
        try:
            yield place
        finally:
            place.leave()


class Place:
    """What a newcomer has while he is served, and not while he waits for his peer."""

    __slots__ = ("_held", "_places")

    def __init__(self, places: trio.Semaphore) -> None:
        self._places = places
        self._held = False

    async def enter(self) -> None:
        """Wait to be let through, unless nobody else is there: then this is no checkpoint.

        From what costs much until `leave` there must be one: by then others have run.
        """
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            await self._places.acquire()
        self._held = True

    def leave(self) -> None:
        """Give the place back, if it is held."""
        if self._held:
            self._held = False
            self._places.release()
