"""Who gets no connection because of what he sent."""

from typing import ClassVar, Literal

from attrs import frozen

from relayd.ops.events.event import FAULTS, Event, Level, Limit


@frozen
class TlsRefused(Event):
    """A TLS handshake failed: the client spoke no TLS, or none that is still safe, or took too long."""

    level: ClassVar[Level] = "debug"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "db90b291181ca8920e8e38fc4ec7714f"
    message: ClassVar[str] = "TLS handshake with {remote} failed: {reason}"
    remote: str
    reason: str
    """OpenSSL's name for it, or TIMEOUT."""


@frozen
class ProxyRefused(Event):
    """A connection was closed, or its upgrade answered with 403: whose it is could not be told."""

    level: ClassVar[Level] = "warning"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "9fdc022a5e09469d882033e38053a507"
    message: ClassVar[str] = "connection from {remote} refused, since nobody can say whose it is: {problem}"
    remote: str
    """The socket's peer: the proxy, or whoever dialled as if he were one."""
    problem: Literal["untrusted", "malformed", "late", "no_address", "contradiction"]
    """See `docs/operations.md`, "Behind a proxy"."""


@frozen
class RequestRefused(Event):
    """An HTTP request was answered with an error (never one for a missing header: that leaves no trace)."""

    level: ClassVar[Level] = "debug"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "687b37aaf65b0b541cffbb9605c79448"
    message: ClassVar[str] = "request from {remote} refused with {status}"
    remote: str
    status: int
