"""Bytes that are no HTTP, no WebSocket, no UTF-8 or no JSON, and JSON that is nothing but depth."""

import random
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.attacks.bounds import MIB, RelayStarter, UnderAttack, size
from tests.attacks.peers import (
    BEGINNING,
    CONTINUATION,
    Peer,
    binary,
    connect,
    frame,
    introduce,
    phone,
    read_all,
    request,
)
from tests.observed import ObservedRelay

FINAL = CONTINUATION | 0x80


NO_HEADS = (
    b"\0" * 100 + b"\r\n\r\n",
    b"\xff" * 20_000,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n",  # TLS
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /v1/client HTTP/1.1\r\n" + b"a: b\r\n" * 500 + b"\r\n",
    random.Random(1).randbytes(30_000),
)


def test_garbage_before_the_upgrade_gets_an_http_error_that_echoes_nothing(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    with under_attack(relay, memory=8 * MIB, sockets=2) as attack:
        for garbage in (*NO_HEADS, *(random.Random(seed).randbytes(30_000) for seed in range(size(5, 1000)))):
            with connect(relay.port) as attacker:
                attacker.sendall(garbage)
                attacker.shutdown(socket.SHUT_WR)
                status, _, rest = read_all(attacker).partition(b"\r\n")
            assert status.startswith(b"HTTP/1.1 4")
            assert rest.endswith(b"content-length: 0\r\n\r\n")
        attack.honest.exchange()


@pytest.mark.parametrize("path", ["/v1/client", "/v1/server"])
def test_garbage_after_the_upgrade_is_a_protocol_error(
    relay: ObservedRelay, under_attack: UnderAttack, path: str
) -> None:
    noise = [random.Random(seed).randbytes(5000) for seed in range(size(30, 1000))]
    with under_attack(relay, memory=8 * MIB, sockets=2) as attack:
        for number, garbage in enumerate([b"\xff" * 5000, bytes(5000), request(path, "honest"), *noise]):
            server_id = "honest" if path == "/v1/client" else f"garbage-{number}"
            with closing(Peer(connect(relay.port), path, server_id)) as attacker:
                attacker.socket.sendall(garbage)
                # 1009 where the garbage happens to spell the length of a frame that is too big.
                assert attacker.close_code() in (1002, 1009)
        attack.honest.exchange()


def nests(depth: int) -> Iterator[bytes]:
    """JSON that is nothing but depth, whole and unfinished."""
    for opening, closing_ in ((b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")):
        yield opening * depth + b"1" + closing_ * depth
        yield opening * depth


def test_json_nested_too_deep_is_dropped_from_a_binary_and_closes_a_phone_with_1007(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    # 87,381 levels of an object are 256 KiB.
    deep = [nest for depth in (2000, 20_000, 43_000) for nest in nests(depth) if len(nest) < 260_000]
    deep.append(b"[" * 262_144)
    with (
        under_attack(relay, memory=16 * MIB, sockets=3) as attack,
        closing(binary(relay.port, "deep")) as sender,
        closing(phone(relay.port, "deep")) as receiver,
    ):
        conn_id = introduce(sender, receiver)
        for _ in range(size(1, 20)):
            for nest in deep:
                sender.send(nest)
                # In the frame of an envelope, in the envelope itself, and where a conn_id should be.
                sender.send(b'{"conn_id":"%b","frame":%b}' % (conn_id, nest[:260_000]))
                sender.send(b'{"x":%b,"conn_id":"%b","frame":1}' % (nest[:260_000], conn_id))
                sender.send(b'{"conn_id":%b,"frame":1}' % nest[:260_000])
                with closing(phone(relay.port, "deep")) as attacker:
                    attacker.send(nest)
                    assert attacker.close_code() == 1007
                assert sender.text().endswith(b',"close_code":1001}')
        sender.send(b'{"conn_id":"%b","frame":"last"}' % conn_id)
        assert receiver.text() == b'"last"'
        attack.honest.exchange()


NOT_UTF_8 = (
    b"\x80",
    b"\xff",
    b"\xc0\xaf",  # "/" the long way
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",  # a surrogate
    b"\xf0\x9f\x98",  # cut off
    b"\xf4\x90\x80\x80",  # beyond Unicode
    b"\xf8\x88\x80\x80\x80",
    b"\xc3\x28",
)


def splits(text: bytes) -> Iterator[bytes]:
    """One message of ``text``, whole and in two fragments, split at every byte."""
    yield frame(text)
    for point in range(len(text) + 1):
        yield frame(text[:point], BEGINNING) + frame(text[point:], FINAL)


def test_invalid_utf_8_costs_its_sender_alone_wherever_it_is_split(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    # With a log of its own, since only so many events of a kind are logged, and here each counts.
    relay = start_relay()
    with (
        under_attack(relay, memory=8 * MIB, sockets=4) as attack,
        closing(binary(relay.port, "text")) as sender,
        closing(phone(relay.port, "text")) as receiver,
    ):
        conn_id = introduce(sender, receiver)
        dropped = 0
        for bad in NOT_UTF_8:
            for split in splits(b'"a%bz"' % bad):
                with closing(phone(relay.port, "text")) as attacker:
                    attacker.socket.sendall(split)
                    assert attacker.close_code() == 1007
                assert sender.text().endswith(b',"close_code":1001}')
            for split in splits(b'{"conn_id":"%b","frame":"a%bz"}' % (conn_id, bad)):
                sender.socket.sendall(split)
                dropped += 1
        sender.send(b'{"conn_id":"%b","frame":"last"}' % conn_id)
        assert receiver.text() == b'"last"'
        attack.honest.exchange()
    assert sum(event["malformed"] for event in relay.events("envelopes_dropped")) == dropped


def test_valid_utf_8_passes_wherever_it_is_split(relay: ObservedRelay, under_attack: UnderAttack) -> None:
    text = '"ä€😀\u0000"'.replace("\0", "\\u0000").encode()
    with (
        under_attack(relay, memory=8 * MIB, sockets=2),
        closing(binary(relay.port, "valid")) as reader,
        closing(phone(relay.port, "valid")) as attacker,
    ):
        conn_id = introduce(reader, attacker)
        for split in splits(text):
            # By the byte, so that the relay may meet any part of it alone.
            for position in range(len(split)):
                attacker.socket.sendall(split[position : position + 1])
            assert reader.text() == b'{"conn_id":"%b","frame":%b}' % (conn_id, text)
