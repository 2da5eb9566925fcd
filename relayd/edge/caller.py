"""Who is calling: the socket's peer, or whoever the proxies in between say they pass on.

Each is asked in turn, and believed only if the one before it is a trusted proxy: the socket's peer, then
a PROXY header, then ``X-Forwarded-For`` or ``Forwarded``.
"""

import socket
from collections.abc import Sequence
from typing import Final, Literal

import trio

from relayd.edge.admission import key_of
from relayd.edge.client import Client
from relayd.edge.stream import PlainStream
from relayd.values import TrustedProxy
from relayd.wire.address import IPAddress, Source
from relayd.wire.forwarded import Contradiction, forwarded_source
from relayd.wire.head import Head
from relayd.wire.proxy import MAX_HEADER_BYTES, BadProxyHeader, ProxyHeader, decode_proxy_header

__all__ = ["PROXY_TIMEOUT", "Caller", "read_proxy_header"]

PROXY_TIMEOUT: Final = 5.0
"""Seconds that a PROXY header may take. A proxy sends it with the connection, before it knows anything of
its client, so only a lost segment makes it wait: the specification asks for 3 at least, for that."""


class Caller:
    """Who is at the other end, as far as it is known by now."""

    def __init__(self, peer: Client, trusted: Sequence[TrustedProxy]) -> None:
        #: The best that is known.
        self.client = peer
        #: Why that is not the one who calls, if we know that much.
        self.problem: Literal["no_address", "contradiction"] | None = None
        self._trusted = trusted

    @property
    def may_announce(self) -> bool:
        """Whether a PROXY header is taken from it: from a trusted proxy, or by way of a unix socket.

        Who may connect to a unix socket is said by the mode of its file.
        """
        address = self.client.address
        return address is None or self._trusts(address)

    @property
    def key(self) -> int | None:
        """What it is counted under; None if it may be a proxy that has not said for whom it speaks."""
        return None if self.may_announce else key_of(self.client.address)

    def announced(self, header: ProxyHeader) -> None:
        """Be told what its PROXY header says, which it was allowed to send."""
        if header.source is None:
            self.problem = "no_address"
        else:
            self._passes_on(header.source)

    def asked(self, head: Head) -> None:
        """Be told its request head."""
        address = self.client.address
        if self.problem or not ("unix" in self._trusted if address is None else self._trusts(address)):
            return
        try:
            source = forwarded_source(head.values(b"x-forwarded-for"), head.values(b"forwarded"), self._trusts)
        except Contradiction:
            self.problem = "contradiction"
        else:
            if source is not None:
                self._passes_on(source)

    def _passes_on(self, source: Source) -> None:
        self.client = Client(source.address, source.port)

    def _trusts(self, address: IPAddress) -> bool:
        return any(network != "unix" and address in network for network in self._trusted)


async def read_proxy_header(stream: PlainStream) -> ProxyHeader | None:
    """Read a PROXY header and not a byte more; None if the peer hangs up without a word.

    Raises `relayd.wire.proxy.BadProxyHeader`, also for a header that is never finished.
    """
    await trio.lowlevel.checkpoint()
    received = b""
    while True:
        try:
            peeked = stream.socket.recv(MAX_HEADER_BYTES - len(received), socket.MSG_PEEK)
        except BlockingIOError:
            await stream.wait_readable()
            continue
        except OSError:
            peeked = b""
        if not peeked:
            if received:
                raise BadProxyHeader
            return None
        header = decode_proxy_header(received + peeked)
        # Of a header that is not whole yet, all of it is known: taken, it does not wake us again.
        length = len(peeked) if header is None else header.length - len(received)
        received += stream.try_receive(length) or b""
        if header is not None:
            return header
