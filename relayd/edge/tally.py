"""What has happened since the start, in plain numbers: metrics are made from them when somebody asks.

Nothing here is told of a frame. Frames and bytes are counted by each connection, and get here when it
has ended.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final

from relayd.edge.connection import Kind, WebSocket
from relayd.edge.http import Endpoint
from relayd.edge.pace import Pauses
from relayd.ops.events import (
    AcceptPaused,
    BinaryClaimed,
    BinaryReclaimed,
    BinaryTookOver,
    BuffersFull,
    CertificateFailed,
    CertificateIssued,
    CertificateLoaded,
    CertificateRefused,
    CertificateRenewed,
    ClaimRefused,
    EnvelopesDropped,
    Event,
    GraceExpired,
    InternalError,
    LimitReached,
    PhoneRefused,
    PhoneRegistered,
)
from relayd.wire.close import NO_SUCH_SERVER

__all__ = ["CODES", "Histogram", "Tally", "Traffic"]

CODES: Final = (
    *(1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014),
    *(4401, 4404, 4409, 4421, 4426, 4429),
)
"""Close codes that are counted by themselves: what RFC 6455 and the protocol know. A peer may send any."""

_KINDS: Final[tuple[Kind, ...]] = ("binary", "phone")

_CLAIMS: Final[dict[type[Event], str]] = {
    BinaryClaimed: "claimed",
    BinaryReclaimed: "reclaimed",
    BinaryTookOver: "took_over",
    ClaimRefused: "refused",
}


_HANDSHAKES: Final = {"TLSv1.2": "ok", "TLSv1.3": "ok", "TIMEOUT": "timeout", "HUNG_UP": "hung_up"}


class Traffic:
    """Frames and bytes by direction, such as ``from_phone`` and ``to_binary``."""

    def __init__(self, start: "Traffic | None" = None) -> None:
        """Starts with what ``start`` has by now, or with nothing."""
        # Of each kind: frames and bytes from it, frames and bytes to it.
        self._sums: dict[Kind, list[int]] = {
            kind: [0, 0, 0, 0] if start is None else start._sums[kind] for kind in _KINDS
        }

    def add(self, connection: WebSocket) -> None:
        """Add all that ``connection`` has carried so far."""
        inbox, outbox = connection.inbox, connection.outbox
        frames_in, bytes_in, frames_out, bytes_out = self._sums[connection.kind]
        self._sums[connection.kind] = [
            frames_in + inbox.received_count,
            bytes_in + inbox.received_bytes,
            frames_out + outbox.delivered,
            bytes_out + outbox.sent_bytes,
        ]

    @property
    def frames(self) -> dict[str, int]:
        """Frames by direction."""
        return self._by_direction(0)

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes by direction."""
        return self._by_direction(1)

    def _by_direction(self, place: int) -> dict[str, int]:
        into = {f"from_{kind}": sums[place] for kind, sums in self._sums.items()}
        return into | {f"to_{kind}": sums[place + 2] for kind, sums in self._sums.items()}


class Histogram:
    """Observations, sorted into buckets."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds`` are the buckets' upper bounds, ascending; one without a bound is added."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        #: Of all observations.
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count ``value``."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[float, int]]:
        """Each bound, infinity last, and how many observations were not above it."""
        counts: list[tuple[float, int]] = []
        below = 0
        for bound, count in zip((*self._bounds, math.inf), self._counts, strict=True):
            below += count
            counts.append((bound, below))
        return counts


class Tally:
    """All that a relay counts."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[Endpoint, int]] = Counter()
        #: By outcome.
        self.proxy_headers: Counter[str] = Counter()
        self.claims: Counter[str] = Counter()
        self.registrations: Counter[str] = Counter()
        self.drops: Counter[str] = Counter()
        #: By kind, side and code, one of `CODES` or "other".
        self.closes: Counter[tuple[Kind, str, str]] = Counter()
        #: TLS handshakes by outcome: "ok", "timeout", "hung_up" or "failed".
        self.handshakes: Counter[str] = Counter()
        #: Certificates asked for by ACME, by outcome: "issued", "renewed" or "failed".
        self.orders: Counter[str] = Counter()
        #: Certificates read from their files, by outcome: "loaded" or "refused".
        self.certificates: Counter[str] = Counter()
        self.grace_expiries = 0
        self.accept_pauses = 0
        self.internal_errors = 0
        #: Who was turned away, by `relayd.ops.events.Bound`.
        self.limited: Counter[str] = Counter()
        #: Connections closed because all buffers were full and they held most, by kind.
        self.buffers_full: Counter[str] = Counter()
        self.pauses = Pauses()
        #: What connections carried that have ended.
        self.ended = Traffic()
        self.inside = Histogram(
            (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)
        )
        self.round_trips = Histogram(
            (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
        )
        self.loop_lag = Histogram((0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0))
        self.fullest = Histogram(tuple(float(4**power * 1024) for power in range(11)))

    def count(self, event: Event) -> None:
        """Count ``event``, if it is one of those that metrics are made from."""
        match event:
            case PhoneRegistered():
                self.registrations["registered"] += 1
            case BinaryClaimed() | BinaryReclaimed() | BinaryTookOver() | ClaimRefused():
                self.claims[_CLAIMS[type(event)]] += 1
            case PhoneRefused(code=code):
                self.registrations["no_server" if code == NO_SUCH_SERVER.code else "too_many_phones"] += 1
            case EnvelopesDropped(malformed=malformed, unknown_phone=unknown_phone, push_wake=push_wake):
                self.drops["malformed"] += malformed
                self.drops["unknown_phone"] += unknown_phone
                self.drops["push_wake"] += push_wake
            case GraceExpired():
                self.grace_expiries += 1
            case CertificateIssued():
                self.orders["issued"] += 1
            case CertificateRenewed():
                self.orders["renewed"] += 1
            case CertificateFailed():
                self.orders["failed"] += 1
            case CertificateLoaded():
                self.certificates["loaded"] += 1
            case CertificateRefused():
                self.certificates["refused"] += 1
            case BuffersFull(kind=kind):
                self.buffers_full[kind] += 1
            case LimitReached(bound=bound):
                self.limited[bound] += 1
            case AcceptPaused():
                self.accept_pauses += 1
            case InternalError():
                self.internal_errors += 1

    def count_handshake(self, outcome: str) -> None:
        """Count a TLS handshake: ``outcome`` is the version agreed upon, or why there is none."""
        self.handshakes[_HANDSHAKES.get(outcome, "failed")] += 1

    def count_ended(self, connection: WebSocket) -> None:
        """Keep what ``connection`` has carried, and how it ended."""
        self.ended.add(connection)
        ending = connection.ending
        code = str(ending.code) if ending.code in CODES else "other"
        self.closes[connection.kind, ending.by, code] += 1
