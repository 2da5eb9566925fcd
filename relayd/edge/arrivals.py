"""From a connection's first byte to its upgrade: all that stands before a WebSocket connection, in order.

TLS, if the listener speaks it, and the request head: in one time limit. Whatever else is to be known or
refused of somebody who has not upgraded yet has its place between them.
"""

import trio
from attrs import frozen

from relayd.edge.certificates import Certificates
from relayd.edge.client import Client
from relayd.edge.http import Front, Upgrade, answer_request
from relayd.edge.stream import PlainStream, Stream
from relayd.edge.tally import Tally
from relayd.edge.tls import TlsFailed, TlsStream, accept_tls
from relayd.ops.events import Emit, RequestRefused, TlsRefused
from relayd.settings import Address, Settings

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
        secured = await self._secured(stream, peer, deadline) if address.tls else stream
        if secured is None:
            return None

        def on_refused(status: int) -> None:
            self._emit(RequestRefused(str(peer), status))

        upgrade = await answer_request(secured, deadline, settings, self._front, on_refused)
        return None if upgrade is None else Arrived(secured, peer, upgrade)

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
