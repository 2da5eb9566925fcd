"""What routing needs of a connection, and no more: the edge has the real one."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from attrs import frozen

from relayd.ops.events import EndedBy
from relayd.routing.outbox import Outbox
from relayd.wire.close import Close

__all__ = ["Connection", "Ending"]


@frozen
class Ending:
    """How a connection ended: by whom, with which code, and for which reason of ours."""

    by: EndedBy
    code: int
    reason: str


class Connection(Protocol):
    """One accepted WebSocket connection, seen from inside the relay."""

    @property
    def remote(self) -> str:
        """The peer's address, fit for a log line."""

    @property
    def outbox(self) -> Outbox:
        """All that is on its way to the peer."""

    @property
    def signs_of_life(self) -> int:
        """How often the peer has been heard, or has taken bytes that waited for it: a count that only grows."""

    @property
    def reading(self) -> bool:
        """Whether the forwarder is waiting for the peer's bytes. While it is not, silence means nothing."""

    @property
    def timed(self) -> bool:
        """Whether the messages that `receive` returned last are a sample of how long messages spend inside."""

    @property
    def ending(self) -> Ending:
        """How the connection ended; while it lives, what it would be if it vanished now."""

    async def receive(self) -> list[bytes] | None:
        """The data messages of one read, all at once and in order; None once there will be no more.

        Only the forwarder calls this: it is the only reader. Cancelled here, no message is lost.
        Never raises for anything that the peer does.
        """

    def holding(self, messages: list[bytes]) -> AbstractContextManager[None]:
        """Around a wait with ``messages``, which `receive` returned: so they count as buffered.

        If the wait is cancelled, they are let go.
        """

    def handed_on(self, outboxes: Iterable[Outbox]) -> None:
        """Messages that are `timed` are in ``outboxes`` now, each of which has been flushed. Never waits."""

    def ping(self) -> None:
        """Ask for a sign of life. Never waits or raises."""

    async def answers(self, timeout: float) -> bool:
        """Ping the peer; whether it gives any sign of life within ``timeout`` seconds.

        A peer whose bytes we are leaving in its socket cannot be heard, so it counts as alive. One
        whose connection ends meanwhile does not, at once.
        """

    def hung_up(self) -> bool:
        """Whether the peer's stream has come to its end, although nobody has read as far as that."""

    def end(self, close: Close) -> None:
        """End the connection with ``close``: the scope around its nursery is cancelled. First call wins."""
