"""Sockets that were passed on: by systemd-socket-activate, and by a parent that outlives the relay."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from websockets.sync.client import connect, unix_connect

from relayd.daemon import Relay
from relayd.edge.listener import CannotListen
from relayd.edge.passed import PassedSockets, take_passed_sockets
from relayd.ops.events import Event, Stopped
from relayd.settings import Settings
from relayd.values import Address
from tests.relay_process import WAIT, RelayProcess, free_port, until
from tests.trio_client import BINARY_HEADERS, Client

Start = Callable[..., RelayProcess]

HEADERS = {"x-pyrycode-server": "s", "x-pyrycode-version": "1", "x-pyrycode-token": "t"}


@contextlib.contextmanager
def activated(log: Path, listen: list[str], names: str, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """A relay that systemd-socket-activate starts when the first client dials."""
    activate = shutil.which("systemd-socket-activate")
    assert activate, "systemd-socket-activate is missing; install Debian's package systemd"
    command = [activate, *(f"--listen={address}" for address in listen), "--setenv=RELAYD_CONFIG=/dev/null"]
    if names:
        command.append(f"--fdname={names}")
    command += [sys.executable, "-m", "relayd", "--log-format=json", *flags]
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.kill()


def logged(log: Path, name: str) -> list[dict[str, str]]:
    lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [event for line in lines if line.startswith("{") and (event := json.loads(line))["event"] == name]


def dial(port: int) -> socket.socket:
    """Connect, as soon as somebody listens."""

    def attempt() -> socket.socket | None:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port))
        return None

    return until(attempt, "listener")


def test_without_listen_all_that_systemd_passed_is_listened_on(tmp_path: Path) -> None:
    log, path, ports = tmp_path / "log", tmp_path / "r.sock", [free_port(), free_port()]
    listen = [f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", str(path)]
    with activated(log, listen, "web:web:local") as process:
        dial(ports[0]).close()
        until(lambda: len(logged(log, "listening")) == 3, "three listeners")
        assert [(event["address"], event["passed_as"]) for event in logged(log, "listening")] == [
            (f"127.0.0.1:{ports[0]}", "web"),
            (f"127.0.0.1:{ports[1]}", "web"),
            (f"unix:{path}", "local"),
        ]
        url = "ws://relay/v1/server"
        with (
            connect(f"ws://127.0.0.1:{ports[0]}/v1/server", additional_headers=HEADERS),
            connect(f"ws://127.0.0.1:{ports[1]}/v1/client", additional_headers=HEADERS),
            unix_connect(str(path), url, additional_headers={**HEADERS, "x-pyrycode-server": "other"}),
        ):
            until(lambda: logged(log, "phone_registered"), "phone")
        process.terminate()
        assert process.wait(WAIT) == 0
    assert path.exists(), "the file of a socket that systemd owns is systemd's"


def test_sockets_can_be_named_and_mixed_with_addresses_of_ones_own(tmp_path: Path) -> None:
    log, ports = tmp_path / "log", [free_port(), free_port()]
    flags = ["--listen=127.0.0.1:0", "--listen=fd:web", "--listen", "fd:4"]
    with activated(log, [f"127.0.0.1:{port}" for port in ports], "web:other", *flags):
        dial(ports[1]).close()
        until(lambda: len(logged(log, "listening")) == 3, "three listeners")
        assert [event["passed_as"] for event in logged(log, "listening")] == ["web", "4", ""]


def get(port: int, target: str) -> tuple[int, bytes]:
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    with contextlib.closing(connection):
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize("listen", [[], ["--listen=fd:web"], ["--listen=127.0.0.1:0", "--listen=fd:3"]])
def test_metrics_are_served_on_a_socket_that_was_passed_on_and_nothing_else_is(
    tmp_path: Path, listen: list[str]
) -> None:
    log, ports = tmp_path / "log", [free_port(), free_port()]
    flags = [*listen, "--metrics-listen=fd:metrics"]
    with activated(log, [f"127.0.0.1:{port}" for port in ports], "web:metrics", *flags) as process:
        dial(ports[0]).close()
        until(lambda: logged(log, "metrics_listening"), "metrics")
        assert [event["address"] for event in logged(log, "metrics_listening")] == [f"127.0.0.1:{ports[1]}"]
        assert f"127.0.0.1:{ports[1]}" not in [event["address"] for event in logged(log, "listening")]
        status, body = get(ports[1], "/metrics")
        assert (status, b"relayd_build_info" in body) == (200, True)
        assert get(ports[1], "/healthz")[0] == 404
        assert get(ports[0], "/metrics")[0] == 404
        assert get(ports[0], "/healthz")[0] == 200
        process.terminate()
        assert process.wait(WAIT) == 0


def test_no_number_stands_for_a_socket_that_relayd_opened_itself(start_relay: Start) -> None:
    running = start_relay("--metrics-listen", "127.0.0.1:0")
    running.event("metrics_listening")
    rows = [line.split() for line in Path(f"/proc/{running.pid}/net/tcp").read_text().splitlines()[1:]]
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    descriptors = Path(f"/proc/{running.pid}/fd").iterdir()
    numbers = [int(each.name) for each in descriptors if os.readlink(each) in listening]
    assert len(numbers) == 2
    # Another one opens its sockets in the same order, and has them under the same numbers.
    for number in numbers:
        for flags in (
            ["--listen", f"fd:{number}", "--metrics-listen", "127.0.0.1:0"],
            ["--metrics-listen", f"fd:{number}", "--listen", "127.0.0.1:0"],
        ):
            refused = start_relay(*flags)
            assert refused.process.wait(WAIT) == 1
            assert refused.log_text().startswith(f"relayd: cannot listen on fd:{number}: ")
            assert refused.log_text().count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--listen=127.0.0.1:0"],
            "relayd: fd:web was passed on, but listen is set and leaves it out: add fd:web",
        ),
        (
            ["--listen=fd:webb"],
            "relayd: cannot listen on fd:webb: no socket of that name was passed on (fd:web",
        ),
        (
            ["--listen=fd:web", "--metrics-listen=fd:3"],
            "relayd: cannot listen on fd:web: fd:3 is the same socket",
        ),
        (
            ["--listen=fd:web", "--metrics-listen=fd:web"],
            "relayd: cannot listen on fd:web: listen has it, and metrics-listen",
        ),
        (["--listen=fd:web,fd:3"], "relayd: cannot listen on fd:3: fd:web is the same socket"),
    ],
)
def test_what_does_not_fit_what_was_passed_exits_1_with_one_line(
    tmp_path: Path, flags: list[str], line: str
) -> None:
    log, port = tmp_path / "log", free_port()
    with activated(log, [f"127.0.0.1:{port}"], "web", *flags) as process:
        dial(port).close()
        assert process.wait(WAIT) == 1
    said = [text for text in log.read_text().splitlines() if text.startswith("relayd: ")]
    assert len(said) == 1
    assert said[0].startswith(line)


@contextlib.contextmanager
def descriptor_of(kind: str) -> Iterator[int]:
    if kind == "a file":
        with open(os.devnull) as file:
            yield file.fileno()
    elif kind == "closed":
        yield 1_000_000
    elif kind == "beyond every number":
        yield 10**40
    else:
        types = {"a datagram socket": socket.SOCK_DGRAM}
        with socket.socket(socket.AF_INET, types.get(kind, socket.SOCK_STREAM)) as sock:
            yield sock.fileno()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("a file", "is no socket"),
        ("closed", "is not open"),
        ("beyond every number", "is not open"),
        ("a datagram socket", "that is ListenStream="),
        ("a socket that does not listen", "Accept=no"),
    ],
)
def test_a_descriptor_that_is_no_listener_is_refused_and_stays_open(kind: str, said: str) -> None:
    with descriptor_of(kind) as descriptor:
        with pytest.raises(CannotListen, match=said):
            list(PassedSockets().listeners([Address(fd=str(descriptor))]))
        if kind not in ("closed", "beyond every number"):
            os.fstat(descriptor)


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({"LISTEN_FDS": "2", "LISTEN_PID": "7", "LISTEN_FDNAMES": "a:b"}, {3: "a", 4: "b"}),
        ({"LISTEN_FDS": "2", "LISTEN_PID": "7", "LISTEN_FDNAMES": "a"}, {3: "a", 4: "4"}),
        ({"LISTEN_FDS": "2", "LISTEN_PID": "7"}, {3: "3", 4: "4"}),
        ({"LISTEN_FDS": "2", "LISTEN_PID": "8", "LISTEN_FDNAMES": "a:b"}, {}),
        ({"LISTEN_FDS": "2"}, {}),
        ({"LISTEN_FDS": "many", "LISTEN_PID": "7"}, {}),
        ({}, {}),
    ],
)
def test_variables_count_for_the_process_that_they_are_meant_for_and_are_removed(
    variables: dict[str, str], names: dict[int, str]
) -> None:
    environment = {"HOME": "/", **variables}
    assert take_passed_sockets(environment, 7).names == names
    assert environment == {"HOME": "/"}


def test_a_name_that_looks_like_a_number_is_a_name_first() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        passed = PassedSockets({os.dup(held.fileno()): "1000000"})
        (listener,) = passed.listeners(passed.addresses)
        assert listener.address == Address("127.0.0.1", held.getsockname()[1])
        listener.close()


@contextlib.contextmanager
def passed_on(sock: socket.socket, log: Path) -> Iterator[RelayProcess]:
    """A relay that was started with ``sock`` in the way of sd_listen_fds(3)."""
    descriptor = sock.fileno()
    script = f'exec 3<&{descriptor}; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=relayd; exec "$0" "$@"'
    relay = RelayProcess(log, "--listen=fd:relayd", wrapper=["bash", "-c", script], pass_fds=[descriptor])
    try:
        yield relay
    finally:
        relay.process.kill()
        relay.process.wait()


async def test_restarts_under_load_refuse_no_dial(tmp_path: Path) -> None:
    dials = 0
    dialled = trio.lowlevel.ParkingLot()

    async def dial_on(number: int, *, stays: bool) -> None:
        """Be a binary. One that stays is told 1001 and dials at once; another hangs up and dials at once."""
        nonlocal dials
        while True:
            client = Client(await trio.open_tcp_stream("127.0.0.1", port))
            try:
                await client.handshake(
                    "/v1/server", {**BINARY_HEADERS, "x-pyrycode-server": f"{number}-{dials}"}
                )
                dials += 1
                dialled.unpark_all()
                if stays:
                    assert (await client.closed())[0] == 1001
            finally:
                await trio.aclose_forcefully(client.stream)

    with socket.create_server(("127.0.0.1", 0), backlog=1000) as held:
        port = held.getsockname()[1]
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(partial(dial_on, number, stays=number % 2 == 0))
            for generation in range(4):
                before = dials
                with passed_on(held, tmp_path / f"log-{generation}") as relay:
                    with trio.fail_after(WAIT):
                        while dials < before + 400:
                            await dialled.park()
                    assert await trio.to_thread.run_sync(relay.stop) == 0
                    assert relay.event("stopped")["unfinished"] == 0
                    assert not relay.events("request_refused")
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def relay_with(held: socket.socket) -> AsyncIterator[tuple[Relay, list[Event]]]:
    """A relay in this loop that has another descriptor of ``held``."""
    events: list[Event] = []
    settings = Settings(listen=(Address(fd=str(os.dup(held.fileno()))),))
    relay = Relay(settings, events.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.serve)
        yield relay, events
        nursery.cancel_scope.cancel()


UPGRADE = (
    b"GET /v1/server HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"User-Agent: test\r\nX-Pyrycode-Server: s\r\nX-Pyrycode-Version: 1\r\n\r\n"
)


async def test_as_a_drain_begins_newcomers_stay_in_the_queue_and_those_let_in_get_101_and_1001(
    autojump_clock: MockClock,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        async with relay_with(held) as (relay, events):
            early = await trio.open_tcp_stream("127.0.0.1", port)
            await early.send_all(UPGRADE[:50])
            await trio.sleep(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay.drain, "test")
                await trio.sleep(0.5)
                newcomer = await trio.open_tcp_stream("127.0.0.1", port)
                await newcomer.send_all(b"newcomer")
                await early.send_all(UPGRADE[50:])
                answer = await early.receive_some(65536)
                while b"shutting down" not in answer:
                    answer += await early.receive_some(65536)
                assert answer.startswith(b"HTTP/1.1 101 ")
                assert b"\x03\xe9shutting down" in answer
                # A masked Close frame of code 1001, with a mask of zeros.
                await early.send_all(b"\x88\x82\0\0\0\0\x03\xe9")
                assert await early.receive_some(1) == b""
            assert events[-1] == Stopped(0)
            await early.aclose()
            # The next process: it finds the newcomer, with all that he has said so far.
            held.settimeout(WAIT)
            accepted, _ = held.accept()
            with accepted:
                assert accepted.recv(100) == b"newcomer"
            await newcomer.aclose()


async def test_a_stranger_who_says_nothing_holds_a_drain_up_for_a_second_at_most(
    autojump_clock: MockClock,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        async with relay_with(held) as (relay, events):
            stranger = await trio.open_tcp_stream("127.0.0.1", held.getsockname()[1])
            await trio.sleep(2)
            begun = trio.current_time()
            await relay.drain("test")
            assert trio.current_time() - begun == 1
            assert events[-1] == Stopped(0)
            await stranger.aclose()
