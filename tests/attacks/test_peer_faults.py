"""Peers that are killed or stopped: theirs is no attack, and it happens every day."""

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import closing

from tests.attacks.bounds import MIB, Honest, RelayStarter, UnderAttack, size
from tests.attacks.peers import CONTINUATION, PING, binary, close_frame, frame, request
from tests.relay_process import until

VICTIM = """
import json, sys
from tests.attacks.peers import connect
port, *beginnings = json.loads(sys.stdin.readline())
socks = []
for beginning in beginnings:
    sock = connect(port)
    data = bytes.fromhex(beginning)
    sock.sendall(data)
    if b"\\r\\n\\r\\n" in data:
        sock.recv(1)
    socks.append(sock)
print("ready", flush=True)
sys.stdin.read()
"""
"""A process of many peers, each of which has got as far as a beginning of its session."""


def session(path: str, server_id: str) -> bytes:
    """All that a peer sends in its life."""
    frames = (
        frame(b'"%b"' % (b"x" * 300)),
        frame(b"ping", PING),
        frame(b'"begun', 0x01),
        frame(b' and ended"', CONTINUATION | 0x80),
        frame(b'"%b"' % (b"y" * 70_000)),
        close_frame(1000),
    )
    return request(path, server_id) + b"".join(frames)


def test_peers_killed_at_any_point_of_a_session_are_released(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay("--grace", "0.1")
    dice = random.Random(11)
    with under_attack(relay, memory=8 * MIB, sockets=30) as attack:
        for kill in range(size(3, 100)):
            beginnings = []
            for number in range(30):
                # The honest server-id has room for 15 more phones.
                phone = number % 2
                whole = (
                    session("/v1/client", "honest")
                    if phone
                    else session("/v1/server", f"victim-{kill}-{number}")
                )
                point = dice.choice((dice.randrange(1, 800), dice.randrange(1, len(whole))))
                beginnings.append(whole[:point].hex())
            command = [sys.executable, "-S", "-c", VICTIM]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
                assert victim.stdin is not None
                assert victim.stdout is not None
                victim.stdin.write(json.dumps([relay.port, *beginnings]).encode() + b"\n")
                victim.stdin.flush()
                assert victim.stdout.readline() == b"ready\n"
                attack.look()
                os.kill(victim.pid, signal.SIGKILL)
            assert victim.returncode == -signal.SIGKILL
            attack.honest.exchange()
        until(attack.over, "release of everything")
        # Two of the honest pair's are still there.
        for begun, ended in (("binary_claimed", "binary_released"), ("phone_registered", "phone_unregistered")):
            assert len(relay.events(begun)) == len(relay.events(ended)) + 1 > 10


def test_peers_that_are_stopped_for_less_than_a_heartbeat_miss_nothing(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay()
    with under_attack(relay, memory=8 * MIB, sockets=2) as attack, closing(Honest(relay, "stopped")) as other:
        for _ in range(size(3, 100)):
            os.kill(other.process.pid, signal.SIGSTOP)
            attack.honest.exchange(50)
            os.kill(other.process.pid, signal.SIGCONT)
            other.exchange(5)
        attack.look()
        other.finish()


def test_peers_that_are_stopped_for_longer_than_a_heartbeat_are_closed_and_their_server_id_is_free(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay("--heartbeat-interval", "0.2", "--heartbeat-timeout", "2", "--grace", "30")
    with under_attack(relay, memory=8 * MIB, sockets=3) as attack, closing(Honest(relay, "stopped")) as other:
        os.kill(other.process.pid, signal.SIGSTOP)
        for name in ("binary_released", "phone_unregistered"):
            relay.event(name, server_id="stopped", code=1011, reason="heartbeat timeout")
        with closing(binary(relay.port, "stopped")):
            attack.look()
            assert relay.event("binary_reclaimed")["server_id"] == "stopped"
        attack.honest.exchange()
