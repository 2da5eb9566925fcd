"""The request head: ``/healthz``, or an upgrade (contract: "Endpoints").

One request per connection. `relayd.wire.head` reads it; it is answered here unless it is an upgrade in
good order. Answers never echo a byte of the request.
"""

import binascii
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final, Protocol

import trio
from attrs import frozen
from websockets.utils import accept_key

from relayd.settings import Settings
from relayd.wire.head import BadHead, Head, may_become_head, parse_head
from relayd.wire.upgrade import BadHeaders, BinaryHello, PhoneHello, binary_hello, phone_hello

__all__ = ["Front", "Upgrade", "answer_request"]

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100

_END_OF_HEAD: Final = b"\r\n\r\n"

_BINARY_PATHS: Final = (b"/v1/server", b"/v2/server")
_PHONE_PATHS: Final = (b"/v1/client", b"/v2/client")
_HEALTH_PATH: Final = b"/healthz"

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
        """Whether the relay takes no more connections."""

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


async def answer_request(
    stream: trio.SocketStream, settings: Settings, front: Front, on_refused: Callable[[int], None]
) -> Upgrade | None:
    """Read the request head of ``stream``; return the upgrade that it asks for, or answer it.

    Bounded by the handshake timeout for the whole head, and by another for the answer.
    ``on_refused`` is told the status of an error that may be logged.
    """
    received = bytearray()
    try:
        with trio.move_on_after(settings.handshake_timeout):
            if await _read_head(stream, received):
                return _judge(bytes(received), settings, front)
            return None
        # Not a word to a client that has sent none: it may be a port scan, or a spare connection.
        if received:
            await _send(stream, settings, _Answer(408))
            on_refused(408)
    except BadHeaders:
        await _send(stream, settings, _Answer(400))
    except _Answer as answer:
        await _send(stream, settings, answer)
        if answer.status >= 400 and answer.status != 503:
            on_refused(answer.status)
    return None


async def _read_head(stream: trio.SocketStream, received: bytearray) -> bool:
    """Read until the head is whole; False if the client hung up before. Raises `_Answer`."""
    while _END_OF_HEAD not in received:
        if len(received) == MAX_HEAD_BYTES:
            raise _Answer(431)
        try:
            data = await stream.receive_some(MAX_HEAD_BYTES - len(received))
        except trio.BrokenResourceError:
            data = b""
        if not data:
            return False
        received += data
        if _END_OF_HEAD not in received and not may_become_head(received):
            raise _Answer(400)
    return True


def _judge(received: bytes, settings: Settings, front: Front) -> Upgrade:
    """The upgrade that a request asks for. Raises `_Answer` or `BadHeaders` if there is to be none."""
    end = received.index(_END_OF_HEAD) + len(_END_OF_HEAD)
    try:
        head = parse_head(received[:end])
    except BadHead:
        raise _Answer(400) from None
    if len(head.fields) > MAX_HEADERS:
        raise _Answer(431)
    path = head.target.partition(b"?")[0]
    if path not in (_HEALTH_PATH, *_BINARY_PATHS, *_PHONE_PATHS):
        raise _Answer(404)
    if head.method != b"GET":
        raise _Answer(405, ((b"allow", b"GET"),))
    if path == _HEALTH_PATH:
        headers = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
        raise _Answer(503 if front.draining else 200, headers, json.dumps(front.health()).encode())
    key = _websocket_key(head)
    if path in _BINARY_PATHS:
        hello: BinaryHello | PhoneHello = binary_hello(head.fields)
    else:
        hello = phone_hello(head.fields, require_token=settings.require_token)
    if front.draining:
        raise _Answer(503, ((b"retry-after", b"1"),))
    return Upgrade(hello, _SWITCHING % accept_key(key.decode("ascii")).encode("ascii"), received[end:])


def _websocket_key(head: Head) -> bytes:
    """The key of an upgrade to WebSocket version 13 (RFC 6455, section 4.2.1). Raises `_Answer`."""

    def tokens(name: bytes) -> list[bytes]:
        return [token.strip().lower() for value in head.values(name) for token in value.split(b",")]

    if (
        head.minor_version < 1
        or b"upgrade" not in tokens(b"connection")
        or b"websocket" not in tokens(b"upgrade")
        or head.values(b"sec-websocket-version") != [b"13"]
    ):
        raise _Answer(426, ((b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")))
    # What a proxy takes for a body would be frames to us.
    if head.values(b"transfer-encoding") or head.values(b"content-length") not in ([], [b"0"]):
        raise _Answer(400)
    keys = head.values(b"sec-websocket-key")
    try:
        nonce = binascii.a2b_base64(keys[0], strict_mode=True) if len(keys) == 1 else b""
    except binascii.Error:
        raise _Answer(400) from None
    if len(nonce) != 16:
        raise _Answer(400)
    return keys[0]


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
