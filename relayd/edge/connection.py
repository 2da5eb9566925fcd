"""A WebSocket connection: the data path, and trio-websocket beside it.

    socket -> FrameDecoder -> data messages  -> the forwarder, through `WebSocket.receive`
                           -> pings, Close   -> trio-websocket, through `Control`
    socket <- Outbox       <- data messages  <- whoever sends to this peer
                           <- pongs, answers to a Close   <- trio-websocket, through `Control`
                           <- pings, a Close of our own   <- this file

The forwarder is the only reader of the socket: `WebSocket.receive` reads, keeps what is data, and
leaves what is control to `relayd.edge.control`, where trio-websocket finds it as if it had read it
itself. So a data frame costs neither a task switch nor an object of trio-websocket's.
"""

import math
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, Literal

import trio
from attrs import frozen

from relayd.edge.control import Control
from relayd.edge.http import Upgrade
from relayd.edge.pace import Pace, Pauses
from relayd.edge.stream import Stream
from relayd.edge.timing import Timing
from relayd.edge.turns import LEAST_FRAMES, Turns
from relayd.ops.events import BuffersFull, Emit, RateLimited
from relayd.routing.budget import Account, Budget
from relayd.routing.connection import Ending
from relayd.routing.heartbeat import let_readers_read
from relayd.routing.outbox import FRAME_OVERHEAD, Outbox
from relayd.settings import Settings
from relayd.values import Rate
from relayd.wire.close import BACKLOG_FULL, BUFFERS_FULL, MESSAGE_TOO_SLOW, NORMAL, Close
from relayd.wire.frames import PING, FrameDecoder, encode_close
from relayd.wire.upgrade import BinaryHello

__all__ = ["Kind", "NeverOpened", "Shared", "WebSocket"]

Kind = Literal["binary", "phone"]
"""What a connection was opened as."""

_READ_BYTES: Final = 64 * 1024
"""What a read asks for at first."""

_MORE_BYTES: Final = 256 * 1024
"""What a read asks for when the one before it was full: the more frames come together, the more go
out in one system call. Frames are few in so many bytes, or `Turns` bounds their number."""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a peer has to take our Close frame and answer it, whatever it is doing."""

_LOOK: Final = 1.0
"""Seconds between two looks at whether a peer that is held back is still there."""

_NO_STATUS: Final = 1005
_ABNORMAL: Final = 1006

_UNKNOWN_TO_WSPROTO: Final = 1014
"""Bad gateway: registered with IANA and allowed to travel, but wsproto takes it for a protocol error."""


_KEPT: Final = 16 * 1024
"""Of a frame that has begun to go out, bytes that are kept although memory is wanted, so that a Close frame
may follow."""


@frozen
class Shared:
    """What all connections of a relay share."""

    turns: Turns
    budget: Budget
    pauses: Pauses
    emit: Emit
    timing: Timing | None = None


class NeverOpened(Exception):
    """The peer was gone before its upgrade was answered."""


class WebSocket:
    """An accepted connection; routing knows it as `relayd.routing.connection.Connection`.

    It lives while it is `opened`.
    """

    # CPython shares the names of at most 30 attributes between instances that have a dictionary.
    __slots__ = (
        "_account",
        "_answer",
        "_ask",
        "_away_since",
        "_control",
        "_deadline",
        "_decoder",
        "_frames_per_turn",
        "_given_up",
        "_heard",
        "_held",
        "_leaving",
        "_leftover",
        "_message_timeout",
        "_more",
        "_nursery",
        "_over",
        "_pace",
        "_pinged_at",
        "_rated",
        "_read_at",
        "_saying_goodbye",
        "_shared",
        "_stream",
        "_timing",
        "_turn",
        "_turns",
        "_verdict",
        "kind",
        "outbox",
        "reading",
        "received_bytes",
        "received_count",
        "remote",
        "round_trip",
        "scope",
        "signs_of_life",
        "since",
        "timed",
    )

    def __init__(
        self,
        stream: Stream,
        remote: str,
        upgrade: Upgrade,
        settings: Settings,
        shared: Shared,
    ) -> None:
        self.remote = remote
        #: What it was opened as.
        self.kind: Kind = "binary" if isinstance(upgrade.hello, BinaryHello) else "phone"
        self.scope = trio.CancelScope()
        self._shared = shared
        self._account = Account(shared.budget, self.give_up)
        self._given_up = False
        self.outbox = Outbox(
            self, limit=settings.outbox_bytes, write_timeout=settings.write_timeout, account=self._account
        )
        self._stream = stream
        self._decoder = FrameDecoder(settings.max_frame_bytes)
        self._control: Control | None = None
        # Our Close frame is on its way, and nothing may follow it.
        self._saying_goodbye = False
        self._answer = upgrade.answer
        # What came in one read with the request head: a client need not wait for our 101.
        self._leftover = upgrade.leftover
        # Bytes kept for later on the way in, as far as the account has been told.
        self._held = 0
        self._message_timeout = settings.message_timeout
        # When the message under way has to be complete, and since when the forwarder has been
        # elsewhere: what backpressure takes is not the peer's fault, and moves the deadline.
        self._deadline = math.inf
        self._away_since = 0.0
        self._turns = shared.turns
        self._turn = shared.turns.latest
        self._frames_per_turn = LEAST_FRAMES
        rate = settings.binary_rate if self.kind == "binary" else settings.phone_rate
        self._rated = rate != Rate()
        self._pace = Pace(rate) if self._rated else None
        self._ask = _READ_BYTES if self._pace is None else self._pace.most_bytes(_READ_BYTES)
        # The last read was full, so the next need not wait to be told that there is more.
        self._more = False
        self._over = False
        # The connection is closing: there is one deadline for that, and nobody is held back.
        self._leaving = False
        # What a probe waits for.
        self._heard: trio.Event | None = None
        self._verdict: Close | None = None
        self.reading = False
        self.signs_of_life = 0
        #: When the connection was accepted, by trio's clock.
        self.since = trio.current_time()
        #: Messages and bytes that have come, those of control frames and headers among the bytes.
        self.received_count = 0
        self.received_bytes = 0
        #: Seconds from the latest ping that was answered to its pong; None before the first.
        self.round_trip: float | None = None
        self._pinged_at: float | None = None
        # When the latest read was done, if what it brought is timed.
        self._timing = shared.timing
        self._read_at: float | None = None
        self.timed = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Accept the upgrade; on leaving, close the connection as `end` said.

        The body runs in the connection's scope, so `end` cancels the body and the body alone: what
        comes after it, the closing handshake first of all, still runs. Raises `NeverOpened`.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                self._count_held(len(self._leftover))
                self.outbox.put_control(self._answer)
                self.outbox.flush()
                if self.outbox.dead:
                    raise NeverOpened
                with self.scope:
                    yield
                await self._close()
                self._nursery.cancel_scope.cancel()
        finally:
            self._stream.close()
            self.outbox.close()
            self._account.close()

    @property
    def ending(self) -> Ending:
        """How the connection ended; while it lives, what it would be if it vanished now."""
        if self._verdict is not None:
            return Ending("relay", self._verdict.code, self._verdict.reason)
        if self._decoder.close_frame is not None:
            code = self._decoder.close_code
            return Ending("peer", _NO_STATUS if code is None else code, "")
        return Ending("network", _ABNORMAL, "")

    def end(self, close: Close) -> None:
        """End the connection with ``close``: the scope around its nursery is cancelled. First call wins."""
        if self._verdict is None and self._decoder.close_frame is None:
            self._verdict = close
        self.scope.cancel()
        self._show_life()

    async def receive(self) -> list[bytes] | None:
        """The data messages of one read, in order; None once there will be no more."""
        decoder = self._decoder
        # The peer's silence counts from now on: until now its bytes may have lain in the socket.
        self.signs_of_life += 1
        self.timed = False
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
                    self._read_at = self._timing.sample()
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
            if unfinished:
                self._count_held(decoder.held)
                await self._keep_deadline()
            elif self._held:
                self._count_held(0)
            if messages:
                self.timed = self._read_at is not None
                return messages
        self._finish_reading()
        await trio.lowlevel.checkpoint()
        return None

    @contextmanager
    def holding(self, messages: list[bytes]) -> Iterator[None]:
        """Around a wait with ``messages``: so they count as buffered. If it is cancelled, they are let go."""
        size = sum(map(len, messages)) + FRAME_OVERHEAD * len(messages)
        self._account.change(size)
        try:
            yield
        except BaseException:
            # Its traceback keeps them as long as the closing handshake takes.
            messages.clear()
            raise
        finally:
            self._account.change(-size)

    def give_up(self) -> None:
        """For the budget: let go of what waits here, at once, and end the connection.

        What is left after that, if anything, goes the second time, and the connection with it.
        """
        if self._given_up:
            self._cut()
            return
        self._given_up = True
        full = self.kind == "phone" and self.outbox.charge > self._held
        self._shared.emit(BuffersFull(self.kind, self.remote, self._account.held, self._shared.budget.limit))
        self.end(BACKLOG_FULL if full else BUFFERS_FULL)
        self.outbox.discard()
        self._leftover = b""
        if self._held and not self._decoder.ended:
            self._decoder.give_up(BUFFERS_FULL)
            self._count_held(0)
        if self._account.held > _KEPT:
            self._cut()

    def handed_on(self, outboxes: Iterable[Outbox]) -> None:
        """`timed` messages are in ``outboxes``, flushed: their time ends when the kernel has taken the last."""
        assert self._timing is not None
        assert self._read_at is not None
        self._timing.handed_on(self._read_at, outboxes, self._nursery)

    def ping(self) -> None:
        """Ask for a sign of life."""
        if self._pinged_at is None:
            self._pinged_at = trio.current_time()
        self.outbox.put_control(PING)
        self.outbox.flush()

    async def answers(self, timeout: float) -> bool:
        """Ping the peer; whether it gives any sign of life within ``timeout`` seconds."""
        self.ping()
        if not self._over:
            if self._heard is None:
                self._heard = trio.Event()
            heard = self._heard
            with trio.move_on_after(timeout):
                await heard.wait()
            if not heard.is_set():
                await let_readers_read()
            if heard.is_set():
                return not self._over and self._verdict is None
        return not self._over and not self.reading

    def hung_up(self) -> bool:
        """Whether the peer's stream has come to its end, read or not."""
        return self._stream.hung_up()

    def try_send(self, frames: Sequence[bytes | memoryview]) -> int:
        """For the outbox: send what fits, without waiting."""
        return self._stream.try_send(frames)

    def start_writer(self) -> None:
        """For the outbox: it has more than fits."""
        self._nursery.start_soon(self.outbox.write)

    async def wait_writable(self) -> None:
        """For the outbox: wait until the socket takes more, or is dead."""
        await self._stream.wait_writable()
        # Room came free in our socket: the peer's side is taking bytes, so it is there.
        self._show_life()

    def unacknowledged(self) -> int:
        """For the outbox: bytes sent and not yet confirmed."""
        return self._stream.unacknowledged()

    def kept(self) -> int:
        """For the outbox: bytes sent that wait in this process, for the kernel to take."""
        return self._stream.kept()

    async def _read(self) -> bytes:
        """The next bytes; none at the end of the stream, however that came about."""
        while True:
            if self._more:
                await trio.lowlevel.checkpoint()
            else:
                await self._readable()
            data = self._stream.try_receive(self._ask)
            if data is None:
                self._more = False
                if self._deadline < math.inf:
                    await self._keep_deadline()
                continue
            self._more = len(data) == self._ask
            self._ask = _MORE_BYTES if len(data) >= _READ_BYTES else _READ_BYTES
            if self._rated and self._pace is not None:
                self._ask = self._pace.most_bytes(self._ask)
            self.received_bytes += len(data)
            self._show_life()
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
            self.end(MESSAGE_TOO_SLOW)
            await trio.sleep_forever()  # which `end` has just cancelled

    def _count_held(self, held: int) -> None:
        change = held - self._held
        if change:
            self._held = held
            self._account.change(change)

    def _cut(self) -> None:
        """Let go of everything and of the connection, without another word to the peer."""
        self._account.close()
        self.outbox.give_up()
        self._stream.discard_unsent()
        self._nursery.cancel_scope.cancel()

    def _take_others(self, size: int, messages: int) -> None:
        """After a decoding of ``size`` new bytes: control frames, and what bounds there are."""
        decoder = self._decoder
        others, idle = decoder.others, decoder.idle
        decoder.others = decoder.idle = 0
        if decoder.pings and not self._saying_goodbye:
            self._summon().answer_pings()
        if decoder.pongs:
            self._take_pong()
        if (idle or self._rated) and not self._leaving:
            if self._pace is None:
                self._pace = Pace(Rate())
            self._pace.spend(size, messages + others, idle)

    async def _pause(self, pace: Pace) -> None:
        """Leave the peer's bytes in its socket until it is within its bounds again."""
        if not self._leaving:
            begun, bound = trio.current_time(), pace.bound
            if not pace.noticed:
                pace.noticed = True
                self._shared.emit(RateLimited(self.kind, self.remote, bound))
            with self._shared.pauses.noted(self.kind, bound):
                # Whoever has hung up has no place to hold here, and what he left is bounded.
                while (now := trio.current_time()) < pace.until and not self._stream.hung_up():  # noqa: ASYNC110 (nothing tells us)
                    await trio.sleep_until(min(pace.until, now + _LOOK))
            # Unless it draws out a message with frames of nothing, which is its own doing.
            if self._deadline < math.inf and not (bound == "control" and self._decoder.fragmented):
                self._deadline += trio.current_time() - begun
            # As after any time in which it was not heard.
            self.signs_of_life += 1
        pace.until = 0.0

    def _take_pong(self) -> None:
        self._decoder.pongs = 0
        if self._pinged_at is not None:
            self.round_trip = trio.current_time() - self._pinged_at
            self._pinged_at = None
            if self._timing is not None:
                self._timing.round_trip(self.round_trip)

    def _summon(self) -> Control:
        """Whoever answers control frames: brought the first time."""
        if self._control is None:
            self._control = Control(self._decoder.pings, self.outbox)
            self._nursery.start_soon(self._control.open, self._nursery)
        return self._control

    def _finish_reading(self) -> None:
        """Reading is over: by a Close frame, a broken rule, or the end of the stream."""
        self._over = True
        self._show_life()
        self._count_held(self._decoder.held)
        if self._decoder.failure is not None:
            self.end(self._decoder.failure)
        elif self._decoder.close_frame is not None:
            # Nothing may follow, or hold up, the answer that trio-websocket is to give.
            self.outbox.discard()

    def _show_life(self) -> None:
        self.signs_of_life += 1
        if self._heard is not None:
            self._heard.set()
            self._heard = None

    async def _close(self) -> None:
        """Say goodbye as the protocol wants it, within `CLOSE_TIMEOUT`."""
        self.outbox.discard()
        self._leaving = True
        # From here on there is one deadline, and the rest of a slow message only stands before the
        # peer's Close frame.
        self._deadline = self._message_timeout = math.inf
        decoder = self._decoder
        with trio.move_on_after(CLOSE_TIMEOUT):
            if decoder.failure is not None:
                await self._fail(decoder.failure)
            elif decoder.close_code == _UNKNOWN_TO_WSPROTO:
                await self._fail(Close(_UNKNOWN_TO_WSPROTO))
            elif decoder.close_frame is not None:
                await self._summon().answer_close(decoder.close_frame)
            elif not self._over:
                # At once, and without bringing trio-websocket first: in a drain, everybody is told.
                self._send_close(self._verdict or NORMAL)
                while await self.receive() is not None:
                    pass
                # The peer's own Close may have crossed ours, and wait for what it has not read yet.
                await self.outbox.drained()

    def _send_close(self, close: Close) -> None:
        self._saying_goodbye = True
        if self._control is not None:
            self._control.mute()
        self.outbox.put_control(encode_close(close))
        self.outbox.flush()

    async def _fail(self, close: Close) -> None:
        """_Fail the WebSocket Connection_ (RFC 6455, section 7.1.7): there is no telling frames apart any more.

        So the peer's own Close frame cannot be waited for. But to close a socket that has unread
        bytes makes the kernel reset the connection, and the peer may never see our Close frame:
        so half-close, and read until the peer hangs up.
        """
        self._send_close(close)
        await self.outbox.drained()
        with suppress(trio.BrokenResourceError):
            await self._stream.send_eof()
            while await self._stream.receive_some(_READ_BYTES):
                pass
