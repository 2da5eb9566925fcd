"""Reaching a phone of somebody else's."""

import secrets
from collections.abc import Iterator
from contextlib import closing

from tests.attacks.bounds import MIB, UnderAttack, size
from tests.attacks.peers import PING, binary, frame, introduce, phone
from tests.observed import ObservedRelay


def guesses(conn_id: bytes) -> Iterator[bytes]:
    """Envelopes for the phone ``conn_id`` in every spelling, and for phones that nobody has heard of."""
    name = b'"%b"' % conn_id
    escaped = b'"%b"' % b"".join(b"\\u%04x" % byte for byte in conn_id)
    for spelling in (
        name,
        escaped,
        b'"\\u0063%b"' % conn_id[1:],
        b'"%b\\u0000"' % conn_id,
        b'" %b"' % conn_id,
        b'"%b"' % conn_id.upper(),
        b'"%b"' % conn_id[:-1],
        b'"%bx"' % conn_id,
        b'"honest/%b"' % conn_id,
        b'"../honest/%b"' % conn_id,
        b'"*"',
        b'""',
        b"null",
        b"[%b]" % name,
        b'{"conn_id":%b}' % name,
    ):
        yield b'{"conn_id":%b,"frame":"stolen"}' % spelling
        yield b'{"conn_id":%b,"close_code":4401}' % spelling
        yield b'{"conn_id":%b,"frame":"stolen","close_code":1000}' % spelling
        yield b'{"frame":"stolen","conn_id":"c-x","conn_id":%b}' % spelling
        yield b'{"conn_id":%b,"conn_id":"c-x","frame":"stolen"}' % spelling
    yield b'{"conn_id":"c-x","frame":"stolen","server_id":"honest","conn_id":%b}' % name
    yield b'{"push_wake":{"conn_id":%b},"frame":"stolen"}' % name
    while True:
        guess = secrets.token_urlsafe(16).encode()
        yield b'{"conn_id":"c-%b","frame":"stolen"}' % guess
        yield b'{"conn_id":"c-%b","close_code":4401}' % guess


def test_phone_of_another_server_id_cannot_be_reached_even_by_who_knows_its_conn_id(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    with (
        under_attack(relay, memory=8 * MIB, sockets=4) as attack,
        closing(binary(relay.port, "robber")) as robber,
        closing(phone(relay.port, "robber")) as own,
        closing(binary(relay.port, "other")) as other,
        closing(phone(relay.port, "other")) as victim,
    ):
        own_id = introduce(robber, own)
        victim_id = introduce(other, victim)
        count = size(2000, 500_000)
        for conn_id in (attack.honest.conn_id.encode(), victim_id):
            guess = guesses(conn_id)
            for _ in range(count // 100):
                robber.socket.sendall(b"".join(frame(next(guess)) for _ in range(100)))
        # What is behind all of it has arrived, so all of it has been dealt with.
        robber.send(b'{"conn_id":"%b","frame":"mine"}' % own_id)
        assert own.text() == b'"mine"'
        attack.look()
        # The pong is the first thing that the victim is sent.
        victim.socket.sendall(frame(b"?", PING))
        assert victim.frame()[1] == b"?"
        other.send(b'{"conn_id":"%b","frame":"yours"}' % victim_id)
        assert victim.text() == b'"yours"'
        assert not robber.waiting()
        assert not other.waiting()


def test_envelope_from_a_phone_is_a_frame_like_any_other(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    with (
        under_attack(relay, memory=8 * MIB, sockets=3),
        closing(binary(relay.port, "envelopes")) as reader,
        closing(phone(relay.port, "envelopes")) as sibling,
        closing(phone(relay.port, "envelopes")) as forger,
    ):
        sibling_id, forger_id = introduce(reader, sibling), introduce(reader, forger)
        for forged in (
            b'{"conn_id":"%b","frame":"stolen"}' % sibling_id,
            b'{"conn_id":"%b","close_code":4401}' % sibling_id,
            b'"x"',
        ):
            forger.send(forged)
            assert reader.text() == b'{"conn_id":"%b","frame":%b}' % (forger_id, forged)
        # Nor does a frame end before its end, and go on as an envelope.
        forger.send(b'"x"},{"conn_id":"%b","frame":"stolen"' % sibling_id)
        assert forger.close_code() == 1007
        assert reader.text() == b'{"conn_id":"%b","close_code":1001}' % forger_id
        sibling.send(b'"still here"')
        assert reader.text() == b'{"conn_id":"%b","frame":"still here"}' % sibling_id
