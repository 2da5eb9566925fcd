"""Which events are logged, how often, and how they look."""

import json
import os
import pty
import select
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from relayd.ops.events import (
    CHURN,
    FAULTS,
    ClaimRefused,
    Level,
    Listening,
    PhoneRefused,
    ReloadRefused,
    RequestRefused,
    Stopped,
)
from relayd.ops.log import Log
from tests.ops.examples import REGISTERED

REFUSED = PhoneRefused("demo", "192.0.2.1:5", "Pixel 8", 4404, "no server with that id")
REQUEST = RequestRefused("192.0.2.1:5", 404)
CLAIM = ClaimRefused("demo", "192.0.2.1:5", "1.0")


class LogFile:
    """A log in JSON, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        with path.open("w") as file:
            self.log = Log(file.fileno(), level="debug", log_format="json", environment={})

    def entries(self) -> list[dict[str, Any]]:
        """The entries that have come since this was asked last."""
        lines = self._path.read_text().splitlines()
        new, self._read = lines[self._read :], len(lines)
        return [json.loads(line) for line in new]

    def names(self) -> list[str]:
        """Their names."""
        return [entry["event"] for entry in self.entries()]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[LogFile]:
    file = LogFile(tmp_path / "log")
    with closing(file.log):
        yield file


async def test_two_storms_of_5000_phones_are_logged_to_the_last_one(
    file: LogFile, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(10_000):
        file.log.emit(REGISTERED)
        file.log.emit(REFUSED)
    assert len(file.entries()) == 20_000


async def test_beyond_its_burst_an_event_is_withheld_and_counted(
    file: LogFile, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.log.run)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(FAULTS.burst + 50):
            file.log.emit(REQUEST)
        assert file.names() == ["request_refused"] * FAULTS.burst
        await trio.sleep(9.9)
        assert file.names() == []
        await trio.sleep(0.2)
        (report,) = file.entries()
        assert (
            report.items()
            >= {
                "level": "warning",
                "event": "entries_withheld",
                "event_name": "request_refused",
                "count": 50,
            }.items()
        )
        await trio.sleep(600)
        assert file.names() == []
        nursery.cancel_scope.cancel()


async def test_after_its_burst_an_event_comes_at_its_rate_and_a_quiet_time_brings_the_burst_back(
    file: LogFile, autojump_clock: trio.testing.MockClock
) -> None:
    def admitted(attempts: int) -> int:
        for _ in range(attempts):
            file.log.emit(REFUSED)
        return file.names().count("phone_refused")

    assert admitted(2 * CHURN.burst) == CHURN.burst
    assert admitted(100) == 0
    await trio.sleep(1.01)
    assert admitted(100) == CHURN.per_second
    await trio.sleep(CHURN.burst / CHURN.per_second + 1)
    assert admitted(2 * CHURN.burst) == CHURN.burst


async def test_a_flood_of_one_event_takes_nothing_from_another(
    file: LogFile, autojump_clock: trio.testing.MockClock
) -> None:
    for _ in range(FAULTS.burst + 1):
        file.log.emit(REQUEST)
    file.entries()
    file.log.emit(CLAIM)
    file.log.emit(Listening("here"))
    assert file.names() == ["claim_refused", "listening"]


async def test_what_is_below_the_level_uses_up_nothing_and_is_not_counted(
    file: LogFile, autojump_clock: trio.testing.MockClock
) -> None:
    file.log.level = "info"
    for _ in range(2 * FAULTS.burst):
        file.log.emit(REQUEST)
    assert file.names() == []
    file.log.level = "debug"
    for _ in range(FAULTS.burst):
        file.log.emit(REQUEST)
    assert file.names() == ["request_refused"] * FAULTS.burst


async def test_what_was_withheld_is_said_in_the_end_even_if_only_errors_are_logged(
    file: LogFile, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.log.run)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(FAULTS.burst + 3):
            file.log.emit(CLAIM)
        file.log.level = "error"
        nursery.cancel_scope.cancel()
    assert [entry["count"] for entry in file.entries()[FAULTS.burst :]] == [3]


async def test_stopped_is_the_last_entry_and_what_was_withheld_stands_before_it(
    file: LogFile, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.log.run)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(FAULTS.burst + 3):
            file.log.emit(CLAIM)
        file.log.emit(Stopped(0))
        nursery.cancel_scope.cancel()
    withheld, stopped = file.entries()[FAULTS.burst :]
    assert (withheld["event"], withheld["count"]) == ("entries_withheld", 3)
    assert stopped["event"] == "stopped"


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    reading, writing = pty.openpty()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("log_format", "environment", "coloured"),
    [
        ("auto", {"TERM": "xterm"}, True),
        ("text", {"TERM": "xterm", "NO_COLOR": ""}, True),
        ("auto", {"TERM": "xterm", "NO_COLOR": "1"}, False),
        ("auto", {"TERM": "dumb"}, False),
        ("auto", {}, False),
    ],
)
def test_a_terminal_gets_text_in_colour_unless_it_is_not_wanted(
    log_format: str, environment: dict[str, str], coloured: bool
) -> None:
    with terminal() as (reading, writing):
        log = Log(writing, level="info", log_format=log_format, environment=environment)
        with closing(log):
            log.emit(Listening("127.0.0.1:8080"))
        assert select.select([reading], [], [], 20)[0]
        line = os.read(reading, 4096).decode()
    assert "listening" in line
    assert ("\x1b[" in line) == coloured
    assert line.replace("\x1b[2m", "").replace("\x1b[0m", "").endswith(" address=127.0.0.1:8080\r\n")
    assert line.replace("\x1b[", "").strip().isprintable()


def test_text_in_a_file_has_no_colour(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        log = Log(file.fileno(), level="info", log_format="text", environment={"TERM": "xterm"})
    with closing(log):
        log.emit(ReloadRefused("max-phones: it is 0"))
    line = (tmp_path / "log").read_text()
    assert line.endswith(' error   reload_refused error="max-phones: it is 0"\n')
    assert line[:-1].isprintable()


@pytest.mark.parametrize("level", ["info", "error"])
def test_where_no_journal_is_the_first_entry_says_so_and_entries_go_to_standard_error(
    tmp_path: Path, level: Level
) -> None:
    path = tmp_path / "log"
    with path.open("w") as file:
        log = Log(
            file.fileno(),
            level=level,
            log_format="journal",
            environment={},
            journal_socket=str(tmp_path / "none"),
        )
    with closing(log):
        log.emit(ReloadRefused("max-phones: it is 0"))
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert (first["event"], first["path"]) == ("journal_unavailable", str(tmp_path / "none"))
    assert second["event"] == "reload_refused"
