"""Who may come in: how many connections there may be, and how often one address may ask for one.

Addresses are counted by their key, which is None for those of whom there is no telling who they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Final

from attrs import frozen

from relayd.edge.buckets import TokenBuckets
from relayd.ops.events import Bound
from relayd.wire.address import IPAddress

__all__ = ["DIALS_PER_UPGRADE", "Admission", "Limits", "Refusal", "key_of"]

DIALS_PER_UPGRADE: Final = 30
"""Connections that an address may open for each upgrade that it may ask for: for health checks too, and for
whoever tries again. But each costs a handshake, in TLS many times what it costs a peer that only repeats the
first bytes of one."""

_FULL: Final = 30
"""Seconds after which one who finds the relay full may ask again. Connections last for hours, so nobody
knows when there will be a place; each time that somebody asks costs a handshake."""


@frozen
class Limits:
    """How many there may be, in numbers."""

    connections: int
    """WebSocket connections."""
    connections_per_address: int
    handshakes: int
    """Connections that have not become WebSockets yet, and such as never will."""
    handshakes_per_address: int
    upgrade_rate: int
    """Upgrades that an address may ask for in a minute, after the first few; 0 for any number."""
    upgrade_burst: int
    """How many of them it may ask for at once."""


@frozen
class Refusal:
    """Why somebody is not let in, and how."""

    bound: Bound
    status: int
    retry_after: int
    """Seconds."""


def key_of(address: IPAddress | None) -> int | None:
    """What ``address`` is counted under: itself, or the /64 that it is in, which one customer has to himself.

    None for no address (a unix socket) and for loopback: that is a proxy that does not say for whom it
    speaks, or this machine's own. IPv4-mapped ones are IPv4 by now: see `relayd.wire.address`.
    """
    if address is None or address.is_loopback:
        return None
    if address.version == 4:
        return int(address)
    # Beyond all of IPv4, which so small a number could be taken for.
    return 1 << 64 | int(address) >> 64


class Admission:
    """Counts who is in, and says who may come. It never waits, and knows nothing of sockets.

    A connection is in a handshake from `arrive` until `handshake_over`, and has a place among the
    WebSockets within `connected`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        #: Connections in a handshake, now.
        self.handshakes = 0
        #: WebSocket connections, now.
        self.connections = 0
        # By key. Who has none is not in there.
        self._handshakes_of: dict[int, int] = {}
        self._connections_of: dict[int, int] = {}
        self._make_buckets()

    def apply(self, limits: Limits) -> None:
        """Go on with ``limits``. Whoever is in stays; another rate begins with full buckets for everybody."""
        before, self.limits = self.limits, limits
        if (limits.upgrade_rate, limits.upgrade_burst) != (before.upgrade_rate, before.upgrade_burst):
            self._make_buckets()

    def arrive(self, key: int | None, now: float) -> Bound | None:
        """Count one more in a handshake, or say which limit forbids it. ``now`` is in seconds."""
        if self.handshakes >= self.limits.handshakes:
            return "handshakes"
        bound = self._count_handshake(key, now)
        if bound is None:
            self.handshakes += 1
        return bound

    @contextmanager
    def known_as(self, key: int | None, now: float) -> Iterator[Bound | None]:
        """Count one that has arrived without a key under the one that he turned out to have, during the body.

        Yields the limit that forbids it, and then does not count it. ``now`` is in seconds.
        """
        bound = self._count_handshake(key, now)
        try:
            yield bound
        finally:
            if bound is None:
                _leave(self._handshakes_of, key)

    def handshake_over(self, key: int | None) -> None:
        """Count one that has arrived no longer."""
        self.handshakes -= 1
        _leave(self._handshakes_of, key)

    def attempt(self, key: int | None, now: float) -> Refusal | None:
        """Note that somebody asks for an upgrade, and say why he cannot have it.

        If he can, there is a place for him until somebody else's `connected` begins. ``now`` is in seconds.
        """
        limits = self.limits
        if key is not None and self._upgrades is not None:
            wait = self._upgrades.take(key, now)
            if wait:
                return Refusal("upgrade_rate", 429, ceil(wait))
        if self.connections >= limits.connections:
            return Refusal("connections", 503, _FULL)
        if key is not None and self._connections_of.get(key, 0) >= limits.connections_per_address:
            return Refusal("connections_per_address", 503, _FULL)
        return None

    @contextmanager
    def connected(self, key: int | None) -> Iterator[None]:
        """Count a WebSocket connection during the body."""
        self.connections += 1
        if key is not None:
            self._connections_of[key] = self._connections_of.get(key, 0) + 1
        try:
            yield
        finally:
            self.connections -= 1
            _leave(self._connections_of, key)

    @property
    def addresses(self) -> int:
        """How many keys are remembered for what they have asked for."""
        return 0 if self._upgrades is None else len(self._upgrades)

    @property
    def most_connections(self) -> int:
        """Those of the key that has most."""
        return max(self._connections_of.values(), default=0)

    @property
    def most_handshakes(self) -> int:
        """Those of the key that has most."""
        return max(self._handshakes_of.values(), default=0)

    def _make_buckets(self) -> None:
        rate, burst = self.limits.upgrade_rate, self.limits.upgrade_burst
        self._upgrades = TokenBuckets(rate, burst) if rate else None
        self._dials = TokenBuckets(rate * DIALS_PER_UPGRADE, burst * DIALS_PER_UPGRADE) if rate else None

    def _count_handshake(self, key: int | None, now: float) -> Bound | None:
        """Count one more in a handshake for ``key``, or say which limit of its own forbids it."""
        if key is None:
            return None
        count = self._handshakes_of.get(key, 0)
        if count >= self.limits.handshakes_per_address:
            return "handshakes_per_address"
        if self._dials is not None and self._dials.take(key, now):
            return "dial_rate"
        self._handshakes_of[key] = count + 1
        return None


def _leave(counts: dict[int, int], key: int | None) -> None:
    if key is not None:
        if counts[key] > 1:
            counts[key] -= 1
        else:
            del counts[key]
