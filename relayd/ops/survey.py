"""The relay as a scrape finds it: looked at a few connections at a time, so that nobody waits for it."""

from collections.abc import Mapping
from typing import Final

import trio
from attrs import frozen

from relayd.edge.tally import Traffic
from relayd.edge.watched import Watched

__all__ = ["Survey", "survey"]

_PER_TURN: Final = 4096
"""Connections that are looked at before other tasks have their turn: some milliseconds. On a full relay a
scrape waits for everybody else's turn after each of its own, so it must not have many."""


@frozen
class Survey:
    """The relay at one moment, and what its connections held and had carried soon after."""

    relay: Watched
    open: Mapping[tuple[str, str], int]
    """Connections by kind and state."""
    traffic: Traffic
    """Of all connections that there have ever been."""
    outboxes: Mapping[str, int]
    """Bytes that wait for peers, by kind."""


async def survey(relay: Watched) -> Survey:
    """Look at every connection of ``relay``, a few at a time.

    One that ends meanwhile is still in our list, with its last figures, and one that begins is not: so
    each is counted once, and no total is ever less than in the survey before.
    """
    connections = list(relay.connections)
    traffic = Traffic(relay.tally.ended)
    registry = relay.registry
    settled = {"binary": registry.connected_binaries, "phone": registry.connected_phones}
    graces, handshaking = registry.graces, relay.admission.handshakes
    kinds, outboxes = {"binary": 0, "phone": 0}, {"binary": 0, "phone": 0}
    for number, connection in enumerate(connections, 1):
        traffic.add(connection)
        kinds[connection.kind] += 1
        outboxes[connection.kind] += connection.outbox.charge
        if number % _PER_TURN == 0:
            await trio.lowlevel.checkpoint()
    states = {(kind, "connected"): count for kind, count in settled.items()}
    states |= {(kind, "transit"): count - settled[kind] for kind, count in kinds.items()}
    states |= {("binary", "grace"): graces, ("unknown", "handshake"): handshaking}
    return Survey(relay, states, traffic, outboxes)
