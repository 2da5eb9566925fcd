"""``relayd top``: every connection of a running relayd, live, in the terminal."""

import argparse
import curses
import locale
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from heapq import nlargest
from typing import Any, Final

from attrs import frozen

from relayd.commands.admin_client import Unanswered, ask, configure_socket, socket_path
from relayd.commands.units import duration, size

__all__ = ["SORTS", "Row", "Sample", "configure", "lines", "run", "sampled"]

_INTERVAL: Final = 2.0
"""Seconds from one picture to the next sample. A slow terminal makes it longer."""

SORTS: Final = {"r": "rate", "b": "backlog", "a": "age", "t": "round trip"}
"""By key: what the rows are sorted by, the largest first."""

_LAYOUT: Final = "{:>6} {:>8} {:>8} {:>8} {:>8}  {:<24}  {:<{width}}  {:<21}  {}"
_TITLES: Final = ("AGE", "RTT", "BACKLOG", "IN/s", "OUT/s", "CONN", "SERVER-ID", "REMOTE", "NAME")
_HEAD_LINES: Final = 4
"""The last of them has the titles."""

_WIDEST: Final = 36
"""Characters that the column of server-ids grows to; a longer one moves what is behind it."""


@frozen
class Row:
    """One connection, or a server-id in its grace window."""

    server_id: str
    #: A phone's conn_id, "binary", or "grace" and the time left.
    conn: str
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


def lines(sample: Sample, sort: str, height: int) -> list[str]:
    """The picture: a head, and rows as far as ``height`` lines go, sorted by a value of `SORTS`."""
    binaries = sum(row.conn == "binary" for row in sample.rows)
    grace = sum(row.conn.startswith("grace") for row in sample.rows)
    phones = len(sample.rows) - binaries - grace
    room = max(height - _HEAD_LINES, 0)
    shown = nlargest(room, sample.rows, key=lambda row: _sort_value(row, sample, sort))
    width = min(max(len("SERVER-ID"), *(len(row.server_id) for row in shown), 0), _WIDEST)
    keys = "  ".join(f"{key} {name}" for key, name in SORTS.items())
    return [
        f"relayd up {duration(sample.uptime)}: binaries {binaries}, phones {phones}, in grace {grace}",
        _summary(sample),
        f"sorted by {sort}, {len(shown)} of {len(sample.rows)};  {keys}  q quit",
        *(
            _LAYOUT.format(*cells, width=width).rstrip()
            for cells in (_TITLES, *(_cells(row, sample) for row in shown))
        ),
    ]


def _rows(document: Mapping[str, Any]) -> Iterator[Row]:
    for server in document["servers"]:
        server_id, binary = server["server_id"], server["binary"]
        if binary is not None:
            yield _row(server_id, "binary", binary["version"], binary)
        else:
            left = server["grace_seconds_left"] or 0.0
            yield Row(server_id, f"grace, {duration(left)} left", "", "", 0, None, 0, 0, 0, 0, 0)
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
    # The name comes last: its characters may be two columns wide.
    rates = _NO_RATES if sample.rates is None else sample.rates[row.key]
    return (
        duration(row.age) if row.remote else "-",
        "-" if row.round_trip is None else duration(row.round_trip),
        size(row.backlog),
        "-" if sample.rates is None else size(rates.bytes_in),
        "-" if sample.rates is None else size(rates.bytes_out),
        row.conn,
        row.server_id,
        row.remote,
        row.name,
    )


def _watch(screen: "curses.window", path: str, sample: Sample) -> None:
    with suppress(curses.error):
        curses.curs_set(0)
    sort = SORTS["r"]
    while True:
        _draw(screen, sample, sort)
        deadline = time.monotonic() + _INTERVAL
        while (left := deadline - time.monotonic()) > 0:
            screen.timeout(max(int(left * 1000), 1))
            pressed = screen.getch()
            if pressed == ord("q"):
                return
            sort = SORTS.get(chr(max(pressed, 0)), sort)
            if pressed != -1:
                _draw(screen, sample, sort)
        sample = sampled(ask(path, "GET", "connections"), sample)


def _draw(screen: "curses.window", sample: Sample, sort: str) -> None:
    """Draw anew; curses sends the terminal only what is different."""
    height, width = screen.getmaxyx()
    screen.erase()
    for y, line in enumerate(lines(sample, sort, height)[:height]):
        # A window that has just become smaller, or a corner that cannot be written, is no reason to stop.
        with suppress(curses.error):
            screen.addnstr(y, 0, line, width - 1, curses.A_REVERSE if y == _HEAD_LINES - 1 else curses.A_NORMAL)
    screen.refresh()
