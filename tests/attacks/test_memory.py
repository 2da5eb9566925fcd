"""However many peers leave bytes here, the relay's memory has a bound, and honest peers are served."""

import re
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.test_attacks import KEY, PING, PONG, TEXT, Peer, frame, introduce, request, under_attack
from tests.relay_process import WAIT, RelayProcess, until

RelayStarter = Callable[..., RelayProcess]

BUDGET = 16 * 1024 * 1024
BESIDE = 32 * 1024 * 1024
"""What may be taken beside the budget: free memory that malloc keeps, in the end and in gaps, the goodbyes of
all who are closed, one read and its messages, the queue of the log (4 MiB)."""

PATIENT = ("--heartbeat-interval", "3600", "--message-timeout", "3600", "--write-timeout", "3600")
"""However slow the machine is, nobody is closed for anything but the budget."""

CROWD = 400
MESSAGE = 262_144
PART = 200_000


def memory(relay: RelayProcess, name: str) -> int:
    """``VmRSS``, or ``VmHWM``, the most that it ever was: in bytes."""
    status = Path(f"/proc/{relay.pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Here and, inherited, in the daemon: the usual limit of 1,024 has no room for a crowd."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def reading_on(binary: Peer) -> Iterator[None]:
    """Read all that is for ``binary`` and drop it: it is told of every phone that goes."""

    def read() -> None:
        with suppress(OSError):
            while binary.socket.recv(65536):
                pass

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        binary.socket.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT)


def until_closed(relay: RelayProcess, count: int) -> list[dict[str, Any]]:
    """Wait until ``count`` connections have been closed because buffers were full; their events."""

    def found() -> list[dict[str, Any]]:
        events = relay.events("buffers_full")
        return events if len(events) >= count else []

    return until(found, f"end of {count} connections")


@pytest.mark.parametrize("path", ["/v1/client", "/v1/server"])
@pytest.mark.parametrize("shape", ["one frame", "fragments"])
def test_hundreds_of_peers_that_send_part_of_a_message_and_stop_take_no_more_than_the_budget(
    start_relay: RelayStarter, path: str, shape: str
) -> None:
    part = struct.pack("!BBQ", TEXT, 0x80 | 127, MESSAGE) + KEY + bytes(PART)
    if shape == "fragments":
        part = frame(bytes(1000), 0x01) + frame(bytes(1000), 0x00) * (PART // 1000 - 1)
    with many_descriptors():
        relay = start_relay(*PATIENT, "--max-buffered-bytes", str(BUDGET), "--max-phones", str(2 * CROWD))
        with (
            under_attack(relay) as honest,
            closing(Peer(relay, "/v1/server", "target")) as target,
            reading_on(target),
            ExitStack() as stack,
        ):
            attackers = []
            for number in range(CROWD):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", relay.port), WAIT))
                sock.sendall(request(path, "target" if path == "/v1/client" else f"part-{number}"))
                attackers.append(sock)
                assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
            before = memory(relay, "VmRSS")
            for number, sock in enumerate(attackers):
                # Closed meanwhile, or not.
                with suppress(ConnectionError):
                    sock.sendall(part)
                if number % 20 == 0:
                    honest.exchange(1)
            # Of 80 MB, as many may stay as the budget has room for.
            full = until_closed(relay, CROWD - BUDGET // PART)
            assert memory(relay, "VmHWM") - before < BUDGET + BESIDE
            assert {event["bytes"] for event in full} == {BUDGET}
        ends = relay.events("phone_unregistered") + relay.events("binary_released")
        reasons = {event["reason"] for event in ends if event["code"] == 1011}
        assert reasons == {"relay buffers full"}


def test_hundreds_of_phones_that_never_read_take_no_more_than_the_budget(start_relay: RelayStarter) -> None:
    crowd, rounds, size = 300, 40, 8192
    with many_descriptors():
        relay = start_relay(*PATIENT, "--max-buffered-bytes", str(BUDGET), "--max-phones", str(2 * crowd))
        with (
            under_attack(relay) as honest,
            closing(Peer(relay, "/v1/server", "target")) as binary,
            ExitStack() as stack,
        ):
            conn_ids = []
            for _ in range(crowd):
                phone = stack.enter_context(closing(Peer(relay, "/v1/client", "target", receive_buffer=4096)))
                conn_ids.append(introduce(binary, phone))
            stack.enter_context(reading_on(binary))
            before = memory(relay, "VmRSS")
            for _ in range(rounds):
                for conn_id in conn_ids:
                    binary.send(b'{"conn_id":"%b","frame":"%b"}' % (conn_id, b"x" * size))
                honest.exchange(1)
            full = until_closed(relay, crowd // 2)
            assert memory(relay, "VmHWM") - before < BUDGET + BESIDE
            assert {event["kind"] for event in full} == {"phone"}
        ends = {(event["code"], event["reason"]) for event in relay.events("phone_unregistered")}
        assert (1011, "phone backlog full") in ends


@pytest.mark.parametrize("path", ["/v1/client", "/v1/server"])
def test_hundreds_of_peers_that_have_sent_a_whole_message_leave_nothing_of_it_here(
    start_relay: RelayStarter, path: str
) -> None:
    with many_descriptors():
        relay = start_relay(*PATIENT, "--max-phones", str(2 * CROWD))
        with (
            under_attack(relay) as honest,
            closing(Peer(relay, "/v1/server", "target")) as target,
            reading_on(target),
            ExitStack() as stack,
        ):
            peers = []
            for number in range(CROWD):
                server_id = "target" if path == "/v1/client" else f"whole-{number}"
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", relay.port), WAIT))
                sock.sendall(request(path, server_id))
                peers.append(sock)
                assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
            # A pong comes when all before its ping has gone its way. The first brings what answers them.
            message = frame(b'{"conn_id":"c-nobody","frame":"%b"}' % (b"x" * PART))
            for before_ping in (b"", message):
                before = memory(relay, "VmRSS")
                for sock in peers:
                    sock.sendall(before_ping + frame(b"", PING))
                    assert sock.recv(2, socket.MSG_WAITALL) == bytes((PONG, 0))
            honest.exchange()
            # Of 80 MB.
            assert memory(relay, "VmHWM") - before < BESIDE


def test_phones_whose_messages_wait_for_binaries_that_do_not_read_take_no_more_than_the_budget(
    start_relay: RelayStarter,
) -> None:
    groups, phones_each, size = 50, 6, 260_000
    with many_descriptors():
        relay = start_relay(*PATIENT, "--max-buffered-bytes", str(BUDGET))
        with under_attack(relay) as honest, ExitStack() as stack:
            phones = []
            for number in range(groups):
                server_id = f"deaf-{number}"
                stack.enter_context(closing(Peer(relay, "/v1/server", server_id, receive_buffer=4096)))
                for _ in range(phones_each):
                    phones.append(stack.enter_context(closing(Peer(relay, "/v1/client", server_id))))
            before = memory(relay, "VmRSS")
            message = frame(b'"' + b"x" * size + b'"')
            for number, phone in enumerate(phones):
                # 78 MB in all. Those whose binary has been closed are closed too.
                with suppress(ConnectionError):
                    phone.socket.sendall(message)
                if number % 20 == 0:
                    honest.exchange(1)
            until_closed(relay, 5)
            honest.exchange()
            assert memory(relay, "VmHWM") - before < BUDGET + BESIDE
