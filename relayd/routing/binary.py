"""Serve one binary: its claim, its heartbeat, its forwarder (contract: "Life of a binary")."""

from relayd.ops.events import Emit, EnvelopesDropped
from relayd.routing.connection import Connection
from relayd.routing.heartbeat import Heartbeats
from relayd.routing.outbox import Outbox
from relayd.routing.registry import Registry
from relayd.routing.slot import Slot
from relayd.wire.envelope import Malformed, decode_envelope
from relayd.wire.upgrade import BinaryHello

__all__ = ["forward_from_binary", "serve_binary"]


async def serve_binary(
    connection: Connection, hello: BinaryHello, *, registry: Registry, heartbeats: Heartbeats, emit: Emit
) -> None:
    """Hold the claim of an accepted binary and forward what it sends, until its connection ends.

    The caller closes the connection afterwards. So the teardown is heartbeat, release, close, by
    nothing but how the scopes are nested. Raises `relayd.routing.registry.Refused`.
    """
    async with registry.claimed(connection, hello) as slot:
        with heartbeats.keeping(connection):
            await forward_from_binary(connection, slot, emit)


async def forward_from_binary(connection: Connection, slot: Slot, emit: Emit) -> None:
    """Deliver every envelope of the binary to its phone; return when there is no more to read.

    Nothing but reading ends it: a bad envelope costs itself, a bad phone costs that phone. It never
    waits for a phone, only for the next read, and each read lets other tasks have their turn.
    """
    phones = slot.phones
    while (messages := await connection.receive()) is not None:
        malformed = unknown = push_wake = 0
        touched: set[Outbox] = set()
        for message in messages:
            try:
                conn_id, frame, close_code = decode_envelope(message)
            except Malformed:
                malformed += 1
                continue
            phone = phones.get(conn_id)
            if phone is not None:
                phone.deliver(frame, close_code)
                touched.add(phone.outbox)
            elif conn_id:
                unknown += 1
            else:
                push_wake += 1
        for outbox in touched:
            outbox.flush()
        if connection.timed:
            connection.handed_on(touched)
        if malformed or unknown or push_wake:
            # One event for a whole read: a binary that sends rubbish must not fill the journal.
            emit(EnvelopesDropped(slot.server_id, malformed, unknown, push_wake))
        # The next ones may be long in coming, and these must not wait for them.
        messages.clear()
        message = frame = b""
