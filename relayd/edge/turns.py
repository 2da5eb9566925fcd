"""How much of the loop's time a connection may take at once."""

from typing import Final

from relayd.wire.frames import FRAMES_PER_BATCH

__all__ = ["LEAST_FRAMES", "Turns"]

LEAST_FRAMES: Final = 64
"""Frames that every turn may have, however many connections take turns: with fewer, the system calls of
each turn cost more than its frames."""

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
