"""However many peers leave bytes here, the relay's memory has a bound, and honest peers are served."""

import resource
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest

from tests.attacks.bounds import LARGE, MIB, RelayStarter, UnderAttack, size
from tests.attacks.peers import KEY, PING, PONG, TEXT, Peer, binary, connect, frame, introduce, phone, request
from tests.observed import ObservedRelay
from tests.relay_process import WAIT, until

BUDGET = 16 * MIB
BESIDE = 24 * MIB
"""What may be taken beside the budget: free memory that malloc keeps (16 MiB), one read and its messages, the
queue of the log (4 MiB)."""

AT_THE_END = 48 * 1024
"""What a connection takes for a moment when it ends together with a thousand others, all in one turn."""

CROWD = 1_000
HALF = 131_072


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
def reading_on(reader: Peer) -> Iterator[None]:
    """Read all that is for ``reader`` and drop it: it is told of every phone that goes."""

    def read() -> None:
        with suppress(OSError):
            while reader.socket.recv(65536):
                pass

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        reader.socket.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT)


def until_closed(relay: ObservedRelay, count: int) -> list[dict[str, Any]]:
    """Wait until ``count`` connections have been closed because buffers were full; their events."""

    def found() -> list[dict[str, Any]]:
        events = relay.events("buffers_full")
        return events if len(events) >= count else []

    return until(found, f"end of {count} connections")


SHAPES = [("/v1/client", "one frame"), ("/v1/server", "fragments")]
OTHERS = [("/v1/client", "fragments"), ("/v1/server", "one frame")]


@pytest.mark.parametrize(("path", "shape"), [*SHAPES, *OTHERS] if LARGE else SHAPES)
def test_thousand_peers_that_send_half_a_message_and_stop_take_no_more_than_the_budget(
    start_relay: RelayStarter, under_attack: UnderAttack, path: str, shape: str
) -> None:
    half = struct.pack("!BBQ", TEXT, 0x80 | 127, 2 * HALF) + KEY + bytes(HALF)
    if shape == "fragments":
        half = frame(bytes(1024), 0x01) + frame(bytes(1024), 0x00) * (HALF // 1024 - 1)
    with many_descriptors():
        relay = start_relay("--max-buffered-bytes", str(BUDGET), "--max-phones", str(2 * CROWD))
        with (
            under_attack(relay, memory=BUDGET + BESIDE + CROWD * AT_THE_END, sockets=CROWD + 1) as attack,
            closing(binary(relay.port, "target")) as target,
            reading_on(target),
            ExitStack() as stack,
        ):
            attackers = []
            for number in range(CROWD):
                sock = stack.enter_context(connect(relay.port))
                sock.sendall(request(path, "target" if path == "/v1/client" else f"half-{number}"))
                attackers.append(sock)
                assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
            attack.count_memory_from_here()
            for number, sock in enumerate(attackers):
                # Closed meanwhile, or not.
                with suppress(ConnectionError):
                    sock.sendall(half)
                if number % 20 == 0:
                    attack.honest.exchange(1)
            # Of 128 MiB, as many may stay as the budget has room for.
            full = until_closed(relay, CROWD - BUDGET // HALF)
            assert {event["bytes"] for event in full} == {BUDGET}
        ends = relay.events("phone_unregistered") + relay.events("binary_released")
        reasons = {event["reason"] for event in ends if event["code"] == 1011}
        assert reasons == {"relay buffers full"}


def test_hundreds_of_phones_that_never_read_take_no_more_than_the_budget(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    crowd, rounds, length = size(300, 2_000), 40, 8192
    # In a small crowd, what ends together is next to nothing.
    at_the_end = crowd * AT_THE_END if LARGE else 0
    with many_descriptors():
        relay = start_relay("--max-buffered-bytes", str(BUDGET), "--max-phones", str(2 * crowd))
        with (
            under_attack(relay, memory=BUDGET + BESIDE + at_the_end, sockets=crowd + 1) as attack,
            closing(binary(relay.port, "target")) as feeder,
            ExitStack() as stack,
        ):
            conn_ids = []
            for _ in range(crowd):
                peer = stack.enter_context(closing(phone(relay.port, "target", receive_buffer=4096)))
                conn_ids.append(introduce(feeder, peer))
            stack.enter_context(reading_on(feeder))
            attack.count_memory_from_here()
            for _ in range(rounds):
                for conn_id in conn_ids:
                    feeder.send(b'{"conn_id":"%b","frame":"%b"}' % (conn_id, b"x" * length))
                attack.honest.exchange(1)
            full = until_closed(relay, crowd // 2)
            assert {event["kind"] for event in full} == {"phone"}
        ends = {(event["code"], event["reason"]) for event in relay.events("phone_unregistered")}
        assert (1011, "phone backlog full") in ends


@pytest.mark.parametrize("path", ["/v1/client", "/v1/server"] if LARGE else ["/v1/server"])
def test_thousand_peers_that_have_sent_a_whole_message_leave_nothing_of_it_here(
    start_relay: RelayStarter, under_attack: UnderAttack, path: str
) -> None:
    with many_descriptors():
        relay = start_relay("--max-phones", str(2 * CROWD))
        with (
            under_attack(relay, memory=BESIDE + CROWD * AT_THE_END, sockets=CROWD + 1) as attack,
            closing(binary(relay.port, "target")) as target,
            reading_on(target),
            ExitStack() as stack,
        ):
            peers = []
            for number in range(CROWD):
                server_id = "target" if path == "/v1/client" else f"whole-{number}"
                sock = stack.enter_context(connect(relay.port))
                sock.sendall(request(path, server_id))
                peers.append(sock)
                assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
            # A pong comes when all before its ping has gone its way. The first brings what answers them.
            message = frame(b'{"conn_id":"c-nobody","frame":"%b"}' % bytes(b"x" * HALF))
            for before_ping in (b"", message):
                attack.count_memory_from_here()
                for sock in peers:
                    sock.sendall(before_ping + frame(b"", PING))
                    assert sock.recv(2, socket.MSG_WAITALL) == bytes((PONG, 0))
            attack.honest.exchange()


def test_phones_whose_messages_wait_for_binaries_that_do_not_read_take_no_more_than_the_budget(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    groups, phones_each, size = 50, 6, 260_000
    with many_descriptors():
        relay = start_relay("--max-buffered-bytes", str(BUDGET))
        with (
            under_attack(relay, memory=BUDGET + BESIDE, sockets=groups * (phones_each + 1)) as attack,
            ExitStack() as stack,
        ):
            phones = []
            for number in range(groups):
                server_id = f"deaf-{number}"
                stack.enter_context(closing(binary(relay.port, server_id, receive_buffer=4096)))
                for _ in range(phones_each):
                    phones.append(stack.enter_context(closing(phone(relay.port, server_id))))
            attack.count_memory_from_here()
            message = frame(b'"' + b"x" * size + b'"')
            for number, peer in enumerate(phones):
                # 78 MB in all. Those whose binary has been closed are closed too.
                with suppress(ConnectionError):
                    peer.socket.sendall(message)
                if number % 20 == 0:
                    attack.honest.exchange(1)
            until_closed(relay, 5)
            attack.honest.exchange()
