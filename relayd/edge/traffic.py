"""What connections have carried."""

from attrs import frozen

from relayd.edge.connection import WebSocket

__all__ = ["Traffic"]


@frozen
class Traffic:
    """Frames and bytes, both ways: what came in are messages, what went out is all there was to send."""

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0

    def plus(self, connection: WebSocket) -> "Traffic":
        """This, and what ``connection`` has carried until now."""
        outbox = connection.outbox
        return Traffic(
            self.frames_in + connection.received_count,
            self.bytes_in + connection.received_bytes,
            self.frames_out + outbox.sent_count,
            self.bytes_out + outbox.sent_bytes,
        )
