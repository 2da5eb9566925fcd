"""Who may speak to the admin socket, where it is, and what bounds it."""

import os
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relayd.edge import admin as admin_module
from relayd.edge.admin import open_admin_socket
from relayd.edge.listener import CannotListen, open_private_listener
from relayd.ops.events import AdminUnavailable, Event
from tests.admin.conftest import AdminRelay
from tests.relay_process import WAIT, RelayProcess

NOBODY, SOMEBODY = 65534, 65533

BECOME = """\
import encodings.idna, os, sys, relayd.cli, relayd.commands.status
os.setgroups([])
os.setuid({})
sys.exit(relayd.cli.main())
"""
"""relayd as another user. Its modules may lie where that user cannot read, so they come first."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(WAIT)
    client.connect(str(path))
    return client


def test_mode_is_0600_whatever_the_umask_and_from_the_first_moment_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "admin.sock"
    modes: list[int] = []
    listen = socket.socket.listen

    def watched(sock: socket.socket, backlog: int) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        listen(sock, backlog)

    monkeypatch.setattr(socket.socket, "listen", watched)
    # What bind(2) makes is seen in the mode that it has before anything else happens to it.
    monkeypatch.setattr(os, "chmod", lambda *_: pytest.fail("too late"))
    before = os.umask(0)
    try:
        open_private_listener(str(path), "--admin-socket").close()
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert not path.exists()


def test_mode_of_the_real_daemons_socket_is_0600_and_a_stale_one_is_replaced(
    start_relay: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        path.chmod(0o777)
    admin = AdminRelay(start_relay("--admin-socket", f"unix:{path}"), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert admin.get("/status")["settings"]["admin-socket"] == str(path)
    assert admin.relay.stop() == 0
    assert not path.exists()


@needs_root
def test_root_and_the_relays_own_user_are_served_and_another_gets_403_without_a_word(
    open_directory: Path, tmp_path: Path
) -> None:
    os.chown(open_directory, NOBODY, NOBODY)
    path = open_directory / "admin.sock"
    become = BECOME.format(NOBODY)
    relay = RelayProcess(tmp_path / "log", "--admin-socket", str(path), program=("-c", become))
    try:
        admin = AdminRelay(relay, path)
        # The mode alone keeps others away; somebody may have widened it.
        path.chmod(0o666)
        own = ("setpriv", f"--reuid={NOBODY}", "--clear-groups")
        other = ("setpriv", f"--reuid={SOMEBODY}", "--clear-groups")
        assert admin.curl("/status")[0] == 200
        assert admin.curl("/status", "GET", *own)[0] == 200
        for method, target in (("GET", "/status"), ("POST", "/drain"), ("GET", "/nowhere")):
            status, head, body = admin.curl(target, method, *other)
            assert (status, body) == (403, "")
            assert "content-length: 0" in head
        relay.event("request_refused", remote="admin", status=403)
        assert relay.events("draining") == []
    finally:
        assert relay.stop() == 0


@needs_root
def test_somebody_else_is_told_to_use_sudo(
    start_relay: Callable[..., RelayProcess], open_directory: Path
) -> None:
    path = open_directory / "admin.sock"
    AdminRelay(start_relay("--admin-socket", str(path)), path)
    become = BECOME.format(SOMEBODY)
    done = subprocess.run(
        [sys.executable, "-c", become, "status", "--admin-socket", str(path)],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "try again with sudo" in done.stderr
    assert done.stderr.count("\n") == 1


def test_directory_that_others_can_change_is_refused_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(CannotListen, match=f"other users can change {tmp_path}.*for --admin-socket"):
        open_private_listener(str(tmp_path / "admin.sock"), "--admin-socket")
    tmp_path.chmod(0o1777)  # as /tmp is: names there belong to their owners
    open_private_listener(str(tmp_path / "admin.sock"), "--admin-socket").close()


def test_path_that_was_chosen_and_cannot_be_listened_on_exits_1_and_names_the_flag(admin: AdminRelay) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "--listen", "127.0.0.1:0", "--admin-socket", str(admin.path)],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 1
    assert "choose another --admin-socket" in done.stderr
    assert admin.get("/status")["state"] == "serving"


async def test_auto_opens_the_default_path_if_its_directory_is_there_and_else_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "relayd"
    path = str(directory / "admin.sock")
    monkeypatch.setattr(admin_module, "DEFAULT_ADMIN_SOCKET", path)
    events: list[Event] = []
    assert open_admin_socket("auto", events.append) is None
    directory.mkdir(0o755)
    listener = open_admin_socket("auto", events.append)
    assert listener is not None
    assert not events
    # Another relay on this machine has it: to run one more is no mistake, so that costs a warning.
    assert open_admin_socket("auto", events.append) is None
    assert [type(event) for event in events] == [AdminUnavailable]
    listener.close()
    assert open_admin_socket("off", events.append) is None


def test_32_are_served_at_a_time_and_one_more_is_hung_up_on(start_admin: Callable[..., AdminRelay]) -> None:
    admin = start_admin("--handshake-timeout", "60")
    clients = [connected(admin.path) for _ in range(33)]
    (refused, *others), _, _ = select.select(clients, [], [], WAIT)
    assert refused.recv(1) == b""
    assert others == []
    assert admin.relay.event("limit_reached")["bound"] == "operators"
    clients.remove(refused)
    for client in clients:
        client.sendall(b"GET /status HTTP/1.1\r\nHost: relayd\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
    for client in (refused, *clients):
        client.close()
    status = admin.get("/status")
    assert (status["state"], status["limits"]["turned_away"]) == ("serving", {"operators": 1})


def test_request_must_come_in_time_and_be_small(start_admin: Callable[..., AdminRelay]) -> None:
    admin = start_admin("--handshake-timeout", "0.5")
    with connected(admin.path) as silent, connected(admin.path) as slow, connected(admin.path) as long:
        slow.sendall(b"GET /status HTTP/1.1\r\n")
        long.sendall(b"GET /status HTTP/1.1\r\nX: " + b"a" * 16 * 1024)
        assert silent.recv(1) == b""
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert long.recv(4096).startswith(b"HTTP/1.1 431 ")
