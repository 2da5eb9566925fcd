"""Peers that send as much as they can: control frames, fragments, rubbish, and messages of all sizes."""

import random
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.attacks.bounds import MIB, RelayStarter, UnderAttack, size
from tests.attacks.peers import (
    BEGINNING,
    CONTINUATION,
    PING,
    PONG,
    binary,
    close_frame,
    frame,
    introduce,
    phone,
)
from tests.observed import ObservedRelay

STANDSTILL = 1.0
"""Seconds without a byte taken after which a flood is held up for good: whom the relay does not read."""


def flood(blocks: dict[socket.socket, bytes], times: int) -> dict[socket.socket, int]:
    """Send each socket's block so many times, all at once; how many bytes went.

    Nothing that comes back is read. A flood ends early where the relay has stopped reading, or hung up.
    """
    sent = dict.fromkeys(blocks, 0)
    going = set(blocks)
    last = time.monotonic()
    while going and time.monotonic() - last < STANDSTILL:
        for sock in select.select([], going, [], 0.1)[1]:
            begun = sent[sock] % len(blocks[sock])
            try:
                sent[sock] += sock.send(memoryview(blocks[sock])[begun:], socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                going.remove(sock)
                continue
            last = time.monotonic()
            if sent[sock] == times * len(blocks[sock]):
                going.remove(sock)
    return sent


def test_floods_of_control_frames_and_of_fragments_pile_nothing_up(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay()
    blocks = {
        "pings": frame(b"p" * 125, PING) * 500,
        "pongs": frame(b"p" * 125, PONG) * 500,
        "fragments": frame(b"", CONTINUATION) * 200,
        "pings in fragments": (frame(b"", CONTINUATION) + frame(b"", PING)) * 100,
    }
    with under_attack(relay, memory=6 * MIB, sockets=2 * len(blocks)) as attack, ExitStack() as stack:
        flooding = {}
        for name, block in blocks.items():
            server_id = f"flood {name}"
            for peer in (binary(relay.port, server_id), phone(relay.port, server_id)):
                # With an RST: a FIN would wait behind what the relay has left in the socket.
                stack.callback(peer.reset)
                if "fragments" in name:
                    peer.socket.sendall(frame(b'"', BEGINNING))
                flooding[peer.socket] = block
        flood(flooding, size(70, 1500))
        attack.look()
        attack.honest.exchange()


@pytest.mark.parametrize("path", ["/v1/client", "/v1/server"])
def test_close_is_answered_after_all_the_pings_that_come_before_it(
    relay: ObservedRelay, under_attack: UnderAttack, path: str
) -> None:
    with under_attack(relay, memory=8 * MIB, sockets=1) as attack:
        attacker = binary(relay.port, "pings") if path == "/v1/server" else phone(relay.port, "honest")
        with closing(attacker):
            # No more than a peer may send at once; of more, it would have to wait for the answer.
            attacker.socket.sendall(frame(b"ping", PING) * 90)
            attack.honest.exchange()
            attacker.socket.sendall(close_frame(3000))
            assert attacker.close_code() == 3000


def test_flood_of_rubbish_from_binaries_is_logged_by_the_read_and_holds_up_nobody(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    rubbish = {
        "empty": frame(b"") * 500,
        "not JSON": frame(b"\xff") * 500,
        "to nobody": frame(b'{"conn_id":"c-nobody","frame":1}') * 250,
        "push": frame(b'{"push_wake":{}}') * 250,
    }
    with under_attack(relay, memory=8 * MIB, sockets=len(rubbish)) as attack, ExitStack() as stack:
        blocks = {}
        for name, block in rubbish.items():
            peer = stack.enter_context(closing(binary(relay.port, name)))
            blocks[peer.socket] = block
        sent = flood(blocks, size(50, 2000))
        attack.look()
        attack.honest.exchange(50)
        stack.close()
        dropped = relay.events("envelopes_dropped")
        assert {event["server_id"] for event in dropped} <= rubbish.keys()
        assert 0 < len(dropped) < sum(sent.values()) / 100


def fragments(payload: bytes) -> bytes:
    """A message in fragments of one byte, its final one left out."""
    rest = b"".join(frame(payload[i : i + 1], CONTINUATION) for i in range(1, len(payload)))
    return frame(payload[:1], BEGINNING) + rest


def test_fragments_of_one_byte_add_up_to_the_size_cap_and_beyond_it_to_1009(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    cap = size(20_000, 262_144)
    relay = start_relay("--max-frame-bytes", str(cap))
    message = b'"' + b"x" * (cap - 2) + b'"'
    with (
        under_attack(relay, memory=8 * MIB, sockets=2) as attack,
        closing(binary(relay.port, "cap")) as reader,
        closing(phone(relay.port, "cap")) as attacker,
    ):
        attacker.socket.sendall(fragments(message))
        attack.honest.exchange()
        attack.look()
        attacker.socket.sendall(frame(b"", CONTINUATION | 0x80))
        prefix, _, received = reader.text().partition(b'"frame":')
        assert received == message + b"}"
        attacker.socket.sendall(fragments(message))
        attacker.socket.sendall(frame(b"x", CONTINUATION))
        assert attacker.close_code() == 1009
        assert reader.text() == prefix + b'"close_code":1001}'


def mixed(dice: random.Random, most: int) -> Iterator[bytes]:
    """JSON strings, tiny ones and huge ones in no order."""
    while True:
        length = dice.choice((0, 1, 2, 123, 124, dice.randrange(70_000), most))
        yield b'"%b"' % (b"%x" % dice.randrange(16) * length)


def test_huge_and_tiny_frames_mixed_arrive_in_order_both_ways(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    dice = random.Random(5)
    with (
        under_attack(relay, memory=24 * MIB, sockets=2) as attack,
        closing(binary(relay.port, "mixed")) as sender,
        closing(phone(relay.port, "mixed")) as receiver,
    ):
        conn_id = introduce(sender, receiver)
        # Less than the cap by what an envelope adds.
        messages = mixed(dice, 262_144 - 100)
        for _ in range(size(8, 400)):
            # Less together than a phone's outbox, so that nobody is closed for a backlog.
            batch = [next(messages) for _ in range(dice.randrange(1, 15))]
            for message in batch:
                sender.send(b'{"conn_id":"%b","frame":%b}' % (conn_id, message))
            assert [receiver.text() for _ in batch] == batch
            up = batch[:2]
            for message in up:
                receiver.send(message)
            assert [sender.text() for _ in up] == [
                b'{"conn_id":"%b","frame":%b}' % (conn_id, message) for message in up
            ]
        attack.look()
