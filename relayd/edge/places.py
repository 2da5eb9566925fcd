"""Places on a listener that one or two are to reach at any time, whoever else dials it."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from relayd.edge.client import peer_of
from relayd.edge.stream import PlainStream
from relayd.ops.events import Bound, Emit, InternalError, LimitReached

__all__ = ["Places"]


class Places:
    """So many connections at a time. For one more, the oldest is hung up on.

    Whoever is expected asks at once and is gone. Those who say nothing would keep him out, if one more were
    refused; so they have to make room.
    """

    def __init__(self, most: int, bound: Bound, listener: str, emit: Emit) -> None:
        """``listener`` is what its errors are reported of."""
        self._most = most
        self._bound: Bound = bound
        self._listener = listener
        self._emit = emit
        # The oldest first.
        self._taken: dict[trio.CancelScope, str] = {}

    @contextmanager
    def serving(self, stream: PlainStream) -> Iterator[None]:
        """A place for ``stream``, which is closed in the end, whatever the body raises: that costs nobody else.

        The body is cancelled when it has to make room.
        """
        try:
            with self._place_of(stream):
                yield
        except* Exception as errors:  # noqa: BLE001 (a bug here must not cost a single connection)
            self._emit(InternalError.of(self._listener, errors))
        finally:
            stream.close()

    @contextmanager
    def _place_of(self, stream: PlainStream) -> Iterator[None]:
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
