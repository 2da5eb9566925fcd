"""`relayd status`, `close`, `evict` and `drain`, as processes."""

import argparse
import json
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relayd import __version__
from relayd.commands import COMMANDS as LISTED
from relayd.commands import admin_client
from relayd.commands.admin_client import Unanswered, ask
from tests.admin.conftest import AdminRelay
from tests.command_line import relayd
from tests.contract.peers import closing, peers_at
from tests.relay_process import WAIT

README, OPERATIONS = (Path(__file__).parents[2] / name for name in ("README.md", "docs/operations.md"))

COMMANDS = (("status",), ("top",), ("close", "c-x"), ("evict", "s"), ("drain",))


def test_status_is_a_page_for_people(start_admin: Callable[..., AdminRelay]) -> None:
    admin = start_admin("--max-phones", "3", "--max-buffered-bytes", "64000000")
    with peers_at(admin.relay, "demo") as peers, peers_at(admin.relay, "gone") as others:
        peers.phone()
        others.binary.close()
        admin.relay.event("binary_released")
        done = relayd("status", "--admin-socket", str(admin.path))
    assert (done.returncode, done.stderr) == (0, "")
    first, blank, *rest = done.stdout.splitlines()
    pid = admin.relay.pid
    assert re.fullmatch(rf"relayd {re.escape(__version__)}, serving for [\d.]+m?s, process {pid}", first)
    assert blank == ""
    rows = dict(re.split(r" {2,}", line, maxsplit=1) for line in rest)
    assert rows["listening"] == f"127.0.0.1:{admin.relay.port}"
    assert rows["connected"] == "1 binary, 1 phone"
    assert rows["in grace"] == "1 server-id, waiting for the binary to come back"
    # A masked frame of seven bytes, and a Close frame with a code.
    assert rows["frames in"] == "1, 21B, over 3 connections"
    assert rows["buffered"] == "0B of 64MB that may be"
    assert "max-phones 3" in rows["settings"]
    (shown,) = re.findall(r"serving for [^`]*", README.read_text())
    assert {"in grace", *re.findall(r"^([a-z ]+?) {2,}", shown, re.MULTILINE)} == rows.keys()


def test_status_as_json_is_the_document_of_the_socket(admin: AdminRelay) -> None:
    done = relayd("status", "--json", "--admin-socket", str(admin.path))
    document = json.loads(done.stdout)
    assert document.keys() == admin.get("/status").keys()
    assert document["pid"] == admin.relay.pid
    (shown,) = re.findall(r'^\{"version":.*"descriptors":.*\}$', OPERATIONS.read_text(), re.MULTILINE)
    assert keys(json.loads(shown)) == keys(document)


def keys(document: Any) -> Any:
    """The names in an object that are the same for all, and those in the objects in it."""
    if not isinstance(document, dict):
        return None
    return {name: keys(value) for name, value in document.items() if name not in ("settings", "turned_away")}


def test_the_socket_is_found_by_flag_by_variable_and_by_file(admin: AdminRelay, tmp_path: Path) -> None:
    file = tmp_path / "relayd.toml"
    file.write_text(f'admin-socket = "{admin.path}"\n')
    assert relayd("status", RELAYD_ADMIN_SOCKET=str(admin.path)).returncode == 0
    assert relayd("status", "--config", str(file)).returncode == 0
    assert relayd("status", RELAYD_CONFIG=str(file)).returncode == 0
    assert relayd("--admin-socket", str(admin.path), "status").returncode == 0


def test_close_closes_a_phone_and_says_whose(admin: AdminRelay) -> None:
    with peers_at(admin.relay, "demo") as peers:
        phone, conn_id = peers.phone()
        done = relayd("close", conn_id, "--admin-socket", str(admin.path))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("closed with 1001: a phone of demo, from 127.0.0.1:")
        assert closing(phone) == (1001, "closed by operator")
        again = relayd("close", conn_id, "--admin-socket", str(admin.path))
        assert (again.returncode, again.stdout) == (1, "")
        assert again.stderr == "relayd: no phone has that conn_id; `relayd top` shows them all\n"


@pytest.mark.parametrize("server_id", ["demo", "a/b?c%2F ..", "../drain", "-x"])
def test_evict_frees_any_server_id(admin: AdminRelay, server_id: str) -> None:
    with peers_at(admin.relay, server_id) as peers:
        phone, _ = peers.phone()
        done = relayd("evict", "--admin-socket", str(admin.path), "--", server_id)
        assert done.stdout == f"{server_id} is free; phones closed with 4404: 1\n"
        assert closing(peers.binary) == (1001, "closed by operator")
        assert closing(phone) == (4404, "binary is gone")
    done = relayd("evict", "--admin-socket", str(admin.path), "--", server_id)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "relayd: nobody holds that server-id; `relayd top` shows them all\n"


def test_drain_ends_the_relay(admin: AdminRelay) -> None:
    done = relayd("drain", "--admin-socket", str(admin.path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "relayd drains: 0 connections to close; it ends within 10 s\n"
    assert admin.relay.process.wait(WAIT) == 0


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command != ("top",)], ids=lambda command: command[0]
)
def test_where_no_daemon_is_each_exits_1_and_says_in_one_line_what_to_do(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    for path in (tmp_path / "none", tmp_path / "stale", tmp_path / "stale" / "below"):
        if path.name == "stale":
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(path))
        done = relayd(*command, "--admin-socket", str(path))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        for part in (str(path), "not running", "systemctl start relayd", "--admin-socket"):
            assert part in done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_where_the_socket_is_off_each_says_so_and_by_what(command: tuple[str, ...]) -> None:
    done = relayd(*command, RELAYD_ADMIN_SOCKET="off")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is off (the environment variable RELAYD_ADMIN_SOCKET)" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_setting_that_is_refused_exits_2(command: tuple[str, ...]) -> None:
    done = relayd(*command, RELAYD_ADMIN_SOCKET="not/absolute")
    assert (done.returncode, done.stdout) == (2, "")
    assert "an absolute path" in done.stderr
    assert done.stderr.count("\n") == 1


def test_auto_is_the_default_path() -> None:
    parser = argparse.ArgumentParser()
    admin_client.configure_socket(parser)
    options = parser.parse_args(["--config", "/dev/null", "--admin-socket", "auto"])
    assert admin_client.socket_path(options) == "/run/relayd/admin.sock"


@pytest.mark.parametrize("meanwhile", [None, lambda: None])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "does not answer"),
        (b"", "hung up"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "hung up"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"servers":[', "hung up"),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "sudo"),
    ],
)
def test_daemon_that_answers_badly_or_not_at_all_is_reported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes | None,
    said: str,
    meanwhile: Callable[[], None] | None,
) -> None:
    path = tmp_path / "r.sock"
    monkeypatch.setattr(admin_client, "_TIMEOUT", 0.1 if answer is None else WAIT)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as client:
                client.recv(4096)
                client.sendall(answer or b"")

        server = threading.Thread(target=serve)
        if answer is not None:
            server.start()
        with pytest.raises(Unanswered, match=said):
            ask(str(path), "GET", "status", meanwhile=meanwhile)
        if answer is not None:
            server.join()


def test_what_is_to_be_done_meanwhile_is_done_while_no_answer_comes(tmp_path: Path) -> None:
    path, calls = tmp_path / "r.sock", []

    class Enough(Exception):
        pass

    def meanwhile() -> None:
        calls.append("once more")
        if len(calls) == 3:
            raise Enough

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(Enough):
            ask(str(path), "GET", "status", meanwhile=meanwhile)


def test_top_wants_a_terminal(admin: AdminRelay) -> None:
    done = relayd("top", "--admin-socket", str(admin.path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "relayd status --json" in done.stderr


def test_help_of_each_command_says_what_it_is_for() -> None:
    listed = relayd("--help").stdout
    for name, *_ in COMMANDS:
        assert re.search(rf"^    {name} ", listed, re.M)
        assert "--admin-socket PATH" in relayd(name, "--help").stdout
    assert LISTED["top"] in " ".join(relayd("top", "--help").stdout.split())
