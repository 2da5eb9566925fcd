"""A WebSocket connection: its life from the upgrade to the last goodbye, and how its parts fit together.

    socket -> Inbox   -> data messages  -> the forwarder, through `WebSocket.receive`
                      -> pings, Close   -> trio-websocket, through `Control`
    socket <- Outbox  <- data messages  <- whoever sends to this peer
                      <- pongs, answers to a Close   <- trio-websocket, through `Control`
                      <- pings, a Close of our own   <- this file

The forwarder is the only reader of the socket: it takes what is data out of the inbox, and what is
control is left to `relayd.edge.control`, where trio-websocket finds it as if it had read it
itself. So a data frame costs neither a task switch nor an object of trio-websocket's.
"""

from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Literal

import trio

from relayd.edge.control import Control
from relayd.edge.http import Upgrade
from relayd.edge.inbox import READ_BYTES, Inbox
from relayd.edge.shared import Shared
from relayd.edge.stream import Stream
from relayd.ops.events import BuffersFull
from relayd.routing.budget import Account
from relayd.routing.connection import Ending
from relayd.routing.heartbeat import let_readers_read
from relayd.routing.outbox import FRAME_OVERHEAD, Outbox
from relayd.settings import Settings
from relayd.wire.close import BACKLOG_FULL, BUFFERS_FULL, NORMAL, Close
from relayd.wire.frames import PING, encode_close
from relayd.wire.upgrade import BinaryHello

__all__ = ["Kind", "NeverOpened", "WebSocket"]

Kind = Literal["binary", "phone"]
"""What a connection was opened as."""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a peer has to take our Close frame and answer it, whatever it is doing."""

_NO_STATUS: Final = 1005
_ABNORMAL: Final = 1006

_UNKNOWN_TO_WSPROTO: Final = 1014
"""Bad gateway: registered with IANA and allowed to travel, but wsproto takes it for a protocol error."""

_KEPT: Final = 16 * 1024
"""Of a frame that has begun to go out, bytes that are kept although memory is wanted, so that a Close frame
may follow."""


class NeverOpened(Exception):
    """The peer was gone before its upgrade was answered."""


class WebSocket:
    """An accepted connection; routing knows it as `relayd.routing.connection.Connection`.

    It lives while it is `opened`.
    """

    __slots__ = (
        "_account",
        "_answer",
        "_control",
        "_given_up",
        "_heard",
        "_nursery",
        "_pinged_at",
        "_probes",
        "_saying_goodbye",
        "_shared",
        "_stream",
        "_unanswered",
        "_verdict",
        "inbox",
        "kind",
        "outbox",
        "remote",
        "round_trip",
        "scope",
        "signs_of_life",
        "since",
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
        self.inbox = Inbox(self, stream, upgrade.leftover, self._account, settings, shared)
        self._control: Control | None = None
        # Our Close frame is on its way, and nothing may follow it.
        self._saying_goodbye = False
        self._answer = upgrade.answer
        # What probes wait for, and how many of them there are.
        self._heard: trio.Event | None = None
        self._probes = 0
        self._verdict: Close | None = None
        self.signs_of_life = 0
        #: When the connection was accepted, by trio's clock.
        self.since = trio.current_time()
        #: Seconds from the latest ping that was answered to its pong; None before the first.
        self.round_trip: float | None = None
        self._pinged_at: float | None = None
        # Pings of ours whose pong has not come.
        self._unanswered = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Accept the upgrade; on leaving, close the connection as `end` said.

        The body runs in the connection's scope, so `end` cancels the body and the body alone: what
        comes after it, the closing handshake first of all, still runs. Raises `NeverOpened`.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                self.inbox.open()
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
            self.inbox.close()
            self.outbox.close()
            self._account.close()

    @property
    def ending(self) -> Ending:
        """How the connection ended; while it lives, what it would be if it vanished now."""
        if self._verdict is not None:
            return Ending("relay", self._verdict.code, self._verdict.reason)
        if self.inbox.decoder.close_frame is not None:
            code = self.inbox.decoder.close_code
            return Ending("peer", _NO_STATUS if code is None else code, "")
        return Ending("network", _ABNORMAL, "")

    def end(self, close: Close) -> None:
        """End the connection with ``close``: the scope around its nursery is cancelled. First call wins."""
        if self._verdict is None and self.inbox.decoder.close_frame is None:
            self._verdict = close
        self.scope.cancel()
        self.show_life()

    @property
    def reading(self) -> bool:
        """Whether the forwarder is waiting for the peer's bytes."""
        return self.inbox.reading

    @property
    def timed(self) -> bool:
        """Whether the messages that `receive` returned last are a sample."""
        return self.inbox.read_at is not None

    def receive(self) -> Coroutine[Any, Any, list[bytes] | None]:
        """The data messages of one read, in order; None once there will be no more."""
        # The peer's silence counts from now on: until now its bytes may have lain in the socket.
        self.signs_of_life += 1
        return self.inbox.receive()

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
        full = self.kind == "phone" and self.outbox.charge > self.inbox.held
        self._shared.emit(BuffersFull(self.kind, self.remote, self._account.held, self._shared.budget.limit))
        self.end(BACKLOG_FULL if full else BUFFERS_FULL)
        self.outbox.discard()
        self.inbox.discard(BUFFERS_FULL)
        if self._account.held > _KEPT:
            self._cut()

    def handed_on(self, outboxes: Iterable[Outbox]) -> None:
        """`timed` messages are in ``outboxes``, flushed: their time ends when the kernel has taken the last."""
        assert self._shared.timing is not None
        assert self.inbox.read_at is not None
        self._shared.timing.handed_on(self.inbox.read_at, outboxes, self._nursery)

    def ping(self) -> None:
        """Ask for a sign of life."""
        if self._pinged_at is None:
            self._pinged_at = trio.current_time()
        self._unanswered += 1
        self.outbox.put_control(PING)
        self.outbox.flush()

    async def answers(self, timeout: float) -> bool:
        """Ping the peer; whether it gives any sign of life within ``timeout`` seconds.

        Whoever asks while another waits shares its ping: nothing has been heard since, so the pong is to come.
        """
        if not self.inbox.over:
            heard = self._heard
            if heard is None:
                heard = self._heard = trio.Event()
                self.ping()
            self._probes += 1
            try:
                with trio.move_on_after(timeout):
                    await heard.wait()
                if not heard.is_set():
                    await let_readers_read()
            finally:
                self._probes -= 1
                if not self._probes:
                    self._heard = None
            if heard.is_set():
                return not self.inbox.over and self._verdict is None
        return not self.inbox.over and not self.reading

    def hung_up(self) -> bool:
        """Whether the peer's stream has come to its end, read or not."""
        return self._stream.hung_up()

    def take_control(self) -> int:
        """For the inbox: there are pings or pongs. How many pongs we have asked for."""
        decoder = self.inbox.decoder
        if decoder.pings and not self._saying_goodbye:
            self._summon().answer_pings()
        asked_for = min(decoder.pongs, self._unanswered)
        if decoder.pongs:
            decoder.pongs = 0
            self._unanswered -= asked_for
            self._take_pong()
        return asked_for

    def reading_ended(self) -> None:
        """For the inbox: it is over, by a Close frame, a broken rule, or the end of the stream."""
        self.show_life()
        decoder = self.inbox.decoder
        if decoder.failure is not None:
            self.end(decoder.failure)
        elif decoder.close_frame is not None:
            # Nothing may follow, or hold up, the answer that trio-websocket is to give.
            self.outbox.discard()

    def show_life(self) -> None:
        """The peer has been heard, or has taken bytes that waited for it."""
        self.signs_of_life += 1
        if self._heard is not None:
            self._heard.set()
            self._heard = None

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
        self.show_life()

    def unacknowledged(self) -> int:
        """For the outbox: bytes sent and not yet confirmed."""
        return self._stream.unacknowledged()

    def kept(self) -> int:
        """For the outbox: bytes sent that wait in this process, for the kernel to take."""
        return self._stream.kept()

    def _cut(self) -> None:
        """Let go of everything and of the connection, without another word to the peer."""
        self._account.close()
        self.outbox.give_up()
        self._stream.discard_unsent()
        self._nursery.cancel_scope.cancel()

    def _take_pong(self) -> None:
        if self._pinged_at is not None:
            self.round_trip = trio.current_time() - self._pinged_at
            self._pinged_at = None
            if self._shared.timing is not None:
                self._shared.timing.round_trip(self.round_trip)

    def _summon(self) -> Control:
        """Whoever answers control frames: brought the first time."""
        if self._control is None:
            self._control = Control(self.inbox.decoder.pings, self.outbox)
            self._nursery.start_soon(self._control.open, self._nursery)
        return self._control

    async def _close(self) -> None:
        """Say goodbye as the protocol wants it, within `CLOSE_TIMEOUT`."""
        self.outbox.discard()
        self.inbox.stop_limiting()
        decoder = self.inbox.decoder
        with trio.move_on_after(CLOSE_TIMEOUT):
            if decoder.failure is not None:
                await self._fail(decoder.failure)
            elif decoder.close_code == _UNKNOWN_TO_WSPROTO:
                await self._fail(Close(_UNKNOWN_TO_WSPROTO))
            elif decoder.close_frame is not None:
                await self._summon().answer_close(decoder.close_frame)
            elif not self.inbox.over:
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
            while await self._stream.receive_some(READ_BYTES):
                pass
