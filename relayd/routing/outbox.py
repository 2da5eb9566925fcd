"""The bounded queue of bytes on its way to one peer, and its writer (contract: "Outbox").

Everything that is sent on a connection passes through its outbox, control frames too, so frames
never interleave and nobody needs a lock. Putting is synchronous: whoever puts can be cancelled
right afterwards and leaves no half-written frame behind. `Outbox.flush` then tries the socket at
once, everything queued in one system call; only what the socket does not take costs a task switch,
to the writer.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import trio

from relayd.routing.budget import Account
from relayd.wire.close import WRITE_STALLED, Close
from relayd.wire.frames import encode_text

__all__ = ["FRAME_OVERHEAD", "Outbox", "Transport"]

FRAME_OVERHEAD: Final = 64
"""Bytes charged for each frame beside its payload: its header, and about what its place here costs."""

_ROOM: Final = 256 * 1024
"""Charge up to which `Outbox.room` lets more in: enough to keep a socket busy, little to hold."""

_FRAMES_AT_ONCE: Final = 1024
"""Frames in one system call: as many as writev(2) takes."""

_LOOKS: Final = 10
"""Looks at a stalled socket within one write timeout. Acknowledgements of what was just sent still
come in for a moment: with only one look, at the end, they would be worth a whole timeout more."""


class Transport(Protocol):
    """Where an outbox puts its bytes: a connection's socket."""

    def try_send(self, frames: Sequence[bytes | memoryview]) -> int:
        """Send what fits without waiting; how many bytes that was. Raises OSError on a dead socket.

        Takes up to 1,024 frames (IOV_MAX of writev(2)).
        """

    def start_writer(self) -> None:
        """Have `Outbox.write` run for as long as the connection lives, or until it returns."""

    async def wait_writable(self) -> None:
        """Wait until `try_send` is worth another attempt, also if only to learn that the socket is dead."""

    def unacknowledged(self) -> int:
        """How many bytes of what was sent the peer's side has not confirmed yet."""

    def kept(self) -> int:
        """How many bytes of what was sent wait in this process, after `try_send` has not sent all."""

    def end(self, close: Close) -> None:
        """End the connection that this outbox belongs to. First call wins."""


class Outbox:
    """Frames for one peer, bounded by bytes."""

    __deletable__ = ("_transport",)  # mypyc wants to know
    __slots__ = (
        "_account",
        "_begun",
        "_blocked",
        "_closing",
        "_counted",
        "_delivered",
        "_finish",
        "_frames",
        "_limit",
        "_progress",
        "_taking",
        "_transport",
        "_write_timeout",
        "charge",
        "dead",
        "sent_bytes",
        "sent_count",
    )

    def __init__(self, transport: Transport, *, limit: int, write_timeout: float, account: Account) -> None:
        """``account`` is the connection's: it is told what is left here after each attempt to send."""
        self._transport = transport
        self._account = account
        # What it has been told.
        self._counted = 0
        self._limit = limit
        self._write_timeout = write_timeout
        # Encoded frames. Of the first, `_begun` bytes have been sent already: unless that is 0, its
        # rest has to go out before anything else may.
        self._frames: list[bytes] = []
        self._begun = 0
        # The socket is full, and a writer waits for it: until then there is no point in trying.
        self._blocked = False
        # What `room` and `drained` wait for; most connections never do.
        self._progress: trio.Event | None = None
        # Messages get in. Not any more once one has found no room, or the connection is to end.
        self._taking = True
        self._finish: Close | None = None
        # The connection is closing: control frames only. Then `_delivered` is what `sent_count` was
        # before the queue was emptied.
        self._closing = False
        self._delivered: int | None = None
        #: Bytes held: of each frame its payload's length and `FRAME_OVERHEAD`, until all of it is sent.
        self.charge = 0
        #: How many frames have left the queue.
        self.sent_count = 0
        #: How many bytes the kernel has taken, those of control frames and headers among them.
        self.sent_bytes = 0
        #: The socket has failed, so nothing more will be sent. The reader learns why, and ends.
        self.dead = False

    @property
    def waiting(self) -> int:
        """How many frames are in the queue."""
        return len(self._frames)

    @property
    def full(self) -> bool:
        """Whether `room` would wait."""
        return self.charge > _ROOM and not self.dead and not self._closing

    @property
    def delivered(self) -> int:
        """The number of the last message that the kernel has taken whole, in order from the first."""
        return self.sent_count if self._delivered is None else self._delivered

    def put(self, payload: bytes) -> bool:
        """Queue one text message; False if the socket is dead, or it would take the charge over the limit.

        Follow a run of puts with one `flush`. After `finish` a message is dropped: the peer has
        been promised that its connection ends there. After one False nothing more gets in, so that
        what the peer has received never has a gap.
        """
        if not self._taking:
            return self._finish is not None or self._closing
        charge = self.charge + len(payload) + FRAME_OVERHEAD
        if charge > self._limit:
            # What piled up here within one batch has not been offered to the socket yet.
            self.flush()
            charge = self.charge + len(payload) + FRAME_OVERHEAD
            # The socket may have turned out to be dead, or all that waited here too much for the process.
            if charge > self._limit or not self._taking:
                self._taking = False
                return False
        self._frames.append(encode_text(payload))
        self.charge = charge
        return True

    def put_unbounded(self, payload: bytes, before: bytes = b"", after: bytes = b"") -> int:
        """Queue one text message whatever the charge, for callers that then wait for `room`.

        The message is ``payload`` between two other parts. Returns its number: it is with the kernel
        once `delivered` has reached that, and never if it comes too late to be sent.
        """
        number = self.sent_count + len(self._frames) + 1
        if not self.dead and not self._closing:
            frame = encode_text(payload, before, after)
            self._frames.append(frame)
            self.charge += _charge(frame)
        return number

    def put_control(self, frame: bytes) -> None:
        """Queue one encoded control frame (or, before there are frames, the answer to an upgrade)."""
        if not self.dead:
            self._frames.append(frame)
            self.charge += _charge(frame)

    def flush(self) -> None:
        """Send what is queued, now, as far as the socket takes it; start a writer for the rest."""
        if not self._blocked:
            self._send()
            if self._blocked:
                self._transport.start_writer()
        if self._counted != self.charge:
            self._count()

    def finish(self, close: Close) -> None:
        """End the connection with ``close`` as soon as everything put so far has been sent."""
        if self._finish is None:
            self._finish = close
            self._taking = False
            self.flush()

    def discard(self) -> None:
        """For closing: forget what has not begun to go out, and take control frames alone from now on.

        A begun frame will be finished. Whatever waits for `room` is let go.
        """
        if self._closing:
            return
        self._closing = True
        self._taking = False
        self._delivered = self.sent_count
        keep = 1 if self._begun else 0
        self.sent_count += len(self._frames) - keep
        del self._frames[keep:]
        self.charge = sum(map(_charge, self._frames))
        self._finish = None
        self._count()
        self._note_progress()

    def give_up(self) -> None:
        """Forget everything, a begun frame too: nothing more can be sent, not even a Close frame."""
        self._die()
        self._count()

    def close(self) -> None:
        """The socket is closed. Lets go of the connection, so that no cycle of references outlives it."""
        self.give_up()
        del self._transport

    async def room(self) -> None:
        """Wait until there is room for another batch, or no use in waiting."""
        while self.full:
            await self._next_progress()

    async def drained(self) -> None:
        """Wait until everything put so far has been sent, or never will be."""
        await self.left(self.sent_count + len(self._frames))

    async def left(self, number: int) -> None:
        """Wait until frame ``number`` has left the queue: sent, or given up."""
        while self.sent_count < number and not self.dead:
            await self._next_progress()

    async def write(self) -> None:
        """The writer: send what `flush` could not, and return when there is no such thing any more.

        Ends the connection when the peer takes nothing at all for the write timeout, and goes on for
        the Close frame. Cancelled at any point, the queue is whole; nothing of it goes out after that.
        """
        while self._blocked:
            if await self._wait_writable():
                self._send()
                self._count()
            else:
                self._transport.end(WRITE_STALLED)

    async def _wait_writable(self) -> bool:
        """False if the write timeout passed and the peer took nothing in all that time."""
        unacknowledged = self._transport.unacknowledged()
        deadline = trio.current_time() + self._write_timeout
        while (now := trio.current_time()) < deadline:
            with trio.move_on_at(min(deadline, now + self._write_timeout / _LOOKS)):
                await self._transport.wait_writable()
                return True
            # The kernel calls a socket writable when a good part of its buffer is free. A slow peer
            # may take longer than the timeout to get there and be taking bytes all along.
            remaining = self._transport.unacknowledged()
            if remaining < unacknowledged:
                unacknowledged = remaining
                deadline = trio.current_time() + self._write_timeout
        return False

    def _send(self) -> None:
        self._blocked = False
        while self._frames and not self._blocked:
            frames, size = self._next()
            try:
                sent = self._transport.try_send(frames)
            except OSError:
                self._die()
                return
            self.sent_bytes += sent
            self._blocked = sent < size
            if not self._blocked and len(frames) == len(self._frames):
                self.sent_count += len(frames)
                self._frames.clear()
                self.charge = self._begun = 0
            else:
                self._release(sent)
        self._note_progress()
        if self._finish is not None and not self._frames:
            self._transport.end(self._finish)

    def _next(self) -> tuple[list[bytes | memoryview], int]:
        """What to send in one system call, and how many bytes that is."""
        frames: list[bytes | memoryview] = [*self._frames[:_FRAMES_AT_ONCE]]
        if self._begun:
            frames[0] = memoryview(frames[0])[self._begun :]
        return frames, sum(map(len, frames))

    def _release(self, sent: int) -> None:
        """Let go of the next ``sent`` bytes of the queue."""
        sent += self._begun
        whole = 0
        for frame in self._frames:
            if sent < len(frame):
                break
            sent -= len(frame)
            self.charge -= _charge(frame)
            whole += 1
        del self._frames[:whole]
        self.sent_count += whole
        self._begun = sent

    def _count(self) -> None:
        """Tell the account what is left here. It may find that too much, and have it discarded."""
        held = self.charge
        if self._blocked and not self.dead:
            held += self._transport.kept()
        change = held - self._counted
        self._counted = held
        self._account.change(change)

    def _die(self) -> None:
        self.dead = True
        self._taking = False
        self._frames.clear()
        self.charge = self._begun = 0
        self._note_progress()

    async def _next_progress(self) -> None:
        """Wait until frames have left the queue."""
        if self._progress is None:
            self._progress = trio.Event()
        await self._progress.wait()

    def _note_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None


def _charge(frame: bytes) -> int:
    """What an encoded frame is charged: its payload's length, told from its own, and the overhead."""
    length = len(frame)
    header = 2 if length < 2 + 126 else 4 if length < 4 + 0x10000 else 10
    return length - header + FRAME_OVERHEAD
