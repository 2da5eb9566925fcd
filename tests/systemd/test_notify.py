"""sd_notify(3), with a datagram socket of the test's in place of the service manager's."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from websockets.sync.client import connect

from relayd.ops.systemd import ServiceManager
from tests.relay_process import WAIT, RelayProcess

Start = Callable[..., RelayProcess]

HEADERS = {"x-pyrycode-server": "s", "x-pyrycode-version": "1", "x-pyrycode-token": "t"}


class Manager:
    """The service manager's end: what it was told, a message being a mapping."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(WAIT)

    def message(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))

    def message_with(self, name: str) -> dict[str, str]:
        """The next message that assigns ``name``; status and watchdog pings come whenever they like."""
        while name not in (message := self.message()):
            assert message.keys() <= {"STATUS", "WATCHDOG"}, message
        return message

    def waiting(self) -> list[dict[str, str]]:
        """All that has come by now."""
        messages = []
        self.socket.setblocking(False)
        try:
            while True:
                messages.append(self.message())
        except BlockingIOError:
            return messages
        finally:
            self.socket.settimeout(WAIT)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """A service manager, listening under a path or under an abstract name."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@relayd-test-{os.getpid()}"
    listening = Manager(address)
    with listening.socket:
        yield listening


def test_ready_comes_when_every_listener_listens(start_relay: Start, manager: Manager) -> None:
    relay = start_relay(
        "--listen", "127.0.0.1:0", "--listen", "[::1]:0", env={"NOTIFY_SOCKET": manager.address}
    )
    assert manager.message() == {"READY": "1", "STATUS": "0 binaries, 0 phones"}
    assert len(relay.events("listening")) == 2


def test_no_ready_if_one_of_the_listeners_fails(start_relay: Start, manager: Manager) -> None:
    taken = start_relay()
    relay = start_relay(
        "--listen", "127.0.0.1:0", "--listen", taken.address, env={"NOTIFY_SOCKET": manager.address}
    )
    assert relay.process.wait(WAIT) == 1
    assert manager.waiting() == []


def test_status_has_live_counts(start_relay: Start, manager: Manager) -> None:
    relay = start_relay(env={"NOTIFY_SOCKET": manager.address})
    manager.message_with("READY")
    with connect(relay.url("/v1/server"), additional_headers=HEADERS):
        relay.event("binary_claimed")
        with (
            connect(relay.url("/v1/client"), additional_headers=HEADERS),
            connect(relay.url("/v1/client"), additional_headers=HEADERS),
        ):
            while manager.message() != {"STATUS": "1 binary, 2 phones"}:
                pass
    while manager.message() != {"STATUS": "0 binaries, 0 phones"}:
        pass


@pytest.mark.parametrize("accepted", [True, False])
def test_sighup_is_a_reload_with_its_time_and_its_end(
    start_relay: Start, manager: Manager, tmp_path: Path, accepted: bool
) -> None:
    path = tmp_path / "relayd.toml"
    path.write_text("")
    relay = start_relay("--config", str(path), env={"NOTIFY_SOCKET": manager.address})
    manager.message_with("READY")
    path.write_text("max-phones = 1" if accepted else "max-phones = 0")
    before = time.monotonic_ns() // 1000
    relay.process.send_signal(signal.SIGHUP)
    begun = manager.message_with("RELOADING")
    assert begun["RELOADING"] == "1"
    assert before <= int(begun["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    counts = "0 binaries, 0 phones"
    if accepted:
        assert manager.message_with("READY") == {"READY": "1", "STATUS": counts}
        relay.event("reloaded")
    else:
        error = relay.event("reload_refused")["error"]
        status = f"{counts}; settings refused at reload: {error}"
        assert manager.message_with("READY") == {"READY": "1", "STATUS": status}


def test_a_refused_reload_stays_in_the_status_until_one_succeeds(
    start_relay: Start, manager: Manager, tmp_path: Path
) -> None:
    path = tmp_path / "relayd.toml"
    path.write_text("")
    relay = start_relay("--config", str(path), env={"NOTIFY_SOCKET": manager.address})
    manager.message_with("READY")
    path.write_text("grace = 'soon'")
    relay.process.send_signal(signal.SIGHUP)
    manager.message_with("RELOADING")
    assert '"soon"' in manager.message_with("READY")["STATUS"]
    with connect(relay.url("/v1/server"), additional_headers=HEADERS):
        relay.event("binary_claimed")
        status = manager.message_with("STATUS")["STATUS"]
        assert status.startswith("1 binary, 0 phones; settings refused at reload: grace in ")
        path.write_text("")
        relay.process.send_signal(signal.SIGHUP)
        manager.message_with("RELOADING")
        assert manager.message_with("READY")["STATUS"] == "1 binary, 0 phones"


def test_a_drain_is_announced_with_the_time_that_it_may_take(start_relay: Start, manager: Manager) -> None:
    relay = start_relay("--drain-timeout", "100", env={"NOTIFY_SOCKET": manager.address})
    manager.message_with("READY")
    with connect(relay.url("/v1/server"), additional_headers=HEADERS):
        relay.event("binary_claimed")
        relay.process.send_signal(signal.SIGTERM)
        assert manager.message_with("STOPPING") == {
            "STOPPING": "1",
            "STATUS": "draining: 1 binary, 0 phones left",
            "EXTEND_TIMEOUT_USEC": "105000000",
        }
    assert relay.process.wait(WAIT) == 0


def test_a_process_that_is_stopped_pings_no_more_until_it_goes_on(start_relay: Start, manager: Manager) -> None:
    interval = 0.05
    relay = start_relay(env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(int(interval * 2e6))})
    manager.message_with("READY")
    for _ in range(3):
        assert manager.message_with("WATCHDOG") == {"WATCHDOG": "1"}
    relay.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, relay.pid, os.WSTOPPED)
    manager.waiting()
    manager.socket.settimeout(10 * interval)
    with pytest.raises(TimeoutError):
        manager.message()
    manager.socket.settimeout(WAIT)
    relay.process.send_signal(signal.SIGCONT)
    manager.message_with("WATCHDOG")


async def told(manager: Manager) -> list[dict[str, str]]:
    """What the manager has been told once nobody in this loop has anything left to do."""
    await trio.testing.wait_all_tasks_blocked()
    return manager.waiting()


async def test_pings_come_at_half_of_the_limit_and_a_loop_that_is_stuck_sends_none(
    manager: Manager, autojump_clock: MockClock
) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "30000000"}
    service = ServiceManager.from_environment(environment, os.getpid())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run, lambda: "")
        assert await told(manager) == [{"WATCHDOG": "1"}]
        for _ in range(3):
            await trio.sleep(14.9)
            assert await told(manager) == []
            await trio.sleep(0.1)
            assert await told(manager) == [{"WATCHDOG": "1"}]
        # Whatever holds the loop, for as long as it likes: no other thread pings in its stead.
        autojump_clock.jump(60)
        assert manager.waiting() == []
        assert await told(manager) == [{"WATCHDOG": "1"}]
        nursery.cancel_scope.cancel()
    service.close()


@pytest.mark.parametrize(
    ("variables", "pings"),
    [
        ({"WATCHDOG_USEC": "20"}, True),
        ({"WATCHDOG_USEC": "20", "WATCHDOG_PID": "7"}, True),
        ({"WATCHDOG_USEC": "20", "WATCHDOG_PID": "8"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
        ({}, False),
    ],
)
async def test_watchdog_is_kept_for_whom_it_is_meant_and_its_variables_go(
    manager: Manager, autojump_clock: MockClock, variables: dict[str, str], pings: bool
) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "HOME": "/", **variables}
    service = ServiceManager.from_environment(environment, 7)
    assert environment == {"HOME": "/"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run, lambda: "")
        assert (await told(manager) == [{"WATCHDOG": "1"}]) is pings
        nursery.cancel_scope.cancel()
    service.close()


async def test_what_the_manager_has_no_room_for_comes_later_and_in_order(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as crowd:
        crowd.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                crowd.sendto(b"OTHER=1", manager.address)
        service = ServiceManager(manager.address, watchdog=1.0)
        service.ready("new")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run, lambda: "newer")
            await trio.sleep(60)
            with service.reloading(lambda: "newer"):
                pass
            assert {"OTHER": "1"} in (crowded := await told(manager))
            assert [message for message in crowded if message != {"OTHER": "1"}] == []
            await trio.sleep(1)
            first, second, third = [m for m in await told(manager) if "WATCHDOG" not in m][:3]
            nursery.cancel_scope.cancel()
        service.close()
    assert first == {"READY": "1", "STATUS": "new"}
    assert second.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert third == {"READY": "1", "STATUS": "newer"}


def test_after_stopping_it_is_never_ready_again(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    service = ServiceManager(manager.address)
    with manager.socket:
        service.stopping("draining", 0.0)
        service.ready("ready")
        with service.reloading(lambda: ""):
            pass
        assert [message.get("STOPPING") for message in manager.waiting()] == ["1"]
    service.close()


@pytest.mark.parametrize("address", ["/nowhere/notify", "vsock:2:1", "relative", "/" + "a" * 200])
def test_a_notify_socket_that_fails_disturbs_nobody_and_leaves_no_line(
    start_relay: Start, address: str
) -> None:
    relay = start_relay(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    with connect(relay.url("/v1/server"), additional_headers=HEADERS):
        relay.event("binary_claimed")
        relay.process.send_signal(signal.SIGHUP)
        relay.event("reloaded")
    assert relay.stop() == 0
    names = {event["event"] for event in relay.events()}
    started = {"listening", "capacity", "buffers_bounded"}
    assert names == {*started, "binary_claimed", "reloaded", "binary_released", "draining", "stopped"}
    assert all(line.startswith("{") for line in relay.log_text().splitlines())


def test_without_a_notify_socket_there_is_no_socket_and_nothing_to_do(start_relay: Start) -> None:
    relay = start_relay()
    relay.event("listening")
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    datagram = {inode for _, _, _, _, kind, _, inode, *_ in rows if kind == "0002"}
    held = {os.readlink(fd) for fd in Path(f"/proc/{relay.pid}/fd").iterdir()}
    assert not held & {f"socket:[{inode}]" for inode in datagram}
