"""`relayd top`: what it computes, and what it draws on a terminal."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from relayd.commands.top import SORTS, lines, sampled
from relayd.commands.units import duration, size
from tests.admin.conftest import AdminRelay
from tests.contract.peers import peers_at
from tests.relay_process import WAIT, until


def connection(**values: object) -> dict[str, Any]:
    return {
        "conn_id": "c-1",
        "device_name": "",
        "version": "1",
        "remote": "127.0.0.1:1",
        "age_seconds": 100.0,
        "round_trip_seconds": None,
        "backlog_bytes": 0,
        "frames_in": 0,
        "bytes_in": 0,
        "frames_out": 0,
        "bytes_out": 0,
        **values,
    }


def document(uptime: float, *phones: dict[str, Any], **binary: object) -> dict[str, Any]:
    server = {
        "server_id": "s",
        "grace_seconds_left": None,
        "binary": connection(**binary),
        "phones": list(phones),
    }
    return {"uptime_seconds": uptime, "servers": [server]}


def test_rates_are_what_was_carried_between_two_samples_by_the_relays_own_clock() -> None:
    before = sampled(document(10, connection(bytes_in=1000, frames_out=5)), None)
    assert before.rates is None
    after = sampled(document(14, connection(bytes_in=9000, frames_out=7)), before)
    assert after.rates is not None
    rates = after.rates["s", "c-1", "127.0.0.1:1"]
    assert (rates.bytes_in, rates.frames_out, rates.bytes_out) == (2000, 0.5, 0)


def test_what_is_new_has_carried_all_of_it_since_and_so_has_a_binary_under_a_known_name() -> None:
    before = sampled(document(10, bytes_out=5000, remote="unix"), None)
    new = document(12, connection(bytes_in=400, age_seconds=1), bytes_out=100, age_seconds=1, remote="unix")
    after = sampled(new, before)
    assert after.rates is not None
    assert after.rates["s", "c-1", "127.0.0.1:1"].bytes_in == 200
    assert after.rates["s", "binary", "unix"].bytes_out == 50


def test_after_a_restart_there_are_no_rates_until_the_second_sample() -> None:
    before = sampled(document(1000, bytes_out=5000), None)
    assert sampled(document(1, bytes_out=0), before).rates is None


@pytest.mark.parametrize(
    ("sort", "first"), [("rate", "c-rate"), ("backlog", "c-back"), ("age", "c-old"), ("round trip", "c-slow")]
)
def test_rows_are_sorted_by_the_chosen_value_the_largest_first(sort: str, first: str) -> None:
    quiet = [connection(conn_id=f"c-{name}", round_trip_seconds=0.001) for name in ("rate", "x")]
    loud = [
        connection(conn_id="c-rate", bytes_in=500, bytes_out=500),
        connection(conn_id="c-back", backlog_bytes=9, bytes_in=900),
        connection(conn_id="c-old", age_seconds=3000.0),
        connection(conn_id="c-slow", round_trip_seconds=0.5),
    ]
    sample = sampled(document(12, *loud), sampled(document(10, *quiet, connection(conn_id="c-back")), None))
    assert sort in SORTS.values()
    head, shown = lines(sample, sort, 24, 80)
    assert f" {first}" in shown[1]
    assert f"5 of 5 by {sort};" in head[-1]


def test_no_more_lines_are_drawn_than_there_are_and_the_head_says_of_how_many() -> None:
    crowd = sampled(document(1, *(connection(conn_id=f"c-{number}") for number in range(500))), None)
    head, shown = lines(crowd, "age", 24, 80)
    assert (len(head), len(shown)) == (3, 1 + 20)
    assert "20 of 501" in head[-1]
    head, shown = lines(crowd, "age", 24, 80, ("no answer", "for long"))
    assert head[1:3] == ["no answer", "for long"]
    assert (len(head), len(shown)) == (4, 1 + 19)
    assert len(lines(crowd, "age", 2, 80)[1]) == 1


@pytest.mark.parametrize("sort", SORTS.values())
def test_in_80_columns_every_column_has_a_useful_part_of_what_is_in_it(sort: str) -> None:
    server = {
        "server_id": "a-rather-long-server-id",
        "grace_seconds_left": None,
        "binary": connection(remote="203.0.113.200:48282", version="1.0"),
        "phones": [
            connection(
                conn_id="c-V4HdApTeiApzjddJcqmSeA",
                remote="203.0.113.7:4096",
                device_name="Pixel 9 of Grüße",
                age_seconds=0.246,
                round_trip_seconds=0.246,
                backlog_bytes=999e3,
            )
        ],
    }
    crowd = sampled({"uptime_seconds": 8640000, "servers": [server]}, None)
    head, (titles, *rows) = lines(crowd, sort, 24, 79)
    assert max(map(len, (*head, titles, *rows))) <= 79
    assert titles == "   AGE    RTT BACKLOG  IN/s OUT/s CONN     SERVER-ID REMOTE          NAME"
    assert " 246ms  246ms   999kB     -     - c-V4HdA… a-rather… 203.0.113.7:40… Pixel 9 o…" in rows
    assert " 1m40s      -      0B     -     - binary   a-rather… 203.0.113.200:… 1.0" in rows


def test_where_there_is_more_room_nothing_is_cut() -> None:
    wide = document(1, connection(conn_id="c-V4HdApTeiApzjddJcqmSeA", remote="[2001:db8::1]:48282"))
    _, (titles, *rows) = lines(sampled(wide, None), "age", 24, 119)
    assert "OUT/s CONN                     SERVER-ID REMOTE              NAME" in titles
    assert any("c-V4HdApTeiApzjddJcqmSeA s         [2001:db8::1]:48282" in row for row in rows)


@pytest.mark.parametrize(
    ("width", "sort", "titles"),
    [
        (75, "rate", "AGE BACKLOG IN/s OUT/s CONN SERVER-ID REMOTE NAME"),
        (75, "round trip", "RTT BACKLOG IN/s OUT/s CONN SERVER-ID REMOTE NAME"),
        (66, "rate", "BACKLOG IN/s OUT/s CONN SERVER-ID REMOTE NAME"),
        (55, "rate", "BACKLOG IN/s OUT/s CONN SERVER-ID REMOTE"),
        (40, "age", "AGE BACKLOG IN/s OUT/s CONN SERVER-ID"),
        (1, "rate", "BACKLOG IN/s OUT/s CONN SERVER-ID"),
    ],
)
def test_a_narrow_terminal_costs_the_columns_that_are_missed_least_and_never_the_sorted_one(
    width: int, sort: str, titles: str
) -> None:
    _, (shown, *_) = lines(sampled(document(1), None), sort, 24, width)
    assert shown.split() == titles.split()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("电话" * 9, "电话电话…"),
        ("e\u0301" * 10, "e\u0301" * 10),
        ("0123456789", "0123456789"),
        ("0123456789a", "012345678…"),
    ],
)
def test_a_name_is_cut_where_a_terminal_has_no_more_columns_for_it(name: str, shown: str) -> None:
    remote = "203.0.113.200:48282"
    phone = connection(conn_id="c-V4HdApTeiApzjddJcqmSeA", remote=remote, device_name=name)
    _, rows = lines(sampled(document(1, phone), None), "age", 24, 79)
    assert any(row.endswith(f" 203.0.113.200:… {shown}") for row in rows)


def test_server_id_in_its_grace_window_is_a_row_with_the_time_left() -> None:
    server = {"server_id": "s", "grace_seconds_left": 27.5, "binary": None, "phones": []}
    head, shown = lines(sampled({"uptime_seconds": 1, "servers": [server]}, None), "rate", 24, 79)
    assert "in grace 1" in head[0]
    assert shown[1].split() == ["-", "-", "0B", "-", "-", "grace", "s", "27.5s", "left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00034, "340us"),
        (0.0009996, "1.0ms"),
        (0.0123, "12.3ms"),
        (0.09996, "100ms"),
        (0.246, "246ms"),
        (0.9996, "1.0s"),
        (5.2, "5.2s"),
        (59.99, "1m00s"),
        (785, "13m05s"),
        (7980, "2h13m"),
        (284400, "3d07h"),
        (8640000, "100d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert len(text) <= 6


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (999.4, "999B"),
        (999.6, "1.0kB"),
        (9940, "9.9kB"),
        (9960, "10kB"),
        (31e6, "31MB"),
        (5e12, "5TB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


class Terminal:
    """A terminal by tmux, with `relayd top` in it."""

    def __init__(self, server: Path, admin_socket: Path, columns: int, height: int) -> None:
        self._server = server
        # Ctrl-C reaches the shell as well, which is to survive it and say how top ended.
        top = f"{sys.executable} -m relayd top --admin-socket {admin_socket}"
        script = f"trap : INT; {top}; echo ended with $?; cat"
        size = ("-x", str(columns), "-y", str(height))
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "sh", "-c", script)

    def keys(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def shows(self, *parts: str, without: str = "\0") -> str:
        """The screen, once all ``parts`` are on it, wherever its lines end, and ``without`` is not."""

        def shown() -> str | None:
            screen = self.screen()
            text = " ".join(screen.split())
            return screen if all(part in text for part in parts) and without not in text else None

        try:
            return until(shown, f"screen with {parts}", pause=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}, but\n{self.screen()}") from None

    def ended_with(self, status: int) -> str:
        """Wait until it has ended; the screen."""
        return self.shows(f"ended with {status}")

    def close(self) -> None:
        self._tmux("kill-server")

    def _tmux(self, *arguments: str) -> str:
        # Workers of pytest-xdist have COLUMNS and LINES, which would be believed before the terminal is.
        given = ("RELAYD_", "COLUMNS", "LINES")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(given)}
        environment = {**clean, "RELAYD_CONFIG": "/dev/null", "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        try:
            done = subprocess.run(
                ["tmux", "-S", str(self._server), *arguments],
                capture_output=True,
                check=True,
                timeout=WAIT,
                env=environment,
            )
        except FileNotFoundError:
            pytest.fail("tmux is missing: install it")
        return done.stdout.decode()


@pytest.fixture
def terminal(tmp_path: Path) -> Callable[..., Any]:
    """``terminal(admin, columns, height)``: a context with `relayd top` at that relay, in a `Terminal`."""
    numbers = count()

    @contextmanager
    def watching(admin: AdminRelay, columns: int = 120, height: int = 30) -> Iterator[Terminal]:
        # Each has a server of its own, since the last one may still be ending.
        terminal = Terminal(tmp_path / f"tmux-{next(numbers)}", admin.path, columns, height)
        try:
            yield terminal
        finally:
            terminal.close()

    return watching


def test_top_shows_rows_sorts_by_keys_follows_what_happens_resizes_and_quits(
    admin: AdminRelay, terminal: Callable[..., Any]
) -> None:
    with peers_at(admin.relay, "demo") as peers, terminal(admin) as screen:
        device = {"x-pyrycode-token": "t", "x-pyrycode-device-name": "Grüße"}
        phone = peers.connect(
            "/v1/client", {key: value.encode().decode("latin-1") for key, value in device.items()}
        )
        phone.send("1")
        conn_id = admin.relay.event("phone_registered")["conn_id"]
        screen.shows("binaries 1, phones 1", "2 of 2 by rate", conn_id, "demo", "Grüße", "frames/s")
        for key, name in SORTS.items():
            screen.keys(key)
            screen.shows(f"2 of 2 by {name};")
        screen.resize(45, 6)
        small = screen.shows("binaries 1, phones 1", conn_id[:5], "…")
        assert "Grüße" not in small
        screen.resize(120, 20)
        screen.shows("Grüße")
        phone.close()
        screen.shows("binaries 1, phones 0", "1 of 1")
        screen.keys("q")
        screen.ended_with(0)


def test_top_waits_for_a_daemon_that_restarts_and_goes_on(
    start_admin: Callable[..., AdminRelay], terminal: Callable[..., Any]
) -> None:
    admin = start_admin()
    with terminal(admin, 80, 24) as screen:
        with peers_at(admin.relay, "before") as peers:
            peers.phone()
            screen.shows("binaries 1, phones 1", "before", "127.0.0.1:", without="no answer")
            admin.relay.process.kill()
        waiting = screen.shows(
            "no answer since", "s; waiting for it: relayd", "systemctl start relayd", "q quit"
        )
        assert "binaries 1, phones 1" in waiting
        assert "before" in waiting
        screen.keys("a")
        screen.shows("no answer since", "2 of 2 by age")
        again = start_admin()
        with peers_at(again.relay, "after"):
            screen.shows("binaries 1, phones 0", "after", "frames/s", without="no answer")
        assert again.relay.stop() == 0
        screen.shows("no answer since")
        screen.keys("q")
        screen.ended_with(0)


def test_ctrl_c_ends_top_quietly(admin: AdminRelay, terminal: Callable[..., Any]) -> None:
    with terminal(admin) as screen:
        screen.shows("binaries 0")
        screen.keys("C-c")
        assert "Traceback" not in screen.ended_with(0)


def test_top_where_no_daemon_is_exits_1_and_says_what_to_do(
    admin: AdminRelay, terminal: Callable[..., Any]
) -> None:
    assert admin.relay.stop() == 0
    with terminal(admin) as screen:
        assert "systemctl start relayd" in screen.ended_with(1).replace("\n", " ")
