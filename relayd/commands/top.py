"""``relayd top``: every connection of a running relayd, live, in the terminal."""

import argparse
import curses
import locale
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from heapq import nlargest
from math import ceil
from typing import Any, Final

from attrs import frozen

from relayd.commands.admin_client import Unanswered, ask, configure_socket, socket_path
from relayd.commands.columns import Column, table
from relayd.commands.units import duration, size

__all__ = ["SORTS", "Row", "Sample", "configure", "lines", "run", "sampled"]

_INTERVAL: Final = 2.0
"""Seconds from one picture to the next sample. A slow terminal makes it longer."""

SORTS: Final = {"r": "rate", "b": "backlog", "a": "age", "t": "round trip"}
"""By key: what the rows are sorted by, the largest first."""

_RETRY: Final = 1.0
"""The same in seconds, while there is no answer."""

_COLUMNS: Final = (
    Column("AGE", 6, right=True, dispensable=3),
    Column("RTT", 6, right=True, dispensable=4),
    Column("BACKLOG", 7, right=True),
    Column("IN/s", 5, right=True),
    Column("OUT/s", 5, right=True),
    Column("CONN", 8),
    Column("SERVER-ID", 9),
    Column("REMOTE", 15, dispensable=1),
    Column("NAME", 10, dispensable=2),
)
"""At their narrowest all of them fit in 80 columns of a terminal."""

_SORTED: Final = {"age": "AGE", "round trip": "RTT"}
"""Columns that are shown for the sake of the order, however narrow it gets."""


@frozen
class Row:
    """One connection, or a server-id in its grace window."""

    server_id: str
    #: A phone's conn_id, "binary" or "grace".
    conn: str
    #: In grace the time left.
    remote: str
    #: A phone's device name, a binary's version.
    name: str
    #: Seconds.
    age: float
    #: Seconds; None before the first pong.
    round_trip: float | None
    #: Bytes.
    backlog: int
    frames_in: int
    frames_out: int
    bytes_in: int
    bytes_out: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is known by from one sample to the next."""
        return self.server_id, self.conn, self.remote


@frozen
class Rates:
    """Per second, between two samples."""

    frames_in: float
    frames_out: float
    bytes_in: float
    bytes_out: float


_NO_RATES: Final = Rates(0, 0, 0, 0)


@frozen
class Sample:
    """Every connection at one moment."""

    uptime: float
    rows: tuple[Row, ...]
    #: By `Row.key`; None in the first sample.
    rates: Mapping[tuple[str, str, str], Rates] | None = None


def configure(parser: argparse.ArgumentParser) -> None:
    """Take the way to the admin socket."""
    configure_socket(parser)


def run(options: argparse.Namespace) -> int:
    """Watch until q. Raises `relayd.commands.admin_client.Unanswered`, `relayd.configuration.BadSetting`."""
    path = socket_path(options)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Unanswered("top draws on a terminal, and this is none: `relayd status --json` is for programs")
    locale.setlocale(locale.LC_ALL, "")
    first = sampled(ask(path, "GET", "connections"), None)
    try:
        curses.wrapper(_watch, path, first)
    except curses.error as error:
        raise Unanswered(f"top cannot draw here ({error}): set TERM to what this terminal is") from None
    except KeyboardInterrupt:
        pass
    return 0


def sampled(document: Mapping[str, Any], before: Sample | None) -> Sample:
    """The document of ``/connections``, with rates since the sample ``before`` it."""
    uptime, rows = document["uptime_seconds"], tuple(_rows(document))
    if before is None or uptime <= before.uptime:  # the first, or of another process
        return Sample(uptime, rows)
    known = {row.key: row for row in before.rows}
    elapsed = uptime - before.uptime
    return Sample(uptime, rows, {row.key: _rates(row, known.get(row.key), elapsed) for row in rows})


def lines(
    sample: Sample, sort: str, height: int, width: int, notice: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """The picture: its head; then titles, and rows as far as ``height`` goes, sorted by a value of `SORTS`.

    A ``notice`` takes the place of the rates of all together.
    """
    binaries = sum(row.conn == "binary" for row in sample.rows)
    grace = sum(row.conn == "grace" for row in sample.rows)
    phones = len(sample.rows) - binaries - grace
    head = [
        f"relayd up {duration(sample.uptime)}: binaries {binaries}, phones {phones}, in grace {grace}",
        *(notice or [_summary(sample)]),
    ]
    room = max(height - len(head) - 2, 0)
    shown = nlargest(room, sample.rows, key=lambda row: _sort_value(row, sample, sort))
    keys = "  ".join(f"{key} {name}" for key, name in SORTS.items())
    head.append(f"{len(shown)} of {len(sample.rows)} by {sort};  {keys}  q quit")
    keep = [_SORTED[sort]] if sort in _SORTED else []
    return head, table(_COLUMNS, [_cells(row, sample) for row in shown], width, keep)


def _rows(document: Mapping[str, Any]) -> Iterator[Row]:
    for server in document["servers"]:
        server_id, binary = server["server_id"], server["binary"]
        if binary is not None:
            yield _row(server_id, "binary", binary["version"], binary)
        else:
            left = server["grace_seconds_left"] or 0.0
            yield Row(server_id, "grace", f"{duration(left)} left", "", 0, None, 0, 0, 0, 0, 0)
        for phone in server["phones"]:
            yield _row(server_id, phone["conn_id"], phone["device_name"], phone)


def _row(server_id: str, conn: str, name: str, connection: Mapping[str, Any]) -> Row:
    return Row(
        server_id,
        conn,
        connection["remote"],
        name,
        connection["age_seconds"],
        connection["round_trip_seconds"],
        connection["backlog_bytes"],
        connection["frames_in"],
        connection["frames_out"],
        connection["bytes_in"],
        connection["bytes_out"],
    )


def _rates(row: Row, before: Row | None, elapsed: float) -> Rates:
    # What a connection that was not there before has carried, it has carried since. So has a binary
    # that came back under the same name: its counts began anew.
    if before is None or row.age < before.age:
        before = Row(*row.key, "", 0, None, 0, 0, 0, 0, 0)
    return Rates(
        (row.frames_in - before.frames_in) / elapsed,
        (row.frames_out - before.frames_out) / elapsed,
        (row.bytes_in - before.bytes_in) / elapsed,
        (row.bytes_out - before.bytes_out) / elapsed,
    )


def _sort_value(row: Row, sample: Sample, sort: str) -> float:
    match sort:
        case "backlog":
            return row.backlog
        case "age":
            return row.age
        case "round trip":
            return -1 if row.round_trip is None else row.round_trip
    rates = _NO_RATES if sample.rates is None else sample.rates[row.key]
    return rates.bytes_in + rates.bytes_out


def _summary(sample: Sample) -> str:
    if sample.rates is None:
        return "rates come with the second sample"
    every = sample.rates.values()
    frames_in, bytes_in = sum(each.frames_in for each in every), sum(each.bytes_in for each in every)
    frames_out, bytes_out = sum(each.frames_out for each in every), sum(each.bytes_out for each in every)
    return (
        f"in {size(frames_in, '')} frames/s, {size(bytes_in)}/s   "
        f"out {size(frames_out, '')} frames/s, {size(bytes_out)}/s"
    )


def _cells(row: Row, sample: Sample) -> tuple[str, ...]:
    rates = _NO_RATES if sample.rates is None else sample.rates[row.key]
    return (
        "-" if row.conn == "grace" else duration(row.age),
        "-" if row.round_trip is None else duration(row.round_trip),
        size(row.backlog),
        "-" if sample.rates is None else size(rates.bytes_in),
        "-" if sample.rates is None else size(rates.bytes_out),
        row.conn,
        row.server_id,
        row.remote,
        row.name,
    )


class _Quit(Exception):
    """Somebody has pressed q."""


class _Window:
    """What is on the terminal, and the keys that are pressed there."""

    def __init__(self, screen: "curses.window", path: str, first: Sample) -> None:
        self._screen = screen
        self._path = path
        self._sample = first
        self._sort = SORTS["r"]
        #: By the monotonic clock: when the daemon last answered, and the picture was last drawn.
        self._answered = self._drawn = time.monotonic()
        #: Why it has not since; empty if it has.
        self._failure = ""

    def watch(self) -> None:
        """Raises `_Quit` in the end. A daemon that goes away is waited for."""
        while True:
            self._draw()
            due = time.monotonic() + (_RETRY if self._failure else _INTERVAL)
            while (left := due - time.monotonic()) > 0:
                self._key(left)
            try:
                document = ask(self._path, "GET", "connections", meanwhile=self._meanwhile)
            except Unanswered as failure:
                self._failure = str(failure)
            else:
                # What comes after a gap may be another process.
                self._sample = sampled(document, None if self._failure else self._sample)
                self._failure, self._answered = "", time.monotonic()

    def _meanwhile(self) -> None:
        """What goes on while a question waits for its answer."""
        self._key(0)
        if self._failure and time.monotonic() - self._drawn > _RETRY:
            self._draw()

    def _key(self, seconds: float) -> None:
        """Wait so long for a key, and do what it means. Raises `_Quit`."""
        self._screen.timeout(ceil(seconds * 1000))
        pressed = self._screen.getch()
        if pressed == ord("q"):
            raise _Quit
        self._sort = SORTS.get(chr(max(pressed, 0)), self._sort)
        if pressed != -1:
            self._draw()

    def _draw(self) -> None:
        """Draw anew; curses sends the terminal only what is different."""
        height, width = self._screen.getmaxyx()
        head, rows = lines(self._sample, self._sort, height, width - 1, self._notice(width - 1))
        self._screen.erase()
        for y, line in enumerate([*head, *rows][:height]):
            # A window that has just become smaller, or a corner that cannot be written, is no reason to stop.
            with suppress(curses.error):
                self._screen.addnstr(
                    y, 0, line, width - 1, curses.A_REVERSE if y == len(head) else curses.A_NORMAL
                )
        self._screen.refresh()
        self._drawn = time.monotonic()

    def _notice(self, width: int) -> list[str]:
        if not self._failure:
            return []
        silent = time.monotonic() - self._answered
        return textwrap.wrap(
            f"no answer since {silent:.0f} s; waiting for it: {self._failure}",
            max(width, 1),
            break_on_hyphens=False,
        )


def _watch(screen: "curses.window", path: str, first: Sample) -> None:
    with suppress(curses.error):
        curses.curs_set(0)
    with suppress(_Quit):
        _Window(screen, path, first).watch()
