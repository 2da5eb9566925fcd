"""How other implementations read what relayd reads: they share no code with it."""

import h11
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from relayd.wire.head import Head

__all__ = ["Reading", "h11_reading", "websockets_reading", "wsproto_reading"]

Reading = tuple[list[bytes], str | int | None]
"""The messages in a stream, and what ended it: "refused", the code of a Close frame, or nothing."""


def wsproto_reading(wire: bytes) -> Reading:
    """The messages in ``wire``, a stream of frames as a client sends it, and what ended it."""
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(wire)
    messages: list[bytes] = []
    pending = b""
    for event in connection.events():
        if isinstance(event, CloseConnection):
            by_peer = connection.state is ConnectionState.REMOTE_CLOSING
            return messages, int(event.code) if by_peer else "refused"
        if isinstance(event, TextMessage | BytesMessage):
            pending += event.data.encode() if isinstance(event.data, str) else bytes(event.data)
            if event.message_finished:
                messages.append(pending)
                pending = b""
    return messages, None


def websockets_reading(wire: bytes) -> Reading:
    """The same, of another opinion."""
    # Without its cap, which has a test of its own: it also counts control frames within a message.
    protocol = ServerProtocol(state=State.OPEN, max_size=None)
    protocol.receive_data(wire)
    messages, pending = [], b""
    for event in protocol.events_received():
        opcode = getattr(event, "opcode", None)
        if opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            pending += bytes(event.data)  # type: ignore[union-attr]
            if event.fin:  # type: ignore[union-attr]
                messages.append(pending)
                pending = b""
    # Looked at first: `websockets` finds a Close frame within a fragmented message a broken rule,
    # which RFC 6455 nowhere says.
    if protocol.close_rcvd is not None:
        return messages, protocol.close_rcvd.code
    return messages, None if protocol.parser_exc is None else "refused"


def h11_reading(data: bytes) -> Head | None:
    """The request head that ``data`` begins with; None if h11 refuses it, or waits for more."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data)
    try:
        request = parser.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(request, h11.Request):
        return None
    minor = int(request.http_version[2:])
    return Head(request.method, request.target, minor, list(request.headers))
