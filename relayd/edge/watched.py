"""What those see of the relay who watch it: metrics and the admin socket."""

from collections.abc import Set
from typing import Protocol

from relayd.edge.admission import Admission
from relayd.edge.connection import WebSocket
from relayd.edge.tally import Tally
from relayd.routing.budget import Budget
from relayd.routing.registry import Registry
from relayd.settings import Settings

__all__ = ["Watched"]


class Watched(Protocol):
    """The relay, to look at."""

    @property
    def settings(self) -> Settings:
        """In force now."""

    @property
    def tally(self) -> Tally:
        """What has happened so far."""

    @property
    def admission(self) -> Admission:
        """How many there are, and may be."""

    @property
    def registry(self) -> Registry:
        """Who holds which server-id."""

    @property
    def budget(self) -> Budget:
        """What is buffered, and what may be."""

    @property
    def connections(self) -> Set[WebSocket]:
        """WebSocket connections, from their upgrade until they are closed for good."""

    @property
    def draining(self) -> bool:
        """Whether the relay is about to end."""

    @property
    def certificate_end(self) -> float | None:
        """When the first certificate ends, in seconds since 1970; 0 while one is missing, None without TLS."""
