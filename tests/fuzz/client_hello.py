"""The ClientHello: the same in any cuts, and where OpenSSL finds a name, the same name."""

import ssl
from contextlib import suppress

from relayd.wire.client_hello import BadClientHello, ClientHello, ClientHelloReader
from tests.fuzz.cuts import cut

LONGEST = 1_000
WORDS = (
    b"\x16\x03\x01",
    b"\x16\x03\x01\0\x01",
    b"\x01\0",
    b"\x03\x03",
    b"\0\0\0\x0a\0\x08\0\0\x05a.bcd",
    b"\0\x10\0\x0b\0\x09\x08http/1.1",
    b"\0\x10",
    b"relay.example.org",
)

_OPENSSL = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

Outcome = ClientHello | str | None
"""What was found, "bad", or nothing yet."""


def check(data: bytes) -> None:
    """Read ``data``, whose first two bytes say how it is cut."""
    if len(data) < 2:
        return
    stream = data[2:]
    whole = _read([stream])
    assert whole == _read(cut(stream, data[0], data[1] + 1)) == _read(cut(stream, 1, 1))
    called, name = _name_by_openssl(stream)
    # OpenSSL may find a fault in what is of no interest here. What it lets pass, it must have seen alike.
    if called and isinstance(whole, ClientHello):
        assert whole.server_name == name


def _read(pieces: list[bytes]) -> Outcome:
    reader = ClientHelloReader()
    for piece in pieces:
        try:
            hello = reader.feed(piece)
        except BadClientHello:
            return "bad"
        if hello is not None:
            # A certificate is looked up by it.
            assert hello.server_name == hello.server_name.lower()
            assert len(hello.server_name) < 1 << 16
            return hello
    return None


def _name_by_openssl(stream: bytes) -> tuple[bool, str]:
    """Whether OpenSSL took the ClientHello that ``stream`` begins with, and which name it found there."""
    names: list[str | None] = []
    _OPENSSL.sni_callback = lambda connection, name, context: names.append(name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(stream)
    with suppress(ssl.SSLError):
        _OPENSSL.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    return names != [], (names[0] or "").lower() if names else ""
