"""Peers that come and go, in every way there is."""

import random
import re
import socket
import time
import urllib.request
from contextlib import closing

from tests.attacks.bounds import LARGE, MIB, RelayStarter, UnderAttack, size
from tests.attacks.peers import CONTINUATION, PING, Peer, binary, close_frame, connect, frame, phone, request
from tests.observed import ObservedRelay, peak_memory
from tests.relay_process import WAIT, until


def test_connections_that_come_and_go_leave_nothing_behind(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay("--grace", "0.1")
    with under_attack(relay, memory=8 * MIB, sockets=64) as attack:
        for number in range(size(300, 20_000, 4000)):
            path = ("/v1/server", "/v1/client")[number % 2]
            match number % 7:
                case 0 | 1:
                    connect(relay.port).close()
                case 2:
                    Peer(connect(relay.port), path, f"churn-{number}").reset()
                case 3 | 4:
                    Peer(connect(relay.port), path, f"churn-{number}").close()
                case 5:
                    peer = Peer(connect(relay.port), path, "honest")
                    peer.socket.sendall(close_frame(1000))
                    peer.close()
                case _:
                    with connect(relay.port) as sock:
                        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
            if number % 50 == 0:
                attack.look()
        attack.honest.exchange()


def in_grace(relay: ObservedRelay) -> int:
    """How many server-ids wait for their binary, as the metrics say."""
    address = next(event["address"] for event in relay.events("metrics_listening"))
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        page = answer.read().decode()
    found = re.search(r'^relayd_connections\{kind="binary",state="grace"\} ([0-9.]+)$', page, re.MULTILINE)
    assert found, page
    return int(float(found[1]))


def test_server_ids_claimed_and_dropped_are_forgotten_with_their_grace_window(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    count, grace = size(150, 10_000, 2000), 30 if LARGE else 0.5
    relay = start_relay("--grace", str(grace), "--metrics-listen", "127.0.0.1:0")
    relay.event("metrics_listening")

    def claim_and_drop(name: str) -> None:
        for number in range(count):
            Peer(connect(relay.port), "/v1/server", f"{name}-{number}-{'x' * 100}").reset()
        deadline = time.monotonic() + grace + WAIT
        while in_grace(relay):
            assert time.monotonic() < deadline, "grace windows do not end"
            attack.honest.exchange(1)

    with under_attack(relay, memory=8 * MIB + count * 2048, sockets=64) as attack:
        claim_and_drop("claimed")
        # Whose window has passed is nobody's: his phones are turned away.
        with closing(phone(relay.port, f"claimed-0-{'x' * 100}")) as late:
            assert late.close_code() == 4404
        first = peak_memory(relay.pid)
        # As many again cost nothing more: what the first ones took has been given back.
        claim_and_drop("again")
        assert peak_memory(relay.pid) - first <= 2 * MIB + count * 100


def test_resets_at_any_point_of_a_session_release_whatever_it_held(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay("--grace", "0.1")
    dice = random.Random(7)
    count = size(60, 3000, 600)
    with under_attack(relay, memory=8 * MIB, sockets=64) as attack:
        for number in range(count):
            path, server_id = ("/v1/client", "honest") if number % 2 else ("/v1/server", f"reset-{number}")
            session = request(path, server_id) + b"".join(
                (
                    frame(b'"%b"' % (b"x" * 300)),
                    frame(b"ping", PING),
                    frame(b'"begun', 0x01),
                    frame(b' and ended"', CONTINUATION | 0x80),
                    frame(b'"%b"' % (b"y" * 70_000)),
                    close_frame(1000),
                )
            )
            # Anywhere: in the head, between two frames, in a header, in a payload, in the Close frame.
            point = dice.choice((dice.randrange(1, 800), dice.randrange(1, len(session))))
            with connect(relay.port) as sock:
                sock.sendall(session[:point])
                if b"\r\n\r\n" in session[:point]:
                    # What was not read when an RST comes never is: so let most get further than their head.
                    assert sock.recv(1)
                    if number % 4:
                        attack.honest.exchange(1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if number % 20 == 0:
                attack.look()
        attack.honest.exchange()
        # A server-id is free again, however its binary went.
        until(attack.over, "release of everything")
        with closing(binary(relay.port, "reset-0")):
            attack.honest.exchange(1)
