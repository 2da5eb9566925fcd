"""The command line, as a process: exit status, its one line on stderr, and addresses."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import fields

from relayd import __version__
from relayd.settings import Settings
from tests.relay_process import WAIT, RelayProcess, until

Start = Callable[..., RelayProcess]


def relayd(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relayd", *arguments], capture_output=True, text=True, timeout=WAIT, check=False
    )


def test_version() -> None:
    done = relayd("--version")
    assert (done.returncode, done.stdout) == (0, f"relayd {__version__}\n")


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
        (["--listen", "8080"], ["listen", "the flag --listen", '"8080"', "an address such as"]),
        (["--unknown"], ["--unknown"]),
    ],
)
def test_what_is_refused_exits_2_with_one_line(flags: list[str], named: list[str]) -> None:
    done = relayd(*flags)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert [part for part in named if part not in done.stderr] == []


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
    done = relayd("--listen", f"127.0.0.1:{start_relay().port}")
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
    done = relayd("--listen", f"unix:{path}")
    assert (done.returncode, "in use" in done.stderr) == (1, True)
    assert relay.stop() == 0
    assert not path.exists()


def test_a_regular_file_in_the_way_exits_1_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    done = relayd("--listen", f"unix:{path}")
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
