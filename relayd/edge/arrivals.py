"""From a connection's first byte to its upgrade: all that stands before a WebSocket connection, in order.

A PROXY header, if the listener requires one; TLS, if it speaks it; and the request head: in one time limit.
Whatever else is to be known or refused of somebody who has not upgraded yet has its place between them.
"""

from typing import Literal

import trio
from attrs import frozen

from relayd.edge.caller import PROXY_TIMEOUT, Caller, read_proxy_header
from relayd.edge.certificates import Certificates
from relayd.edge.client import Client
from relayd.edge.http import Front, Upgrade, answer_request
from relayd.edge.stream import PlainStream, Stream
from relayd.edge.tally import Tally
from relayd.edge.tls import TlsFailed, TlsStream, accept_tls
from relayd.ops.events import Emit, ProxyRefused, RequestRefused, TlsRefused
from relayd.settings import Address, Settings
from relayd.wire.proxy import BadProxyHeader

__all__ = ["Arrivals", "Arrived"]


@frozen
class Arrived:
    """Somebody who is to become a WebSocket connection."""

    stream: Stream
    client: Client
    upgrade: Upgrade


class Arrivals:
    """Receives connections for one relay."""

    def __init__(self, front: Front, certificates: Certificates, tally: Tally, emit: Emit) -> None:
        self._front = front
        self._certificates = certificates
        self._tally = tally
        self._emit = emit

    async def receive(
        self, stream: PlainStream, address: Address, peer: Client, settings: Settings
    ) -> Arrived | None:
        """Read what ``peer`` wants who dialled the listener at ``address``; None if he has had his answer.

        All that he has to send until his upgrade may take the handshake timeout.
        """
        deadline = trio.current_time() + settings.handshake_timeout
        caller = Caller(peer, settings.trusted_proxies)
        if address.proxy and not await self._announced(stream, caller, deadline):
            return None
        secured = await self._secured(stream, caller.client, deadline) if address.tls else stream
        if secured is None:
            return None

        def on_refused(status: int) -> None:
            if status == 403 and caller.problem is not None:
                self._emit(ProxyRefused(str(peer), caller.problem))
            else:
                self._emit(RequestRefused(str(caller.client), status))

        # A pair of files may be for any name, and what is plain is for health checks, by whatever name.
        hosts = settings.domain if address.tls and not settings.tls_cert else ()
        upgrade = await answer_request(secured, deadline, settings, self._front, caller, on_refused, hosts)
        return None if upgrade is None else Arrived(secured, caller.client, upgrade)

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
        try:
            with trio.move_on_at(deadline):
                tls = await accept_tls(stream, certificates.choose, look=certificates.by_hello)
                outcome = tls.version
                return None if tls.protocol == "acme-tls/1" else tls
        except TlsFailed as failure:
            outcome = failure.reason
        finally:
            self._tally.count_handshake(outcome)
        if outcome != "HUNG_UP":
            self._emit(TlsRefused(str(peer), outcome))
        return None
