"""One claim of a server-id, and everybody who belongs to it.

Every claim makes a slot of its own, and all traffic goes along the references in it: from a slot to
its phones, from a phone to its slot's binary. So frames cannot cross from one server-id to another,
nor from a binary's time to its successor's, because nothing here leads there.
"""

from typing import Final

from attrs import define, field

from relayd.routing.connection import Connection
from relayd.routing.outbox import Outbox
from relayd.wire.close import (
    BACKLOG_FULL,
    BINARY_GONE,
    VANISHED,
    WRITE_FAILED,
    WRITE_STALLED,
    Close,
    may_travel,
)
from relayd.wire.envelope import close_notice, envelope_prefix

__all__ = ["Phone", "Slot"]

_MOST_WAITING: Final = 10_000
"""Frames waiting for a binary at which a close notice is one too many. Messages stop far below that,
at `relayd.routing.outbox.Outbox.room`, so only a binary that hardly reads gets here: about 1 MB."""


@define(eq=False)
class Phone:
    """One phone's connection, under the name that the binary knows it by."""

    conn_id: str
    connection: Connection
    #: The connection's.
    outbox: Outbox = field(init=False)
    #: The binary has ordered its close: nothing goes either way any more.
    dismissed: bool = field(default=False, init=False)
    #: The number that its latest message has in the binary's outbox.
    last_put: int = field(default=0, init=False)
    #: What stands before its messages in their envelopes.
    prefix: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.outbox = self.connection.outbox
        self.prefix = envelope_prefix(self.conn_id)

    def deliver(self, frame: bytes, close_code: int) -> None:
        """Queue the frame of an envelope and carry out its close directive. Never waits or raises.

        The caller flushes the outbox once it has delivered all that it has.
        """
        if self.dismissed:
            return
        if not close_code:
            if not self.outbox.put(frame):
                self.connection.end(WRITE_FAILED if self.outbox.dead else BACKLOG_FULL)
            return
        self.dismissed = True
        directive = Close(close_code)
        if frame and not self.outbox.put(frame):
            self.connection.end(directive)
        else:
            self.outbox.finish(directive)


@define(eq=False)
class Slot:
    """One binary's claim of a server-id, and the phones that came for it."""

    server_id: str
    #: None once the binary is gone: in its grace window, and for ever after.
    binary: Connection | None
    phones: dict[str, Phone] = field(factory=dict, init=False)

    def abandon(self) -> None:
        """The binary is gone. A phone that still had a message on the way to it is told so at once."""
        if self.binary is None:
            return
        outbox = self.binary.outbox
        self.binary = None
        for phone in self.phones.values():
            if phone.last_put > outbox.delivered:
                phone.connection.end(BINARY_GONE)

    def evict(self, close: Close) -> int:
        """End every phone with ``close``; how many there were."""
        for phone in self.phones.values():
            phone.connection.end(close)
        return len(self.phones)

    def give_notice(self, phone: Phone) -> None:
        """Tell the binary that ``phone`` is gone, unless it wanted that (contract: "Close notice").

        Call it when the phone's last message has been put: the notice then comes after it.
        """
        if self.binary is None or phone.dismissed:
            return
        ending = phone.connection.ending
        code = VANISHED
        if ending.by == "peer":
            # A Close frame without a code is a plain goodbye, but 1005 itself may not travel.
            code = ending.code if may_travel(ending.code) else 1000
        outbox = self.binary.outbox
        if outbox.waiting > _MOST_WAITING:
            # Phones that come and go need no room to leave a notice, so here is where it ends.
            self.binary.end(WRITE_STALLED)
            return
        outbox.put_unbounded(close_notice(phone.conn_id, code))
        outbox.flush()
