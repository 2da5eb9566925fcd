"""Serve one phone: the mirror of `relayd.routing.binary` (contract: "Life of a phone")."""

from relayd.routing.connection import Connection
from relayd.routing.heartbeat import Heartbeats
from relayd.routing.registry import Registry
from relayd.routing.slot import Phone, Slot
from relayd.wire.close import BAD_JSON, BINARY_GONE, WRITE_FAILED
from relayd.wire.envelope import is_json
from relayd.wire.upgrade import PhoneHello

__all__ = ["forward_from_phone", "serve_phone"]


async def serve_phone(
    connection: Connection, hello: PhoneHello, *, registry: Registry, heartbeats: Heartbeats
) -> None:
    """Register an accepted phone and forward what it sends, until its connection ends.

    The caller closes the connection afterwards. Raises `relayd.routing.registry.Refused`.
    """
    with registry.registered(connection, hello) as (slot, phone), heartbeats.keeping(connection):
        await forward_from_phone(connection, slot, phone)


async def forward_from_phone(connection: Connection, slot: Slot, phone: Phone) -> None:
    """Splice every message of the phone into an envelope for the binary; return at the end of reading.

    One sink: while that is full this waits, so the phone's bytes stay in its socket, and without a
    sink the phone is ended, for a frame is never dropped in silence.
    """
    while (messages := await connection.receive()) is not None:
        if slot.binary is not None:
            # Room first, and then all at once: however many phones wait here, the first to put
            # takes the room, and the others find it taken.
            outbox = slot.binary.outbox
            if outbox.full:
                with connection.holding(messages):
                    await outbox.room()
        if not phone.dismissed:
            _hand_on(messages, connection, slot, phone)
        # The next ones may be long in coming, and these must not wait for them.
        messages.clear()


def _hand_on(messages: list[bytes], connection: Connection, slot: Slot, phone: Phone) -> None:
    binary = slot.binary
    if binary is None:
        connection.end(BINARY_GONE)
        return
    outbox = binary.outbox
    for message in messages:
        if not is_json(message):
            connection.end(BAD_JSON)
            break
        phone.last_put = outbox.put_unbounded(message, phone.prefix, b"}")
    outbox.flush()
    if connection.timed:
        connection.handed_on((outbox,))
    if outbox.dead:
        # Its reader mostly knows by itself. But a peer may refuse to be sent anything and go on sending.
        binary.end(WRITE_FAILED)
