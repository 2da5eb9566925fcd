"""One claim of a server-id, and everybody who belongs to it.

Every claim makes a slot of its own, and all traffic goes along the references in it: from a slot to
its phones, from a phone to its slot's binary. So frames cannot cross from one server-id to another,
nor from a binary's time to its successor's, because nothing here leads there.
"""

from typing import Final

from relayd.routing.connection import Connection
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


class Phone:
    """One phone's connection, under the name that the binary knows it by."""

    __slots__ = ("conn_id", "connection", "device_name", "dismissed", "last_put", "outbox", "prefix")

    def __init__(self, conn_id: str, connection: Connection, device_name: str = "") -> None:
        self.conn_id = conn_id
        self.connection = connection
        #: What it calls itself, fit to be shown.
        self.device_name = device_name
        #: The connection's.
        self.outbox = connection.outbox
        #: The binary has ordered its close: nothing goes either way any more.
        self.dismissed = False
        #: The number that its latest message has in the binary's outbox.
        self.last_put = 0
        #: What stands before its messages in their envelopes.
        self.prefix = envelope_prefix(conn_id)

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


class Slot:
    """One binary's claim of a server-id, and the phones that came for it."""

    __slots__ = ("binary", "phones", "server_id", "version")

    def __init__(self, server_id: str, binary: Connection | None, version: str = "") -> None:
        self.server_id = server_id
        #: The binary's, fit to be shown.
        self.version = version
        #: None once the binary is gone: in its grace window, and for ever after.
        self.binary: Connection | None = binary
        self.phones: dict[str, Phone] = {}

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
