"""Requests from the public: ``/healthz``, ``/readyz``, or an upgrade (contract: "Endpoints").

One request per connection. It is answered here unless it is an upgrade in good order.
"""

import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import trio
from attrs import frozen
from websockets.utils import accept_key

from relayd.edge.head import Answer, Request, read_request, send_answer
from relayd.settings import Settings
from relayd.wire.upgrade import BadHeaders, BinaryHello, PhoneHello, binary_hello, phone_hello

__all__ = ["Front", "Upgrade", "answer_request"]

_BINARY_PATHS: Final = (b"/v1/server", b"/v2/server")
_PHONE_PATHS: Final = (b"/v1/client", b"/v2/client")
_HEALTH_PATH: Final = b"/healthz"
_READY_PATH: Final = b"/readyz"

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

    def readiness(self) -> Mapping[str, Any]:
        """The document of ``/readyz``, whose ``status`` is "ok" while upgrades are accepted."""


@frozen
class Upgrade:
    """A request to become a WebSocket connection, in good order."""

    hello: BinaryHello | PhoneHello
    #: What accepts it: a whole 101, not sent yet.
    answer: bytes
    #: Bytes that followed the head.
    leftover: bytes


async def answer_request(
    stream: trio.SocketStream, settings: Settings, front: Front, on_refused: Callable[[int], None]
) -> Upgrade | None:
    """Read the request head of ``stream``; return the upgrade that it asks for, or answer it.

    Bounded by the handshake timeout for the whole head, and by another for the answer.
    ``on_refused`` is told the status of an error that may be logged.
    """
    timeout = settings.handshake_timeout
    try:
        request = await read_request(stream, timeout)
        return None if request is None else _judge(request, settings, front)
    except BadHeaders:
        await send_answer(stream, Answer(400), timeout)
    except Answer as answer:
        await send_answer(stream, answer, timeout)
        if answer.status >= 400 and answer.status != 503:
            on_refused(answer.status)
    return None


def _judge(request: Request, settings: Settings, front: Front) -> Upgrade:
    """The upgrade that ``request`` asks for. Raises `Answer` or `BadHeaders` if there is to be none."""
    path = request.target.partition(b"?")[0]
    if path not in (_HEALTH_PATH, _READY_PATH, *_BINARY_PATHS, *_PHONE_PATHS):
        raise Answer(404)
    if request.method != b"GET":
        raise Answer.not_allowed()
    if path == _HEALTH_PATH:
        raise Answer.document(503 if front.draining else 200, front.health())
    if path == _READY_PATH:
        readiness = front.readiness()
        raise Answer.document(200 if readiness["status"] == "ok" else 503, readiness)
    key = _websocket_key(request)
    if path in _BINARY_PATHS:
        hello: BinaryHello | PhoneHello = binary_hello(request.headers)
    else:
        hello = phone_hello(request.headers, require_token=settings.require_token)
    if front.draining:
        raise Answer(503, ((b"retry-after", b"1"),))
    return Upgrade(hello, _SWITCHING % accept_key(key.decode("ascii")).encode("ascii"), request.leftover)


def _websocket_key(request: Request) -> bytes:
    """The key of an upgrade to WebSocket version 13 (RFC 6455, section 4.2.1). Raises `Answer`."""
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
        raise Answer(426, ((b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")))
    key = values.get(b"sec-websocket-key", b"")
    try:
        nonce = binascii.a2b_base64(key, strict_mode=True)
    except binascii.Error:
        raise Answer(400) from None
    if len(nonce) != 16:
        raise Answer(400)
    return key
