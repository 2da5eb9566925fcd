"""Request heads that are odd: each has one answer, whatever another parser would make of it."""

import socket
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.relay_process import WAIT, RelayProcess

UPGRADE = (
    b"Host: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-pyrycode-server: odd\r\nx-pyrycode-version: 1\r\n"
)
AGENT = b"User-Agent: test\r\n"
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n"


def asked(relay: RelayProcess, *pieces: bytes) -> bytes:
    """The first bytes of the answer to a request that comes in pieces."""
    with socket.create_connection(("127.0.0.1", relay.port), WAIT) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
        return client.recv(65536)


def upgrade(*, start: bytes = b"GET /v1/server HTTP/1.1\r\n", more: bytes = b"") -> bytes:
    return start + UPGRADE + AGENT + more + b"\r\n"


ODD = {
    "in good order": (upgrade(), 101),
    "a frame with a line feed behind it": (upgrade() + b"\x89\x81\0\0\0\0\n", 101),
    "white space around a value": (upgrade(more=b"X: \t y \t\r\n"), 101),
    "both lengths": (upgrade(more=b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"), 400),
    "both lengths of a plain request": (
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "the same length twice": (upgrade(more=b"Content-Length: 0\r\nContent-Length: 0\r\n"), 400),
    "two lengths in one": (upgrade(more=b"Content-Length: 0, 0\r\n"), 400),
    "two lengths": (upgrade(more=b"Content-Length: 1\r\nContent-Length: 2\r\n"), 400),
    "obsolete folding": (upgrade(more=b"X: a\r\n b\r\n"), 400),
    "folding with a tab": (upgrade(more=b"X: a\r\n\tb\r\n"), 400),
    "folding of the first header": (
        b"GET /v1/server HTTP/1.1\r\n X: a\r\n" + UPGRADE + AGENT + b"\r\n",
        400,
    ),
    "bare LF": (upgrade().replace(b"\r\n", b"\n"), 400),
    "bare LF after one header": (upgrade(more=b"X: a\n"), 400),
    "bare LF before a second length": (upgrade(more=b"X: a\nContent-Length: 8\r\n"), 400),
    "bare LF for the empty line": (upgrade()[:-2] + b"\n", 400),
    "bare CR in a value": (upgrade(more=b"X: a\rb\r\n"), 400),
    "NUL in a value": (upgrade(more=b"X: a\0b\r\n"), 400),
    "white space before a colon": (upgrade(more=b"X : a\r\n"), 400),
    "the same in a length": (upgrade(more=b"Content-Length : 8\r\n"), 400),
    "header without a name": (upgrade(more=b": a\r\n"), 400),
    "two hosts": (upgrade(more=b"Host: other\r\n"), 400),
    "no host": (upgrade().replace(b"Host: relay\r\n", b""), 400),
    "two hosts that are the same": (upgrade(more=b"Host: relay\r\n"), 400),
    "absolute URI": (upgrade(start=b"GET http://relay/v1/server HTTP/1.1\r\n"), 400),
    "absolute URI of another host": (b"GET http://other/healthz HTTP/1.1\r\nHost: relay\r\n\r\n", 400),
    "absolute URI without a path": (b"GET http://relay HTTP/1.1\r\nHost: relay\r\n\r\n", 400),
    "authority": (upgrade(start=b"CONNECT relay:80 HTTP/1.1\r\n"), 400),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: relay\r\n\r\n", 400),
    "HTTP/1.0": (upgrade(start=b"GET /v1/server HTTP/1.0\r\n"), 426),
    "HTTP/1.0 without a host": (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
    "HTTP/1.2": (upgrade(start=b"GET /v1/server HTTP/1.2\r\n"), 400),
    "HTTP/0.9": (b"GET /healthz HTTP/0.9\r\nHost: a\r\n\r\n", 400),
    "HTTP/2.0 in a line of HTTP/1": (b"GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    "RTSP": (upgrade(start=b"GET /v1/server RTSP/1.1\r\n"), 400),
    "two spaces": (upgrade(start=b"GET  /v1/server HTTP/1.1\r\n"), 400),
    "two spaces before the version": (upgrade(start=b"GET /v1/server  HTTP/1.1\r\n"), 400),
    "an empty line before it": (b"\r\n" + upgrade(), 400),
    "a length that is no number": (upgrade(more=b"Content-Length: +1\r\n"), 400),
    "an upgrade with a body": (upgrade(more=b"Content-Length: 8\r\n"), 400),
    "an upgrade with a body in chunks": (upgrade(more=b"Transfer-Encoding: chunked\r\n"), 400),
    "an upgrade that says it has no body": (upgrade(more=b"Content-Length: 0\r\n"), 101),
    "two versions": (upgrade(more=b"Sec-WebSocket-Version: 13\r\n"), 426),
    "two keys": (upgrade(more=b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400),
    "a control character in a value": (upgrade(more=b"X: a\x1bb\r\n"), 101),
    "no HTTP at all": (b"HELO smtp.example\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a method that nobody knows": (upgrade(start=b"BREW /v1/server HTTP/1.1\r\n"), 405),
    "the same for a path that nobody knows": (upgrade(start=b"BREW /nowhere HTTP/1.1\r\n"), 404),
    "upgrade to something else": (upgrade().replace(b"websocket", b"h2c"), 426),
    "a second request behind it": (
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\n",
        200,
    ),
    "rubbish behind it": (HEALTHZ + b"\0\xff", 200),
    "a body": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 200),
    "100 headers": (upgrade(more=b"X: a\r\n" * 92), 101),
    "101 headers": (upgrade(more=b"X: a\r\n" * 93), 431),
}


@pytest.mark.parametrize(("head", "status"), ODD.values(), ids=ODD)
def test_odd_head_gets_its_answer(relay: RelayProcess, head: bytes, status: int) -> None:
    assert asked(relay, head).startswith(b"HTTP/1.1 %d " % status)


def test_head_of_16_kib_is_served_and_a_longer_one_gets_431(relay: RelayProcess) -> None:
    room = 16 * 1024 - len(upgrade(more=b"X: \r\n"))
    assert asked(relay, upgrade(more=b"X: %b\r\n" % (b"a" * room))).startswith(b"HTTP/1.1 101 ")
    assert asked(relay, upgrade(more=b"X: %b\r\n" % (b"a" * (room + 1)))).startswith(b"HTTP/1.1 431 ")


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, len(upgrade())), max_size=8))
def test_head_reads_the_same_however_it_is_cut(relay: RelayProcess, cuts: list[int]) -> None:
    whole = upgrade()
    edges = [0, *sorted(cuts), len(whole)]
    answer = asked(relay, *(whole[start:end] for start, end in pairwise(edges)))
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
