"""Places on a listener that one or two are to reach at any time, whoever else dials it."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from relayd.edge.client import peer_of
from relayd.edge.stream import PlainStream
from relayd.ops.events import Bound, Emit, LimitReached

__all__ = ["Places"]


class Places:
    """So many connections at a time. For one more, the oldest is hung up on.

    Whoever is expected asks at once and is gone. Those who say nothing would keep him out, if one more were
    refused; so they have to make room.
    """

    def __init__(self, most: int, bound: Bound, emit: Emit) -> None:
        self._most = most
        self._bound: Bound = bound
        self._emit = emit
        # The oldest first.
        self._taken: dict[trio.CancelScope, str] = {}

    @contextmanager
    def taken(self, stream: PlainStream) -> Iterator[None]:
        """One of them for ``stream``, during the body, which is cancelled when it has to make room."""
        if len(self._taken) == self._most:
            oldest, remote = next(iter(self._taken.items()))
            del self._taken[oldest]
            oldest.cancel()
            self._emit(LimitReached(self._bound, remote))
        with trio.CancelScope() as scope:
            self._taken[scope] = str(peer_of(stream.socket) or "gone")
            try:
                yield
            finally:
                self._taken.pop(scope, None)
