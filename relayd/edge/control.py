"""A peer's pings and its goodbye: trio-websocket answers them, from the first one on.

Most connections never ping, and many end without a goodbye. trio-websocket takes a task, a channel
and a parser, more than all else that an idle connection holds: so it is there once there is
something to answer, and not before.

By then the opening handshake is long over (`relayd.edge.http`). trio-websocket goes through one all
the same, the only way to an open connection that it has in public: with a request head of ours, and
its answer goes nowhere. So what a stranger wrote in his head never gets here.
"""

from typing import Final

import trio
import trio_websocket

from relayd.routing.outbox import Outbox

__all__ = ["Control"]

_HEAD: Final = (
    b"GET / HTTP/1.1\r\nHost: relayd\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Control:
    """Answers the control frames of one connection; `open` must have been started in its nursery."""

    def __init__(self, pings: list[bytes], outbox: Outbox) -> None:
        """``pings`` are whole ping frames as received, which are taken from its front."""
        self._tap = _Tap(pings, outbox)

    async def open(self, nursery: trio.Nursery) -> None:
        """Bring trio-websocket, whose reader then runs in ``nursery``. What the peer does cannot hold it up."""
        request = await trio_websocket.wrap_server_stream(nursery, self._tap)
        _trim(await request.accept())
        self._tap.open = True
        self._tap.wake()

    def answer_pings(self) -> None:
        """There are pings. Never waits."""
        self._tap.wake()

    async def answer_close(self, frame: bytes) -> None:
        """Answer the peer's Close frame, given whole as received; return when the answer is with the kernel.

        Not before its messages have gone where they belong: after the answer there are none to the peer.
        """
        self._tap.close_frame = frame
        self._tap.wake()
        await self._tap.closed.wait()

    def mute(self) -> None:
        """A Close frame of ours goes out, behind which nothing may follow: answer no more."""
        self._tap.muted = True


class _Tap(trio.abc.Stream):
    """The stream that trio-websocket reads and writes: all of the connection but its data.

    It hands out one control frame at a time. trio-websocket asks for the next when its answer is with the
    kernel, so a peer that floods us with pings and reads no pongs makes nothing pile up.
    """

    def __init__(self, pings: list[bytes], outbox: Outbox) -> None:
        self._pings = pings
        self._outbox = outbox
        self._head = _HEAD
        self._arrival = trio.lowlevel.ParkingLot()
        #: trio-websocket has seen an opening handshake: what it sends from now on is for the peer.
        self.open = False
        #: The peer's, to be handed out behind its pings.
        self.close_frame: bytes | None = None
        #: Nothing is handed out any more, and an answer that is under way goes nowhere.
        self.muted = False
        #: trio-websocket is done with the connection.
        self.closed = trio.Event()

    def wake(self) -> None:
        """There may be something new to receive."""
        self._arrival.unpark_all()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._head:
                head, self._head = self._head, b""
                return head
            if self.closed.is_set():
                raise trio.ClosedResourceError
            if self.open and not self.muted:
                if self._pings:
                    return self._pings.pop(0)
                if self.close_frame is not None:
                    frame, self.close_frame = self.close_frame, None
                    return frame
            await self._arrival.park()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.open and not self.muted:
            self._outbox.put_control(bytes(data))
            self._outbox.flush()
            await self._outbox.drained()
            if self._outbox.dead:
                self.closed.set()
                raise trio.BrokenResourceError
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await self._outbox.drained()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.closed.set()
        self.wake()
        await trio.lowlevel.checkpoint()


def _trim(ws: trio_websocket.WebSocketConnection) -> None:
    """Let go of what wsproto keeps of the opening handshake, a good part of all that it holds.

    It has no public name, and if one day it has another private one, this does nothing.
    """
    handshake = getattr(getattr(ws, "_wsproto", None), "handshake", None)
    for name in ("_h11_connection", "_initiating_request"):
        if hasattr(handshake, name):
            setattr(handshake, name, None)
