"""From a connection's first byte to its upgrade: all that stands before a WebSocket connection, in order.

A place among those in a handshake; a PROXY header, if the listener requires one; TLS, if it speaks it; and
the request head: in one time limit.
Whatever else is to be known or refused of somebody who has not upgraded yet has its place between them.
"""

import math
import socket
from typing import Final, Literal

import trio
from attrs import frozen

from relayd.edge.admission import Admission
from relayd.edge.caller import PROXY_TIMEOUT, Caller, read_proxy_header
from relayd.edge.certificates import CHALLENGE_PROTOCOL, Certificates
from relayd.edge.client import Client, peer_of
from relayd.edge.http import Front, Upgrade, answer_request
from relayd.edge.listener import turn_away
from relayd.edge.stream import PlainStream, Stream
from relayd.edge.tally import Tally
from relayd.edge.tls import TlsStream
from relayd.edge.tls_handshake import TlsFailed, accept_tls
from relayd.edge.turns import Gate
from relayd.ops.events import Bound, Emit, LimitReached, ProxyRefused, RequestRefused, TlsRefused
from relayd.settings import Settings
from relayd.values import Address
from relayd.wire.proxy import BadProxyHeader

__all__ = ["Arrivals", "Arrived", "Newcomer"]

_UNREAD: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: %d\r\ncontent-length: 0\r\n\r\n"
)
"""What they get who come while too many others have not finished asking."""


@frozen
class Newcomer:
    """Somebody who was accepted by the listener at ``address``, and is in a handshake from then on."""

    address: Address
    stream: PlainStream
    peer: Client
    key: int | None
    """What he is counted under as long as nobody has asked him anything: `Caller.key`."""


@frozen
class Arrived:
    """Somebody who is to become a WebSocket connection."""

    stream: Stream
    client: Client
    key: int | None
    """What he is counted under: `Caller.key`."""
    upgrade: Upgrade


class Arrivals:
    """Receives connections for one relay."""

    def __init__(
        self, front: Front, admission: Admission, certificates: Certificates, tally: Tally, emit: Emit
    ) -> None:
        self._front = front
        self._admission = admission
        self._certificates = certificates
        self._tally = tally
        self._emit = emit
        self._gate = Gate()

    def let_in(self, address: Address, sock: socket.socket) -> Newcomer | None:
        """Give who was accepted by the listener at ``address`` a place, for `receive`; or turn him away."""
        peer = peer_of(sock)
        if peer is None:
            sock.close()
            return None
        stream, key = PlainStream(sock), Caller(peer, self._front.settings.trusted_proxies).key
        bound = self._admission.arrive(key, trio.current_time())
        if bound is not None:
            # TLS has no words for that, and where a PROXY header is required nobody is owed an answer yet.
            self._turn_away(stream, peer, bound, silently=bool(address.tls or address.proxy))
            return None
        return Newcomer(address, stream, peer, key)

    async def receive(self, newcomer: Newcomer, settings: Settings) -> Arrived | None:
        """Read what ``newcomer`` wants, and take his place back; None if he has had his answer.

        All that he has to send until his upgrade may take the handshake timeout.
        """
        deadline = trio.current_time() + settings.handshake_timeout
        caller = Caller(newcomer.peer, settings.trusted_proxies)
        try:
            if not newcomer.address.proxy:
                return await self._received(newcomer, caller, deadline, settings)
            if not await self._announced(newcomer.stream, caller, deadline):
                return None
            # Until now he was the proxy, which may have any number of places.
            with self._admission.known_as(caller.key, trio.current_time()) as bound:
                if bound is None:
                    return await self._received(newcomer, caller, deadline, settings)
                self._turn_away(newcomer.stream, caller.client, bound, silently=bool(newcomer.address.tls))
                return None
        finally:
            self._admission.handshake_over(newcomer.key)

    def _turn_away(self, stream: PlainStream, client: Client, bound: Bound, *, silently: bool) -> None:
        # By then everybody who is in a handshake now has left it, and whoever has dialled too often may again.
        seconds = math.ceil(self._front.settings.handshake_timeout)
        turn_away(stream.socket, b"" if silently else _UNREAD % seconds)
        self._emit(LimitReached(bound, str(client)))

    async def _received(
        self, newcomer: Newcomer, caller: Caller, deadline: float, settings: Settings
    ) -> Arrived | None:
        secured: Stream | None = newcomer.stream
        if newcomer.address.tls:
            secured = await self._secured(newcomer.stream, caller.client, deadline)
        if secured is None:
            return None

        def on_refused(status: int) -> None:
            if status == 403 and caller.problem is not None:
                self._emit(ProxyRefused(str(newcomer.peer), caller.problem))
            else:
                self._emit(RequestRefused(str(caller.client), status))

        # A pair of files may be for any name, and what is plain is for health checks, by whatever name.
        hosts = settings.domain if newcomer.address.tls and not settings.tls_cert else ()
        upgrade = await answer_request(secured, deadline, settings, self._front, caller, on_refused, hosts)
        return None if upgrade is None else Arrived(secured, caller.client, caller.key, upgrade)

    async def _announced(self, stream: PlainStream, caller: Caller, deadline: float) -> bool:
        """Whether a trusted proxy has sent a PROXY header; if not, nobody is owed an answer."""
        if not caller.may_announce:
            return self._unannounced(caller, "untrusted")
        try:
            with trio.move_on_at(min(deadline, trio.current_time() + PROXY_TIMEOUT)) as limit:
                header = await read_proxy_header(stream)
        except BadProxyHeader:
            return self._unannounced(caller, "malformed")
        if limit.cancelled_caught:
            return self._unannounced(caller, "late")
        if header is None:
            self._tally.proxy_headers["none"] += 1
            return False
        caller.announced(header)
        self._tally.proxy_headers[caller.problem or "address"] += 1
        return True

    def _unannounced(self, caller: Caller, problem: Literal["untrusted", "malformed", "late"]) -> bool:
        self._tally.proxy_headers[problem] += 1
        self._emit(ProxyRefused(str(caller.client), problem))
        return False

    async def _secured(self, stream: PlainStream, peer: Client, deadline: float) -> TlsStream | None:
        """``stream`` with TLS; None if there is none, or if a CA has seen what it came for."""
        certificates = self._certificates
        outcome = "TIMEOUT"

        def on_limit() -> None:
            self._emit(LimitReached("tls_without_data", str(peer)))

        try:
            with trio.move_on_at(deadline), self._gate.approached() as place:
                tls = await accept_tls(stream, certificates.choose, place, on_limit)
                outcome = tls.version
                return None if tls.protocol == CHALLENGE_PROTOCOL else tls
        except TlsFailed as failure:
            outcome = failure.reason
        finally:
            self._tally.count_handshake(outcome)
        if outcome != "HUNG_UP":
            self._emit(TlsRefused(str(peer), outcome))
        return None
