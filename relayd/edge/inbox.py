"""What one peer sends, on its way in: from its socket to a batch of messages for the forwarder.

Here is all that stands between the two: how much is read and decoded at once, how fast, until when a message
has to be whole, and how much is kept for later. Whom the peer's control frames concern, and how a connection
ends, is its `Owner`'s to know.
"""

import math
from typing import Final, Protocol

import trio

from relayd.edge.pace import Pace
from relayd.edge.shared import Shared
from relayd.edge.stream import Stream
from relayd.edge.turns import LEAST_FRAMES
from relayd.ops.events import RateLimited
from relayd.routing.budget import Account
from relayd.settings import Settings
from relayd.values import Rate
from relayd.wire.close import MESSAGE_TOO_SLOW, Close
from relayd.wire.frames import FrameDecoder

__all__ = ["READ_BYTES", "Inbox", "Owner"]

READ_BYTES: Final = 64 * 1024
"""What a read asks for at first."""

_MORE_BYTES: Final = 256 * 1024
"""What a read asks for when the one before it was full: the more frames come together, the more go
out in one system call. Frames are few in so many bytes, or `Turns` bounds their number."""

_LOOK: Final = 1.0
"""Seconds between two looks at whether a peer that is held back is still there."""


class Owner(Protocol):
    """Whose inbox it is: the connection."""

    signs_of_life: int

    @property
    def kind(self) -> str:
        """What it was opened as: binary or phone."""

    @property
    def remote(self) -> str:
        """The peer's address, fit for a log line."""

    def show_life(self) -> None:
        """Bytes have come."""

    def take_control(self) -> int:
        """There are pings or pongs in the decoder. How many pongs the peer was asked for. Never waits."""

    def reading_ended(self) -> None:
        """There will be no more messages. If that is for a Close frame or a broken rule, the decoder has it."""

    def end(self, close: Close) -> None:
        """End the connection with ``close``, and cancel whoever receives."""


class Inbox:
    """The reading side of one connection. One task reads at a time."""

    __slots__ = (
        "_account",
        "_ask",
        "_away_since",
        "_deadline",
        "_frames_per_turn",
        "_leftover",
        "_message_timeout",
        "_more",
        "_owner",
        "_pace",
        "_rated",
        "_shared",
        "_stream",
        "_timing",
        "_turn",
        "_turns",
        "_unlimited",
        "decoder",
        "held",
        "over",
        "read_at",
        "reading",
        "received_bytes",
        "received_count",
    )

    def __init__(
        self,
        owner: Owner,
        stream: Stream,
        leftover: bytes,
        account: Account,
        settings: Settings,
        shared: Shared,
    ) -> None:
        """``leftover`` came in one read with the request head: a client need not wait for our 101.

        ``account`` is the connection's: it is told of what is kept here for later.
        """
        self._owner = owner
        self._stream = stream
        self._leftover = leftover
        self._account = account
        self._shared = shared
        #: What has come of control frames, and how the stream of frames ended.
        self.decoder = FrameDecoder(settings.max_frame_bytes)
        #: Bytes kept for later, as far as the account has been told.
        self.held = 0
        self._message_timeout = settings.message_timeout
        # When the message under way has to be complete, and since when the forwarder has been
        # elsewhere: what backpressure takes is not the peer's fault, and moves the deadline.
        self._deadline = math.inf
        self._away_since = 0.0
        self._turns = shared.turns
        self._turn = shared.turns.latest
        self._frames_per_turn = LEAST_FRAMES
        rate = settings.binary_rate if owner.kind == "binary" else settings.phone_rate
        self._rated = rate != Rate()
        self._pace = Pace(rate) if self._rated else None
        # The connection is closing: there is one deadline for that, and nobody is held back.
        self._unlimited = False
        self._ask = READ_BYTES if self._pace is None else self._pace.most_bytes(READ_BYTES)
        # The last read was full, so the next need not wait to be told that there is more.
        self._more = False
        #: There is no more to read: a Close frame has come, a rule was broken, or the stream has ended.
        self.over = False
        #: Whether somebody waits here for the peer's bytes.
        self.reading = False
        #: Messages and bytes that have come, those of control frames and headers among the bytes.
        self.received_count = 0
        self.received_bytes = 0
        self._timing = shared.timing
        #: When the latest read was done, by trio's clock, if what it brought is timed.
        self.read_at: float | None = None

    def open(self) -> None:
        """The connection is accepted: what came with its request counts as held from now on."""
        self._count_held(len(self._leftover))

    def close(self) -> None:
        """Nobody reads any more. Lets go of the connection, so that no cycle of references outlives it."""
        del self._owner

    async def receive(self) -> list[bytes] | None:
        """The data messages of one read, in order; None once there will be no more."""
        decoder = self.decoder
        if self._deadline < math.inf:
            self._deadline += trio.current_time() - self._away_since
        data = b""
        while not decoder.ended:
            if self._pace is not None and self._pace.until:
                await self._pause(self._pace)
            if decoder.backlog:
                await trio.lowlevel.checkpoint()
            elif self._leftover:
                data, self._leftover = self._leftover, b""
            else:
                data = await self._read()
                if not data:
                    break
                if self._timing is not None:
                    self.read_at = self._timing.sample()
            most = self._frames_per_turn = self._turns.begin(self._turn, self._frames_per_turn)
            self._turn = self._turns.latest
            if self._rated and self._pace is not None:
                most = self._pace.most_frames(most)
            messages = decoder.decode(data, most)
            self.received_count += len(messages)
            if decoder.others or self._rated:
                self._take_others(len(data), len(messages))
            # What is left of it is counted. It must not be kept beside that, whatever is waited for.
            data = b""
            unfinished = decoder.mid_message
            if messages or not unfinished:
                self._deadline = math.inf
            self._count_held((decoder.held if unfinished else 0) + self._stream.unread())
            if unfinished:
                await self._keep_deadline()
            if messages:
                return messages
        self.over = True
        # What came behind the end is nobody's, and must not wait for the goodbye to be done.
        self._stream.discard_unread()
        self._count_held(decoder.held)
        self._owner.reading_ended()
        await trio.lowlevel.checkpoint()
        return None

    def discard(self, close: Close) -> None:
        """Let go of what is kept for later. ``close`` is the failure if it was part of a message."""
        self._leftover = b""
        if self.held and not self.decoder.ended:
            self.decoder.give_up(close)
            self._stream.discard_unread()
            self._count_held(0)

    def stop_limiting(self) -> None:
        """For closing: there is one deadline for that.

        The rest of a slow message, or of a fast peer's many, only stands before its Close frame.
        """
        self._unlimited = True
        self._deadline = self._message_timeout = math.inf

    async def _read(self) -> bytes:
        """The next bytes; none at the end of the stream, however that came about."""
        while True:
            if self._more:
                await trio.lowlevel.checkpoint()
            else:
                await self._readable()
            data = self._stream.try_receive(self._ask, self._frames_per_turn)
            if data is None:
                self._more = False
                if self._deadline < math.inf:
                    await self._keep_deadline()
                continue
            self._more = len(data) == self._ask
            self._ask = _MORE_BYTES if len(data) >= READ_BYTES else READ_BYTES
            if self._rated and self._pace is not None:
                self._ask = self._pace.most_bytes(self._ask)
            self.received_bytes += len(data)
            self._owner.show_life()
            return data

    async def _readable(self) -> None:
        """Wait until there is something to read, at most until the message under way has to be complete.

        That moment says nothing of what has come: if we were stopped meanwhile, its rest may be there.
        """
        self.reading = True
        try:
            if self._deadline == math.inf:
                await self._stream.wait_readable()
                return
            with trio.move_on_at(self._deadline):
                await self._stream.wait_readable()
        finally:
            self.reading = False

    async def _keep_deadline(self) -> None:
        """In the middle of a message: give it its deadline, or end the connection if that has passed.

        Also asked when there was no waiting at all: a message can be drawn out with fragments that
        never keep us waiting.
        """
        now = self._away_since = trio.current_time()
        if self._deadline == math.inf:
            self._deadline = now + self._message_timeout
        elif now >= self._deadline:
            self._owner.end(MESSAGE_TOO_SLOW)
            await trio.sleep_forever()  # which `end` has just cancelled

    def _count_held(self, held: int) -> None:
        change = held - self.held
        if change:
            self.held = held
            self._account.change(change)

    def _take_others(self, size: int, messages: int) -> None:
        """After a decoding of ``size`` new bytes: control frames, and what bounds there are."""
        decoder = self.decoder
        others, idle = decoder.others, decoder.idle
        decoder.others = decoder.idle = 0
        if decoder.pings or decoder.pongs:
            # Whoever claims its server-id has us ping a binary: what that makes it send costs it nothing.
            asked_for = self._owner.take_control()
            others -= asked_for
            idle -= asked_for
        if (idle or self._rated) and not self._unlimited:
            if self._pace is None:
                self._pace = Pace(Rate())
            self._pace.spend(size, messages + others, idle)

    async def _pause(self, pace: Pace) -> None:
        """Leave the peer's bytes in its socket until it is within its bounds again."""
        if not self._unlimited:
            owner = self._owner
            begun, bound = trio.current_time(), pace.bound
            if not pace.noticed:
                pace.noticed = True
                self._shared.emit(RateLimited(owner.kind, owner.remote, bound))
            with self._shared.pauses.noted(owner.kind, bound):
                # Whoever has hung up has no place to hold here, and what he left is bounded.
                while (now := trio.current_time()) < pace.until and not self._stream.hung_up():  # noqa: ASYNC110 (nothing tells us)
                    await trio.sleep_until(min(pace.until, now + _LOOK))
            # Unless it draws out a message with frames of nothing, which is its own doing.
            if self._deadline < math.inf and not (bound == "control" and self.decoder.fragmented):
                self._deadline += trio.current_time() - begun
            # As after any time in which it was not heard.
            owner.signs_of_life += 1
        pace.until = 0.0
