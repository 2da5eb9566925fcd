"""Peers that are slow on purpose: with their heads, with bodies behind them, with their messages."""

import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress

from tests.attacks.bounds import MIB, RelayStarter, UnderAttack, size
from tests.attacks.peers import CLOSE, KEY, OVER_TLS, Peer, connect, readable, request
from tests.relay_process import until

HEAD_BYTES = 16 * 1024
"""The longest request head."""


def dribble(
    peers: dict[socket.socket, bytes], tick: Callable[[], object] = bool, *, past_the_end: bool = False
) -> dict[socket.socket, bytes]:
    """Send bytes of ``peers``' choice to each now and then, until each has been hung up on.

    With ``past_the_end``, go on until the kernel refuses. ``tick`` is called between two rounds. Returns
    all that each has received.
    """
    received = dict.fromkeys(peers, b"")
    sending = set(peers)
    reading = set(peers)

    def serve(sock: socket.socket) -> None:
        if sock in reading and readable(sock):
            data = sock.recv(65536)
            received[sock] += data
            if not data:
                reading.remove(sock)
                if not past_the_end:
                    sending.remove(sock)
                    return
        sock.send(peers[sock], socket.MSG_DONTWAIT)

    def one_round() -> bool:
        for sock in list(sending):
            try:
                serve(sock)
            except BlockingIOError:
                pass
            except OSError:
                sending.remove(sock)
        tick()
        return not sending

    until(one_round, "end of the dribble")
    return received


def test_slow_heads_are_ended_by_the_handshake_timeout_and_hold_no_more_than_their_bytes(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    count = size(300, 1500, 600)
    seconds = size(3, 8) if OVER_TLS else size(1, 5)
    relay = start_relay("--handshake-timeout", str(seconds))
    begun = b"GET /v1/client HTTP/1.1\r\nHost: relay\r\nx-fill: "
    openings = [b"", begun, begun + b"a" * (HEAD_BYTES - len(begun) - 1)]
    with under_attack(relay, memory=8 * MIB + count * 32 * 1024, sockets=count) as attack, ExitStack() as stack:
        peers: dict[socket.socket, bytes] = {}
        kinds: dict[socket.socket, int] = {}
        for number in range(count):
            sock = stack.enter_context(connect(relay.port))
            sock.sendall(openings[number % 3])
            # Those with nothing to say have nothing to say later on either.
            peers[sock] = b"a" if number % 3 else b""
            kinds[sock] = number % 3
        statuses: dict[int, set[bytes]] = {0: set(), 1: set(), 2: set()}
        for sock, answer in dribble(peers, attack.look).items():
            statuses[kinds[sock]].add(answer[:12])
    # Where there is no room for so many at a time, some are turned away unread.
    full = b"HTTP/1.1 503"
    if OVER_TLS:
        # While everybody else shakes hands, who dialled first may be late with his next byte.
        statuses[2].discard(b"HTTP/1.1 408")
    assert [found - {full} for found in statuses.values()] == [{b""}, {b"HTTP/1.1 408"}, {b"HTTP/1.1 431"}]


def test_body_behind_a_head_is_neither_kept_nor_waited_for(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay("--handshake-timeout", "0.5")
    heads = [
        b"GET /healthz HTTP/1.1\r\nHost: relay\r\nContent-Length: 999999999\r\n\r\n",
        b"POST /v1/client HTTP/1.1\r\nHost: relay\r\nTransfer-Encoding: chunked\r\n\r\n",
        request("/v1/server", "body", {b"Content-Length": b"999999999"}),
    ]
    count = size(4, 40)
    with (
        under_attack(relay, memory=8 * MIB, sockets=count * len(heads)) as attack,
        ExitStack() as stack,
    ):
        peers = {}
        for head in heads * count:
            sock = stack.enter_context(connect(relay.port))
            sock.sendall(head)
            peers[sock] = b"b" * 65536
        received = dribble(peers, attack.look, past_the_end=True)
    assert {answer[:12] for answer in received.values()} <= {
        b"HTTP/1.1 200",
        b"HTTP/1.1 405",
        b"HTTP/1.1 400",
        # To close a socket with unread bytes resets the connection, and the answer may be lost on the way.
        b"",
    }


def test_half_messages_behind_the_head_are_closed_with_1008_and_hold_no_more_than_a_message(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    count = size(20, 400)
    most = 262_144
    relay = start_relay("--message-timeout", "1", "--grace", "0.1")
    half = b"\x81\xff" + struct.pack("!Q", most) + KEY + b"a" * (most * 3 // 4)
    # Twice a message: its bytes, and what is lost to the heap between buffers that grow and go.
    memory = 8 * MIB + count * 2 * most
    with under_attack(relay, memory=memory, sockets=count) as attack, ExitStack() as stack:
        peers: dict[socket.socket, bytes] = {}
        for number in range(count):
            # Half of them in one fragment that has begun, half in fragments of which the last never comes.
            behind = half if number % 2 else b"\x01" + half[1:] + b"a" * (most // 4)
            peer = Peer(connect(relay.port), "/v1/server", f"slow-{number}", behind)
            stack.enter_context(closing(peer))
            peers[peer.socket] = b"a" if number % 2 else b""
        attack.look()
        answers: dict[socket.socket, bytes] = {}

        def all_closed() -> bool:
            for sock in peers.keys() - answers.keys():
                with suppress(BlockingIOError):
                    sock.send(peers[sock], socket.MSG_DONTWAIT)
                    answers[sock] = sock.recv(4096, socket.MSG_DONTWAIT)
            return len(answers) == count

        until(all_closed, "Close frame for each")
    assert set(answers.values()) == {struct.pack("!BBH", CLOSE, 18, 1008) + b"message too slow"}
