"""The request head: ``/healthz``, or an upgrade (contract: "Endpoints").

One request per connection. It is parsed by httptools, which is llhttp, the parser of Node.js: it takes
no shape of a head that another parser might read differently. It is answered here unless it is an
upgrade in good order. Answers never echo a byte of the request.
"""

import binascii
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final, Protocol

import httptools
import trio
from attrs import frozen
from websockets.utils import accept_key

from relayd.settings import Settings
from relayd.wire.upgrade import BadHeaders, BinaryHello, PhoneHello, binary_hello, phone_hello

__all__ = ["Front", "Upgrade", "answer_request"]

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100

_BINARY_PATHS: Final = (b"/v1/server", b"/v2/server")
_PHONE_PATHS: Final = (b"/v1/client", b"/v2/client")
_HEALTH_PATH: Final = b"/healthz"

_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ ")
"""What may be a method (RFC 9110, section 9.1), although the parser knows it not."""

_REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    426: b"Upgrade Required",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


_SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)


class Front(Protocol):
    """What a request may learn of the relay."""

    @property
    def draining(self) -> bool:
        """Whether the relay is about to end."""

    @property
    def refusing(self) -> bool:
        """Whether upgrades are refused."""

    def health(self) -> Mapping[str, Any]:
        """The document of ``/healthz``. It counts everybody, so it is only made on demand."""


@frozen
class Upgrade:
    """A request to become a WebSocket connection, in good order."""

    hello: BinaryHello | PhoneHello
    #: What accepts it: a whole 101, not sent yet.
    answer: bytes
    #: Bytes that followed the head.
    leftover: bytes


@frozen
class _Answer(Exception):
    """What a request gets that does not become a WebSocket connection."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


def _not_allowed() -> _Answer:
    return _Answer(405, ((b"allow", b"GET"),))


class _Head:
    """A request head, as the parser finds it piece by piece. What follows the first is not looked at."""

    def __init__(self) -> None:
        self.size = 0
        self.complete = False
        self.target = b""
        #: Names in lower case, values without surrounding white space.
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, part: bytes) -> None:
        if not self.complete:
            self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


@frozen
class _Request:
    """A whole request head, and the bytes that followed it."""

    method: bytes
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    leftover: bytes


async def answer_request(
    stream: trio.SocketStream, settings: Settings, front: Front, on_refused: Callable[[int], None]
) -> Upgrade | None:
    """Read the request head of ``stream``; return the upgrade that it asks for, or answer it.

    Bounded by the handshake timeout for the whole head, and by another for the answer.
    ``on_refused`` is told the status of an error that may be logged.
    """
    head = _Head()
    try:
        with trio.move_on_after(settings.handshake_timeout):
            request = await _read_head(stream, head)
            if request is None:
                return None
            return _judge(request, settings, front)
        # Not a word to a client that has sent none: it may be a port scan, or a spare connection.
        if head.size:
            await _send(stream, settings, _Answer(408))
            on_refused(408)
    except BadHeaders:
        await _send(stream, settings, _Answer(400))
    except _Answer as answer:
        await _send(stream, settings, answer)
        if answer.status >= 400 and answer.status != 503:
            on_refused(answer.status)
    return None


async def _read_head(stream: trio.SocketStream, head: _Head) -> _Request | None:
    """The request, or None if the client hung up before it was whole. Raises `_Answer`."""
    parser = httptools.HttpRequestParser(head)
    leftover = b""
    while not head.complete:
        if head.size == MAX_HEAD_BYTES:
            raise _Answer(431)
        try:
            data = await stream.receive_some(MAX_HEAD_BYTES - head.size)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            return None
        head.size += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            leftover = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            # After a whole head, what is wrong with the rest is of no interest.
            if not head.complete:
                unknown = isinstance(error, httptools.HttpParserInvalidMethodError)
                raise (_not_allowed() if unknown and _METHOD.match(data) else _Answer(400)) from None
    if len(head.headers) > MAX_HEADERS:
        raise _Answer(431)
    version = parser.get_http_version()
    # RFC 9112, section 3.2: exactly one Host, but in HTTP/1.0, which knew none.
    hosts = sum(name == b"host" for name, _ in head.headers)
    if hosts > 1 or (hosts < 1 and version != "1.0"):
        raise _Answer(400)
    return _Request(parser.get_method(), head.target, version, head.headers, leftover)


def _judge(request: _Request, settings: Settings, front: Front) -> Upgrade:
    """The upgrade that ``request`` asks for. Raises `_Answer` or `BadHeaders` if there is to be none."""
    path = request.target.partition(b"?")[0]
    if path not in (_HEALTH_PATH, *_BINARY_PATHS, *_PHONE_PATHS):
        raise _Answer(404)
    if request.method != b"GET":
        raise _not_allowed()
    if path == _HEALTH_PATH:
        headers = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
        raise _Answer(503 if front.draining else 200, headers, json.dumps(front.health()).encode())
    key = _websocket_key(request)
    if path in _BINARY_PATHS:
        hello: BinaryHello | PhoneHello = binary_hello(request.headers)
    else:
        hello = phone_hello(request.headers, require_token=settings.require_token)
    if front.refusing:
        raise _Answer(503, ((b"retry-after", b"1"),))
    return Upgrade(hello, _SWITCHING % accept_key(key.decode("ascii")).encode("ascii"), request.leftover)


def _websocket_key(request: _Request) -> bytes:
    """The key of an upgrade to WebSocket version 13 (RFC 6455, section 4.2.1). Raises `_Answer`."""
    values: dict[bytes, bytes] = {}
    for name, value in request.headers:
        values[name] = values[name] + b"," + value if name in values else value

    def tokens(name: bytes) -> list[bytes]:
        return [token.strip().lower() for token in values.get(name, b"").split(b",")]

    if (
        request.version != "1.1"
        or b"upgrade" not in tokens(b"connection")
        or b"websocket" not in tokens(b"upgrade")
        or values.get(b"sec-websocket-version") != b"13"
    ):
        raise _Answer(426, ((b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")))
    key = values.get(b"sec-websocket-key", b"")
    try:
        nonce = binascii.a2b_base64(key, strict_mode=True)
    except binascii.Error:
        raise _Answer(400) from None
    if len(nonce) != 16:
        raise _Answer(400)
    return key


async def _send(stream: trio.SocketStream, settings: Settings, answer: _Answer) -> None:
    connection = b"close, upgrade" if answer.status == 426 else b"close"
    head = [
        b"HTTP/1.1 %d %b" % (answer.status, _REASONS[answer.status]),
        b"date: %b" % formatdate(usegmt=True).encode("ascii"),
        b"connection: %b" % connection,
        b"content-length: %d" % len(answer.body),
        *(b"%b: %b" % header for header in answer.headers),
    ]
    with trio.move_on_after(settings.handshake_timeout), suppress(trio.BrokenResourceError):
        await stream.send_all(b"\r\n".join(head) + b"\r\n\r\n" + answer.body)
        # Closing a socket with unread bytes resets the connection, and the answer may be lost on
        # the way: wait for the client to hang up first.
        await stream.send_eof()
        while await stream.receive_some(MAX_HEAD_BYTES):
            pass
