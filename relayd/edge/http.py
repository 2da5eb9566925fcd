"""The request head: ``/healthz``, or an upgrade (contract: "Endpoints").

`relayd.edge.request` reads it. It is answered here unless it is an upgrade in good order.
"""

import binascii
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Literal, Protocol

from attrs import frozen
from websockets.utils import accept_key

from relayd.edge.admission import Refusal
from relayd.edge.caller import Caller
from relayd.edge.request import Answer, Request, answer_or
from relayd.edge.stream import Stream
from relayd.routing.budget import Budget
from relayd.settings import Settings
from relayd.wire.head import Head
from relayd.wire.upgrade import BadHeaders, BinaryHello, PhoneHello, binary_hello, phone_hello

__all__ = ["Endpoint", "Front", "Upgrade", "answer_request"]

Endpoint = Literal["server", "client", "healthz", "readyz", "other"]
"""What a request asked for; other: a path that leads nowhere, or a head that never got as far as that."""

_ENDPOINTS: Final[dict[bytes, Endpoint]] = {
    b"/v1/server": "server",
    b"/v2/server": "server",
    b"/v1/client": "client",
    b"/v2/client": "client",
    b"/healthz": "healthz",
    b"/readyz": "readyz",
}

_CHECKS: Final = ("healthz", "readyz")
_UPGRADES: Final = ("server", "client")

_SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)


class Front(Protocol):
    """What a request may learn of the relay."""

    @property
    def settings(self) -> Settings:
        """In force now."""

    @property
    def draining(self) -> bool:
        """Whether the relay is about to end."""

    @property
    def refusing(self) -> bool:
        """Whether upgrades are refused."""

    @property
    def budget(self) -> Budget:
        """Where what has come of a request counts."""

    def refusal(self, caller: Caller) -> Refusal | None:
        """Why ``caller`` may not have the upgrade that he asks for, if so. To ask counts as his attempt."""

    def health(self) -> Mapping[str, Any]:
        """The document of ``/healthz``. It counts everybody, so it is only made on demand."""

    def readiness(self) -> Mapping[str, Any]:
        """The document of ``/readyz``, whose ``status`` is "ok" or why not."""

    def answered(self, endpoint: Endpoint, status: int) -> None:
        """Be told how a request to ``endpoint`` was answered; 101 is an upgrade in good order."""


@frozen
class Upgrade:
    """A request to become a WebSocket connection, in good order."""

    hello: BinaryHello | PhoneHello
    #: What accepts it: a whole 101, not sent yet.
    answer: bytes
    #: Bytes that followed the head.
    leftover: bytes


async def answer_request(
    stream: Stream,
    deadline: float,
    settings: Settings,
    front: Front,
    caller: Caller,
    on_refused: Callable[[int], None],
    hosts: Collection[str] = (),
) -> Upgrade | None:
    """Read the request head of ``stream``; return the upgrade that it asks for, or answer it.

    The whole head must be there at ``deadline`` by trio's clock; the answer may take the handshake timeout.
    ``caller`` is told the head, and ``on_refused`` the status of an error that may be logged. If there are
    ``hosts``, a request for another gets 421, and so does one for none, unless it is a health check.
    """
    endpoint: Endpoint = "other"

    def judge(request: Request) -> Upgrade:
        nonlocal endpoint
        endpoint = _ENDPOINTS.get(request.head.target.partition(b"?")[0], "other")
        caller.asked(request.head)
        if endpoint in _UPGRADES and request.head.method == b"GET":
            _count_attempt(front, caller)
        if hosts and not _is_for(hosts, request.head, endpoint):
            raise Answer(421)
        return _judge(request, endpoint, settings, front, caller)

    def note(answer: Answer) -> None:
        front.answered(endpoint, answer.status)
        if answer.status >= 400 and answer.status != 503 and not answer.quiet:
            on_refused(answer.status)

    upgrade = await answer_or(stream, deadline, settings.handshake_timeout, judge, note, front.budget)
    if upgrade is not None:
        front.answered(endpoint, 101)
    return upgrade


def _count_attempt(front: Front, caller: Caller) -> None:
    """Raises `Answer` if ``caller`` may not ask for an upgrade, whatever would become of it."""
    refusal = front.refusal(caller)
    if refusal is not None:
        raise Answer(refusal.status, ((b"retry-after", b"%d" % refusal.retry_after),), quiet=True)


def _judge(request: Request, endpoint: Endpoint, settings: Settings, front: Front, caller: Caller) -> Upgrade:
    """The upgrade that ``request`` asks for. Raises `Answer` if there is to be none."""
    if endpoint == "other":
        raise Answer(404)
    if request.head.method != b"GET":
        raise Answer.not_allowed()
    if endpoint == "healthz":
        raise Answer.document(503 if front.draining else 200, front.health())
    if endpoint == "readyz":
        readiness = front.readiness()
        raise Answer.document(200 if readiness["status"] == "ok" else 503, readiness)
    key = _websocket_key(request.head)
    if caller.problem is not None:
        raise Answer(403)
    try:
        if endpoint == "server":
            hello: BinaryHello | PhoneHello = binary_hello(request.head.fields)
        else:
            hello = phone_hello(request.head.fields, require_token=settings.require_token)
    except BadHeaders:
        raise Answer(400, quiet=True) from None
    if front.refusing:
        raise Answer(503, ((b"retry-after", b"1"),))
    return Upgrade(hello, _SWITCHING % accept_key(key.decode("ascii")).encode("ascii"), request.leftover)


def _is_for(hosts: Collection[str], head: Head, endpoint: Endpoint) -> bool:
    """Whether the request is for one of ``hosts``."""
    host = _host(head)
    # A load balancer's check, which knows us by an address, often says HTTP/1.0 and no host: that is no other.
    return host in hosts or (not host and endpoint in _CHECKS)


def _host(head: Head) -> str:
    """Whom the request is for, without a port; empty if it does not say (RFC 9110, section 7.2)."""
    values = head.values(b"host")
    name = re.sub(rb"\.?(:[0-9]*)?$", b"", values[0]) if values else b""
    return name.decode("ascii", "replace").lower()


def _websocket_key(head: Head) -> bytes:
    """The key of an upgrade to WebSocket version 13 (RFC 6455, section 4.2.1). Raises `Answer`."""

    def tokens(name: bytes) -> list[bytes]:
        return [token.strip().lower() for value in head.values(name) for token in value.split(b",")]

    if (
        head.minor_version < 1
        or b"upgrade" not in tokens(b"connection")
        or b"websocket" not in tokens(b"upgrade")
        or head.values(b"sec-websocket-version") != [b"13"]
    ):
        raise Answer(426, ((b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")))
    # What a proxy takes for a body would be frames to us.
    if head.values(b"transfer-encoding") or head.values(b"content-length") not in ([], [b"0"]):
        raise Answer(400)
    keys = head.values(b"sec-websocket-key")
    try:
        nonce = binascii.a2b_base64(keys[0], strict_mode=True) if len(keys) == 1 else b""
    except binascii.Error:
        raise Answer(400) from None
    if len(nonce) != 16:
        raise Answer(400)
    return keys[0]
