"""Events as log entries: which of them, in what form, and where to."""

import os
from collections.abc import Callable, Mapping
from typing import Final

import trio

from relayd.ops.events import (
    LEVELS,
    EntriesLost,
    EntriesWithheld,
    Event,
    JournalUnavailable,
    Level,
    Limit,
    Stopped,
)
from relayd.ops.journal import SOCKET, JournalSocket, as_entry, is_journal
from relayd.ops.lines import as_json, as_text
from relayd.ops.output import Output, open_sink

__all__ = ["Log"]

_REPORT_INTERVAL: Final = 10.0
"""Seconds from the first entry that is withheld to the count of them."""


class Log:
    """Writes events of its level and above to standard error, or to the journal.

    It never waits. `run` must run beside it, to write what could not be written at once and to report
    what was withheld; and `close` ends it.
    """

    def __init__(
        self,
        fd: int | None,
        *,
        level: Level,
        log_format: str,
        environment: Mapping[str, str] = os.environ,
        journal_socket: str = SOCKET,
    ) -> None:
        """``fd`` is standard error's, or None if there is none; raises OSError if it is not open.

        ``log_format`` is "journal", "text", "json", or "auto": the journal if ``fd`` leads there, text if it
        is a terminal, otherwise JSON. Where no journal is, "journal" is as "auto", and an entry says so.
        ``environment`` has JOURNAL_STREAM, and NO_COLOR and TERM.
        """
        terminal = fd is not None and os.isatty(fd)
        # A chroot may have cut the one way to the journal, and left the other.
        reachable = os.access(journal_socket, os.W_OK)
        missing = log_format == "journal" and not reachable
        if log_format == "auto" and reachable and fd is not None and is_journal(fd, environment):
            log_format = "journal"
        elif log_format == "auto" or missing:
            log_format = "text" if terminal else "json"
        self._encode: Callable[[Event], bytes]
        if log_format == "journal":
            self._encode = as_entry
        elif log_format == "text":
            plain = environment.get("NO_COLOR") or environment.get("TERM", "dumb") == "dumb"
            self._encode = as_text(colour=terminal and not plain)
        else:
            self._encode = as_json
        sink = JournalSocket(journal_socket) if log_format == "journal" else open_sink(fd)
        self._output = Output(sink, lambda count: self._encode(EntriesLost(count)))
        #: The least important level that is shown; it may be set at any time.
        self.level: Level = level
        # For each event with a limit, how much of its burst was used up, and when.
        self._spent: dict[str, tuple[float, float]] = {}
        self._withheld: dict[str, int] = {}
        self._withholding = trio.lowlevel.ParkingLot()
        if missing:
            # Whatever the level: who looks for the others in the journal finds none.
            self._output.put(self._encode(JournalUnavailable(journal_socket)))

    def emit(self, event: Event) -> None:
        """Log ``event``, if it is important enough and not one too many. Never raises, never waits."""
        if isinstance(event, Stopped):
            # The last entry: what was withheld stands before it.
            self._report()
        if LEVELS.index(event.level) < LEVELS.index(self.level):
            return
        if event.limit is None or self._admits(event.name, event.limit):
            self._output.put(self._encode(event))

    async def run(self) -> None:
        """Write what could not be written at once, and report what was withheld, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._output.retry)
                nursery.start_soon(self._report_in_turn)
        finally:
            self._report()
            await self._output.finish()

    def close(self) -> None:
        """Give back what it was written with, after `run` has ended."""
        self._output.close()

    def _admits(self, name: str, limit: Limit) -> bool:
        now = trio.current_time()
        spent, since = self._spent.get(name, (0.0, now))
        spent = max(0.0, spent - (now - since) * limit.per_second) + 1
        if spent > limit.burst:
            self._withheld[name] = self._withheld.get(name, 0) + 1
            self._withholding.unpark_all()
            return False
        self._spent[name] = (spent, now)
        return True

    async def _report_in_turn(self) -> None:
        while True:
            if not self._withheld:
                await self._withholding.park()
            await trio.sleep(_REPORT_INTERVAL)
            self._report()

    def _report(self) -> None:
        withheld, self._withheld = self._withheld, {}
        for name, count in withheld.items():
            # Whatever the level: an entry of that level is missing.
            self._output.put(self._encode(EntriesWithheld(name, count)))
