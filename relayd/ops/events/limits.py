"""Limits that were reached: who is turned away, held back or closed because of them."""

from typing import ClassVar, Literal

from attrs import frozen

from relayd.ops.events.event import FAULTS, Event, Level, Limit

Bound = Literal[
    "upgrade_rate",
    "connections",
    "connections_per_address",
    "handshakes",
    "handshakes_per_address",
    "dial_rate",
    "challenges",
    "scrapes",
    "operators",
    "tls_without_data",
]
"""A limit on who may come in, and on who may stay without a word."""


@frozen
class LimitReached(Event):
    """Somebody was turned away or hung up on, by a limit: see `docs/operations.md`, "Limits"."""

    level: ClassVar[Level] = "warning"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "c2f8d85753a34de39758a8d2c377ed93"
    message: ClassVar[str] = "turned away or hung up on {remote}: the limit {bound} is reached"
    bound: Bound
    """Which limit: the metric `relayd_limited_total` has the same names."""
    remote: str


@frozen
class AcceptPaused(Event):
    """The system is out of file descriptors or memory: no connection is accepted until that has passed."""

    level: ClassVar[Level] = "error"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "c3cd8809199af8aec0a8a8e6037c8c5a"
    message: ClassVar[str] = "accepting nothing on {address} for now: {error}"
    address: str
    error: str
    """The name of the errno."""


@frozen
class RateLimited(Event):
    """A connection sent more than it may and is read from more slowly; told once for each connection."""

    level: ClassVar[Level] = "warning"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "79a3e13b86374bd09f46a59b46b8b3e5"
    message: ClassVar[str] = "held back {kind} from {remote}: too many {bound} in a second"
    kind: str
    """binary or phone."""
    remote: str
    bound: str
    """bytes, frames, or control: pings, pongs and empty fragments, of which there is always a bound."""


@frozen
class BuffersFull(Event):
    """All buffers together were full, and this connection held most: it was closed with 1011."""

    level: ClassVar[Level] = "warning"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "ac16b3303d8442dfa143813d189f996b"
    message: ClassVar[str] = "closed {kind} from {remote} for its {held} bytes, as all buffers hold {bytes}"
    kind: str
    """binary or phone."""
    remote: str
    held: int
    """Bytes that waited for it or, unfinished, from it."""
    bytes: int
    """What all may hold."""
