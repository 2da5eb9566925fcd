"""The heartbeat (contract: "Heartbeat"): a ping every interval, and a dead peer is gone.

One task keeps the time for all connections. A task and a timer for each cost more than the pings
themselves: see `docs/performance.md`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import trio

from relayd.routing.connection import Connection
from relayd.wire.close import HEARTBEAT_TIMEOUT

__all__ = ["Heartbeats", "let_readers_read"]

_EARLY: Final = 1 / 500
"""Part of the interval by which a ping may be early, so that pings that are nearly due go out together."""

_PER_TURN: Final = 64
"""Pings sent before other tasks have their turn: after a storm, thousands may be due at once."""


async def let_readers_read() -> None:
    """Before a peer is judged by the clock: have whatever already lies in the sockets read.

    We may be late, and after SIGSTOP the kernel has the answers to all that was asked before, but the first
    thing that trio hears of is the time: `select.epoll.poll`, interrupted and past its end, does not look
    at the sockets again (CPython's select module). One checkpoint has trio look, and the readers
    may have their turn after ours; with the second one they have had it.
    """
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()


class Heartbeats:
    """The clock of every connection's heartbeat; `run` must run beside it."""

    def __init__(self, *, interval: float, timeout: float) -> None:
        """``interval`` and ``timeout`` are seconds."""
        self._interval = interval
        self._timeout = timeout
        # When each connection's next ping is due; and, of those that have been pinged, when they have to
        # have been heard, and how often they had been before. The earliest first, in both: every interval
        # is equally long, and so is every timeout.
        self._due: OrderedDict[Connection, float] = OrderedDict()
        self._awaited: OrderedDict[Connection, tuple[float, int]] = OrderedDict()
        self._begun = trio.lowlevel.ParkingLot()

    @contextmanager
    def keeping(self, connection: Connection) -> Iterator[None]:
        """Ping ``connection`` every interval; end it when the timeout passes without a sign of life.

        On leaving, that is over; nothing is closed.
        """
        self._due[connection] = trio.current_time() + self._interval
        self._begun.unpark()
        try:
            yield
        finally:
            del self._due[connection]
            self._awaited.pop(connection, None)

    async def run(self) -> NoReturn:
        """Keep time until cancelled."""
        while True:
            if not self._due:
                await self._begun.park()
            await trio.sleep_until(min(self._first_due(), self._first_deadline()))
            await let_readers_read()
            self._judge()
            self._ping()

    def _first_due(self) -> float:
        return next(iter(self._due.values()), trio.current_time())

    def _first_deadline(self) -> float:
        return next(iter(self._awaited.values()), (float("inf"), 0))[0]

    def _judge(self) -> None:
        """End those that have had their time to answer and were not heard."""
        now = trio.current_time()
        while self._first_deadline() <= now:
            connection, (_, heard) = self._awaited.popitem(last=False)
            # While its bytes are left in its socket, a peer cannot be heard.
            if connection.signs_of_life == heard and connection.reading:
                connection.end(HEARTBEAT_TIMEOUT)

    def _ping(self) -> None:
        """Ping those that are due, or nearly."""
        now = trio.current_time()
        horizon = now + self._interval * _EARLY
        for _ in range(min(_PER_TURN, len(self._due))):
            connection, due = next(iter(self._due.items()))
            if due > horizon:
                break
            self._due[connection] = max(due, now) + self._interval
            self._due.move_to_end(connection)
            heard = connection.signs_of_life
            if self._awaited.get(connection, (0.0, -1))[1] != heard:
                self._awaited[connection] = now + self._timeout, heard
                self._awaited.move_to_end(connection)
            connection.ping()
