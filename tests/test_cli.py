"""The command line, as a process: exit status, its one line on stderr, and addresses."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from attrs import fields
from websockets.sync.client import connect, unix_connect

from relayd import __version__
from relayd.cli import main
from relayd.ops.capacity import System, buffer_limit, limits_of
from relayd.settings import Settings
from tests.command_line import relayd
from tests.relay_process import WAIT, RelayProcess, until

Start = Callable[..., RelayProcess]


def relay_that_ends(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A relay, as a process, that does not get as far as serving."""
    return subprocess.run(
        [sys.executable, "-m", "relayd", *arguments], capture_output=True, text=True, timeout=WAIT, check=False
    )


@contextmanager
def logging_relay(*arguments: str, terminal: bool = False, **variables: str) -> Iterator[str]:
    """A relay with its stderr on a pipe or on a terminal; the first line of its log."""
    reader, writer = os.openpty() if terminal else os.pipe()
    with (
        open(reader, "rb", buffering=0) as log,
        subprocess.Popen(
            [sys.executable, "-m", "relayd", "--listen", "127.0.0.1:0", *arguments],
            stderr=writer,
            env={**os.environ, **variables},
        ) as process,
    ):
        os.close(writer)
        try:
            line = b""
            while b"\n" not in line:
                line += log.read(4096)
            yield line.splitlines(keepends=True)[0].decode()
        finally:
            process.terminate()


def test_version() -> None:
    done = relayd("--version")
    assert (done.returncode, done.stdout) == (0, f"relayd {__version__}\n")


@pytest.mark.parametrize(("arguments", "imported"), [([], set()), (["check", "--grace", "5"], {"check"})])
def test_no_command_is_imported_but_the_one_that_is_asked_for(arguments: list[str], imported: set[str]) -> None:
    # Port 65536 is refused: the relay gets no further than that.
    script = (
        "import sys, relayd.cli\n"
        "relayd.cli.main(sys.argv[1:] or ['--listen', ':65536'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=WAIT, check=True
    )
    modules = set(done.stderr.splitlines()[-1].split())
    commands = {
        name.removeprefix("relayd.commands.") for name in modules if name.startswith("relayd.commands.")
    }
    assert commands == imported
    assert not modules & {"curses", "http.client", "relayd.doctor"}


@pytest.mark.parametrize("arguments", [("--max-phons", "3"), ("--max-phons=3", "status")])
def test_a_flag_that_is_none_is_refused_with_the_nearest_one(arguments: tuple[str, ...]) -> None:
    done = relayd(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("relayd: there is no flag --max-phons; did you mean --max-phones?")
    assert done.stderr.count("\n") == 1


def test_help_names_every_setting_and_the_variables() -> None:
    done = relayd("--help")
    assert done.returncode == 0
    assert "RELAYD_LISTEN" in done.stdout
    for attribute in fields(Settings):
        assert f"--{attribute.name.replace('_', '-')}" in done.stdout
    assert "--no-require-token" in done.stdout


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--grace", "a\x1b\nb"], ["grace", "the flag --grace", "a\\x1b\\nb", "a number of seconds"]),
        (["--listen", "here"], ["listen", "the flag --listen", '"here"', "an address such as"]),
        (["--unknown"], ["--unknown"]),
    ],
)
def test_what_is_refused_exits_2_with_one_line(flags: list[str], named: list[str]) -> None:
    done = relayd(*flags)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert [part for part in named if part not in done.stderr] == []


@pytest.mark.parametrize(
    "flags", [["--grace", "long"], ["--unknown"], ["check", "--grace", "long"], ["status"]]
)
@pytest.mark.parametrize("to_journal", [True, False])
def test_what_is_refused_is_an_error_to_the_journal_if_stderr_leads_there(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str], to_journal: bool
) -> None:
    stderr = os.fstat(2)
    # The variable is inherited by processes whose stderr is somewhere else by now.
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino + (not to_journal)}")
    monkeypatch.setenv("RELAYD_CONFIG", "/dev/null")
    monkeypatch.setenv("RELAYD_ADMIN_SOCKET", "off")
    with suppress(SystemExit):
        main(flags)
    said = capfd.readouterr().err
    assert said.startswith("<3>relayd" if to_journal else "relayd")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["check"], 128 + signal.SIGPIPE),
        (["systemd", "install", "--dry-run", "--root", "/nowhere"], 128 + signal.SIGPIPE),
        (["systemd", "uninstall", "--dry-run", "--root", "/nowhere"], 128 + signal.SIGPIPE),
        (["--version"], 128 + signal.SIGPIPE),
        # argparse has seen to it, for a text that is longer than Python's buffer.
        (["--help"], 0),
    ],
)
def test_a_reader_that_has_seen_enough_ends_whatever_prints_as_sigpipe_would(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: int
) -> None:
    monkeypatch.setenv("RELAYD_CONFIG", "/dev/null")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = cast("int", stop.code)
        assert status == expected
        # As the interpreter does at its end.
        stdout.flush()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_port_0_is_named_as_the_real_port(
    start_relay: Start, number: signal.Signals
) -> None:
    relay = start_relay()
    socket.create_connection(("127.0.0.1", relay.port)).close()
    assert relay.stop(number) == 0


def test_port_0_of_every_address_is_reached_by_ipv4_and_ipv6(start_relay: Start) -> None:
    relay = start_relay("--listen", ":0")
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, relay.port)).close()


def test_an_address_in_use_exits_1_and_says_so_in_one_line(start_relay: Start) -> None:
    done = relay_that_ends("--listen", f"127.0.0.1:{start_relay().port}")
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stale_socket_file_is_replaced_a_live_one_is_in_use_and_it_goes_at_exit(
    start_relay: Start, tmp_path: Path
) -> None:
    path = tmp_path / "r.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    relay = start_relay("--listen", f"unix:{path}")
    relay.event("listening", address=f"unix:{path}")
    done = relay_that_ends("--listen", f"unix:{path}")
    assert (done.returncode, "in use" in done.stderr) == (1, True)
    assert relay.stop() == 0
    assert not path.exists()


def test_a_regular_file_in_the_way_exits_1_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    done = relay_that_ends("--listen", f"unix:{path}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert path.read_text() == "precious"


def test_listen_may_be_given_several_times(start_relay: Start) -> None:
    relay = start_relay("--listen", "127.0.0.1:0", "--listen", "[::1]:0")
    first, second = until(
        lambda: (
            (len(events := relay.events("listening")) == 2 and [event["address"] for event in events]) or None
        ),
        "second listener",
    )
    assert first.startswith("127.0.0.1:")
    assert second.startswith("[::1]:")


@pytest.mark.parametrize(
    ("arguments", "terminal", "as_json"),
    [
        ((), False, True),
        ((), True, False),
        (("--log-format", "text"), False, False),
        (("--log-format", "json"), True, True),
    ],
)
def test_log_format_auto_is_text_on_a_terminal_and_json_elsewhere_and_may_be_chosen(
    arguments: tuple[str, ...], terminal: bool, as_json: bool
) -> None:
    with logging_relay(*arguments, terminal=terminal, NO_COLOR="1") as line:
        assert "listening" in line
        if as_json:
            assert json.loads(line)["event"] == "listening"
        else:
            assert " info " in line
            assert " listening address=127.0.0.1:" in line


def test_log_level_leaves_out_what_is_below_it() -> None:
    with logging_relay("--log-level", "info") as line:
        assert "listening" in line
    process = subprocess.Popen(
        [sys.executable, "-m", "relayd", "--listen", "127.0.0.1:0", "--log-level", "warning"],
        stderr=subprocess.PIPE,
    )
    with process:
        # Nothing is logged, so that it is ready shows by what it does: its listener is there.
        try:
            until(lambda: b"0A" in _listeners(process.pid), "listener")
        finally:
            process.terminate()
        assert process.communicate(timeout=WAIT)[1] == b""


def _listeners(pid: int) -> set[bytes]:
    """The states of the TCP sockets that a process holds; 0A is LISTEN."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            inodes.add(os.readlink(fd))
    rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_bytes().splitlines()[1:]]
    return {row[3] for row in rows if f"socket:[{row[9].decode()}]" in inodes}


def test_variables_are_settings_and_flags_win_over_them(start_relay: Start, tmp_path: Path) -> None:
    path = tmp_path / "from-the-variable"
    variables = {"RELAYD_LISTEN": f"unix:{path}", "RELAYD_REQUIRE_TOKEN": "false"}
    relay = start_relay("--listen", "127.0.0.1:0", env=variables)
    assert relay.port
    assert not path.exists()
    headers = {"x-pyrycode-server": "s", "x-pyrycode-version": "1"}
    with connect(relay.url("/v1/server"), additional_headers=headers):
        relay.event("binary_claimed")
        with connect(relay.url("/v1/client"), additional_headers=headers):
            relay.event("phone_registered")


def test_a_variable_that_is_refused_exits_2_with_one_line_that_names_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "relayd"],
        capture_output=True,
        text=True,
        timeout=WAIT,
        env={**os.environ, "RELAYD_GRACE": "soon"},
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    for part in ("RELAYD_GRACE", "soon", "a number of seconds"):
        assert part in done.stderr


def test_the_installed_command_is_the_same() -> None:
    script = Path(sys.executable).parent / "relayd"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=WAIT, check=True)
    assert done.stdout == relayd("--version").stdout


@pytest.mark.parametrize("listen", ["[::1]:0", "127.0.0.1:0", ":0", "unix"])
def test_a_client_connects_to_every_kind_of_address(start_relay: Start, tmp_path: Path, listen: str) -> None:
    path = str(tmp_path / "r.sock")
    relay = start_relay("--listen", listen.replace("unix", f"unix:{path}"))
    headers = {"x-pyrycode-server": "s", "x-pyrycode-version": "1"}
    if listen == "unix":
        relay.event("listening")
        connection = unix_connect(path, "ws://relay/v1/server", additional_headers=headers)
    else:
        host = "[::1]" if ":0" in listen and "127" not in listen else "127.0.0.1"
        connection = connect(f"ws://{host}:{relay.port}/v1/server", additional_headers=headers)
    with connection:
        remote = relay.event("binary_claimed")["remote"]
    assert remote == "unix" or remote.startswith(("[::1]:", "127.0.0.1:"))


def test_check_prints_every_setting_with_value_and_source_and_starts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "relayd.toml"
    path.write_text("max-phones = 3\n")
    done = relayd("check", "--config", str(path), "--grace", "5")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: re.split(r" {2,}", line)[1:] for line in done.stdout.splitlines()}
    assert rows.keys() == {attribute.name.replace("_", "-") for attribute in fields(Settings)}
    assert rows["max-phones"] == ["3", f"max-phones in {path}"]
    assert rows["grace"] == ["5", "the flag --grace"]
    assert rows["require-token"] == ["true", "the default"]
    limits = limits_of(Settings(), System.here())
    assert rows["max-connections"] == [f"auto={limits.connections}", "the default"]
    assert rows["max-handshakes"] == [f"auto={limits.handshakes}", "the default"]
    assert rows["max-buffered-bytes"] == [f"auto={buffer_limit(Settings(), System.here())}", "the default"]
    assert rows["phone-rate"] == ["off", "the default"]


def test_check_exits_2_on_the_first_error(tmp_path: Path) -> None:
    path = tmp_path / "relayd.toml"
    path.write_text("max-fones = 3\n")
    done = relayd("check", "--config", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean max-phones?" in done.stderr
    assert done.stderr.count("\n") == 1


def test_sighup_takes_over_what_can_change_and_says_what_needs_a_restart(
    start_relay: Start, tmp_path: Path
) -> None:
    path = tmp_path / "relayd.toml"
    path.write_text("")
    relay = start_relay("--config", str(path))
    headers = {"x-pyrycode-server": "s", "x-pyrycode-version": "1", "x-pyrycode-token": "t"}
    with (
        connect(relay.url("/v1/server"), additional_headers=headers),
        connect(relay.url("/v1/client"), additional_headers=headers),
    ):
        relay.event("phone_registered")
        path.write_text("max-phones = 1\ngrace = 1\n")
        relay.process.send_signal(signal.SIGHUP)
        relay.event("reloaded", changed="max-phones", needs_restart="grace")
        with connect(relay.url("/v1/client"), additional_headers=headers):
            relay.event("phone_refused", code=4429)


def test_sighup_with_a_bad_file_changes_nothing_and_says_why(start_relay: Start, tmp_path: Path) -> None:
    path = tmp_path / "relayd.toml"
    path.write_text("")
    relay = start_relay("--config", str(path))
    relay.event("listening")
    path.write_text("max-phones = 1\ngrace = 'soon'\n")
    relay.process.send_signal(signal.SIGHUP)
    assert '"soon"' in relay.event("reload_refused")["error"]
    assert relay.events("reloaded") == []
    assert relay.stop() == 0


def test_sighup_with_a_number_of_5000_digits_is_refused_and_the_relay_lives(
    start_relay: Start, tmp_path: Path
) -> None:
    path = tmp_path / "relayd.toml"
    path.write_text("")
    relay = start_relay("--config", str(path))
    relay.event("listening")
    path.write_text(f"max-phones = {'9' * 5000}\n")
    relay.process.send_signal(signal.SIGHUP)
    error = relay.event("reload_refused")["error"]
    assert error.startswith(f"{path}: is not TOML: ")
    assert len(error) < 300
    headers = {"x-pyrycode-server": "s", "x-pyrycode-version": "1"}
    with connect(relay.url("/v1/server"), additional_headers=headers):
        relay.event("binary_claimed")
    assert relay.stop() == 0


def test_limit_of_file_descriptors_is_raised_to_its_hard_maximum() -> None:
    script = 'ulimit -S -n 256 && exec "$0" -m relayd --listen 127.0.0.1:0 --log-format json'
    with subprocess.Popen(["sh", "-c", script, sys.executable], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"listening" in process.stderr.readline()
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        row = next(line for line in limits.splitlines() if line.startswith("Max open files"))
        soft, hard = row.split()[3:5]
        assert soft == hard
        process.terminate()


def test_json_lines_are_json_whatever_the_locale(start_relay: Start) -> None:
    relay = start_relay(env={"PYTHONIOENCODING": "ascii"})
    headers = {"x-pyrycode-server": "s", "x-pyrycode-version": "1", "x-pyrycode-token": "t"}
    with (
        connect(relay.url("/v1/server"), additional_headers=headers),
        connect(
            relay.url("/v1/client"),
            additional_headers={**headers, "x-pyrycode-device-name": "caf\u00c3\u00a9"},
        ),
    ):
        assert relay.event("phone_registered")["device_name"] == "caf\u00e9"
