"""The real daemon where standard error takes nothing, or is not there."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, unix_connect

from tests.relay_process import WAIT, RelayProcess, until

FILLING = b"." * 4096


class Daemon:
    """A relay on a unix socket, with a standard error of the test's own."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stack = stack

    def start(self, stderr: int, *wrapper: str) -> "subprocess.Popen[bytes]":
        """Start it, as the last arguments of ``wrapper`` if that is given."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
        relayd = (sys.executable, "-m", "relayd", "--config", "/dev/null", "--listen", f"unix:{self._path}")
        process = subprocess.Popen([*wrapper, *relayd], stderr=stderr, env=environment)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        until(self._listening, "socket of the relay")
        return process

    def _listening(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._path)) == 0

    def connect(self, path: str, **headers: str) -> ClientConnection:
        """A peer under the server-id "demo"."""
        named = {f"x-pyrycode-{name}": value for name, value in {"server": "demo", **headers}.items()}
        return self._stack.enter_context(
            unix_connect(str(self._path), uri=f"ws://localhost{path}", additional_headers=named)
        )

    def carries_frames(self) -> None:
        """Fail unless frames go both ways, and nothing else with them."""
        binary = self.connect("/v1/server", version="1.0")
        phone, greeting = self._registered(binary)
        for number in range(100):
            binary.send(json.dumps({"conn_id": greeting["conn_id"], "frame": number}))
            assert phone.recv(WAIT) == str(number)
            phone.send(str(number))
            assert json.loads(binary.recv(WAIT)) == {"conn_id": greeting["conn_id"], "frame": number}

    def _registered(self, binary: ClientConnection) -> tuple[ClientConnection, dict[str, Any]]:
        # The binary has its 101 before its claim: a phone that comes earlier is sent away.
        def registered() -> tuple[ClientConnection, dict[str, Any]] | None:
            phone = self.connect("/v1/client", token="t")
            phone.send('"hello"')
            with contextlib.suppress(TimeoutError):
                return phone, json.loads(binary.recv(1))
            return None

        return until(registered, "registered phone")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with ExitStack() as stack:
        yield Daemon(tmp_path / "relay", stack)


def test_a_full_pipe_stops_no_frame_and_gets_the_entries_once_it_is_read(daemon: Daemon) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, FILLING)
    os.set_blocking(writing, True)
    with os.fdopen(reading, "rb") as log:
        process = daemon.start(writing)
        daemon.carries_frames()
        os.close(writing)
        events = []
        while "phone_registered" not in events:
            events.append(json.loads(log.readline().lstrip(b"."))["event"])
        assert events[0] == "listening"
        assert "binary_claimed" in events
        process.terminate()
        assert process.wait(WAIT) == 0
        assert b'"event":"stopped"' in log.read().splitlines()[-1]


def test_without_standard_error_frames_go_on_and_no_peer_gets_the_log(daemon: Daemon) -> None:
    process = daemon.start(subprocess.DEVNULL, "sh", "-c", 'exec "$@" 2>&-', "sh")
    daemon.carries_frames()
    process.terminate()
    assert process.wait(WAIT) == 0


def test_no_name_of_a_phone_can_steer_a_terminal(daemon: Daemon, tmp_path: Path) -> None:
    request = (
        "GET /v1/client HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nUser-Agent: a\r\n"
        'x-pyrycode-token: a\r\nx-pyrycode-server: a" b=c\r\n'
        "x-pyrycode-device-name: a\t\x9b31m\u202e\u2028\U000e0041\r\n\r\n"
    )
    with (tmp_path / "log").open("wb") as log:
        daemon.start(log.fileno(), "env", "RELAYD_LOG_FORMAT=text")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "relay"))
        client.sendall(request.encode())
        line = until(partial(_line, tmp_path / "log", "phone_refused"), "refusal")
    assert line.isprintable()
    assert 'server_id="a\\" b=c"' in line
    assert r"""device_name="a\\t\\x9b31m\\u202e\\u2028\\U000e0041" """ in line


def _line(log: Path, word: str) -> str | None:
    """The first whole line with this word in it."""
    lines = log.read_text().splitlines(keepends=True)
    return next((line[:-1] for line in lines if word in line and line.endswith("\n")), None)


def test_a_name_of_a_file_that_is_no_utf_8_is_logged(
    start_relay: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    file = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.toml")
    Path(file).write_text("")
    relay = start_relay("--config", file)
    assert relay.address
    Path(file).write_text("max-phones = 0\n")
    relay.process.send_signal(1)
    assert "max-phones" in relay.event("reload_refused")["error"]
