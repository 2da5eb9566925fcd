"""The admin socket when strangers hold every descriptor that relayd may have."""

import contextlib
import json
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relayd.edge import descriptors
from tests.admin.conftest import AdminRelay
from tests.command_line import relayd
from tests.relay_process import WAIT, until

FREE = 5


@contextlib.contextmanager
def strangers_at(admin: AdminRelay) -> Iterator[int]:
    """More of them than there are descriptors left; the limit that they have met."""
    in_use = len(list(Path(f"/proc/{admin.relay.pid}/fd").iterdir()))
    limit = in_use + FREE
    resource.prlimit(admin.relay.pid, resource.RLIMIT_NOFILE, (limit, limit))
    with contextlib.ExitStack() as stack:
        for _ in range(4 * FREE):
            stack.enter_context(socket.create_connection(("127.0.0.1", admin.relay.port)))
        admin.relay.event("accept_paused", address=admin.relay.address, error="EMFILE")
        yield limit


def test_status_and_drain_are_answered_while_strangers_hold_every_descriptor(
    start_admin: Callable[..., AdminRelay],
) -> None:
    admin = start_admin("--handshake-timeout", "600")
    with strangers_at(admin) as limit:
        # Again and again: the reserve is back before one of those who wait can have it.
        for number in range(5):
            done = relayd("status", "--admin-socket", str(admin.path))
            assert (done.returncode, done.stderr) == (0, "")
            assert f"open files  {limit} of {limit}\n" in done.stdout
            if number == 0:
                paused = admin.relay.events("accept_paused")
                assert [event["address"] for event in paused] == [admin.relay.address]
        assert relayd("drain", "--admin-socket", str(admin.path)).returncode == 0
        assert admin.relay.process.wait(WAIT) == 0


def test_without_the_reserve_the_admin_socket_waits_as_every_listener_does(
    start_admin: Callable[..., AdminRelay],
) -> None:
    admin = start_admin("--handshake-timeout", "600")
    with strangers_at(admin), socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.connect(str(admin.path))
        second.settimeout(WAIT)
        second.connect(str(admin.path))
        admin.relay.event("accept_paused", address=f"unix:{admin.path}")
        first.close()
        second.sendall(b"GET /status HTTP/1.1\r\nHost: relayd\r\n\r\n")
        assert second.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_status_counts_open_descriptors(admin: AdminRelay) -> None:
    def counted() -> int:
        found: int = admin.get("/status")["descriptors"]["open"]
        return found

    before = counted()
    with socket.create_connection(("127.0.0.1", admin.relay.port)):
        until(lambda: counted() == before + 1, "one more")
    assert (
        admin.get("/status")["descriptors"]["limit"]
        == resource.prlimit(admin.relay.pid, resource.RLIMIT_NOFILE)[0]
    )


def test_where_proc_cannot_be_read_the_number_is_unknown_and_status_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(descriptors, "_OWN", "/proc/none")
    assert json.dumps(descriptors.open_descriptors()) == "null"
