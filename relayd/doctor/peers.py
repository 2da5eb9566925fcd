"""A binary and its phone at the relay, played by trio-websocket."""

import json
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final, cast

import msgspec
import trio
from attrs import define, frozen
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream
from wsproto.utilities import LocalProtocolError, ProtocolError

from relayd.doctor.findings import BUFFERS, Failed, Patience, TooOften, first, within
from relayd.doctor.http import BINARY, PHONE, new_server_id, refused
from relayd.doctor.reach import Stream, opened
from relayd.doctor.target import Plan

__all__ = [
    "NO_SERVER",
    "Closing",
    "Envelope",
    "Pair",
    "Peer",
    "addressed",
    "binary",
    "greeting",
    "pair",
    "phone",
]

GOODBYE: Final = 2.0
"""Seconds for a closing handshake, at most."""

LAST_WORD: Final = 0.25
"""Seconds for a Close frame to go out when all is cancelled. No reader is left then to see the answer."""

QUEUE: Final = 1024
"""Messages that may wait for a check: trio-websocket answers no ping while its queue is full."""

NO_SERVER: Final = 4404

CLAIM_TRIES: Final = 20
CLAIM_PAUSE: Final = 0.1
"""A binary is told 101 before its claim: a phone that comes at once may be told that there is no server."""


class Envelope(msgspec.Struct):
    """What a binary gets. ``frame`` is as it came; empty if there is none."""

    conn_id: str
    frame: msgspec.Raw = msgspec.Raw()
    close_code: int | None = None


@frozen
class Closing:
    """How a connection ended: the Close frame's code and reason, or 1006 without one."""

    code: int
    reason: str

    def __str__(self) -> str:
        if self.code == 1006:
            return "cut off without a Close frame"
        return f'closed with {self.code} "{self.reason}"' if self.reason else f"closed with {self.code}"


@define(eq=False)
class _Watched(trio.abc.Stream):
    """A stream that counts the reads that begin with a ping; on a silent connection, those are the pings."""

    _stream: Stream
    pings: int = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self.pings += data[:1] == b"\x89"
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


@frozen
class _Readers:
    """As much of a nursery as trio-websocket wants: it starts the reader of one connection."""

    _nursery: trio.Nursery

    def start_soon(self, reader: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(self._read, reader)

    async def _read(self, reader: Callable[[], Awaitable[None]]) -> None:
        # trio-websocket tries to answer a ping that comes after our Close frame. Nothing is wrong with
        # the relay then, and there is nothing more to read.
        with suppress(LocalProtocolError):
            await reader()


@frozen
class Peer:
    """One end of a WebSocket connection; ``role`` is what errors call it. Pings are answered all the time."""

    role: str
    _plan: Plan
    _connection: WebSocketConnection
    _watched: _Watched

    @property
    def pings(self) -> int:
        """How many pings of the relay have come while nothing else did."""
        return self._watched.pings

    async def send(self, text: str) -> None:
        """Send one message. Raises Failed."""
        stuck = f"the {self.role}'s connection takes no more bytes"
        try:
            with within(self._plan.timeout, stuck, "does what is in between pass on what it gets?"):
                await self._connection.send_message(text)
        except ConnectionClosed as closed:
            raise self._ended(_closing(closed)) from None

    async def say(self, text: str) -> None:
        """Send one message, and leave it to a reader to notice if the connection has ended."""
        with suppress(ConnectionClosed):
            await self._connection.send_message(text)

    async def receive(self, what: str, *, advice: str = BUFFERS, patience: float | None = None) -> str:
        """The next message. Raises Failed, with ``advice``, and says then that ``what`` has not come.

        It may take ``patience`` seconds, or the plan's timeout.
        """
        try:
            with within(patience or self._plan.timeout, f"{what} has not come", advice):
                message = await self._connection.get_message()
        except ConnectionClosed as closed:
            raise self._ended(_closing(closed)) from None
        if not isinstance(message, str):
            raise Failed(
                f"the {self.role} got a binary frame", "a relay must send text frames: phones drop others"
            )
        return message

    async def envelope(self, what: str, *, advice: str = BUFFERS, patience: float | None = None) -> Envelope:
        """The next message, which must be an envelope. Raises Failed, as `receive` does."""
        text = await self.receive(what, advice=advice, patience=patience)
        try:
            return msgspec.json.decode(text, type=Envelope)
        except (msgspec.DecodeError, UnicodeEncodeError):
            raise Failed(
                "the binary got something that is no envelope",
                "is it a relay of this protocol that answers there?",
            ) from None

    async def closing(self, seconds: float, what: str) -> Closing:
        """Read on to the end of the connection. Raises Failed after ``seconds``: ``what`` has not come."""
        with within(seconds, f"{what} has not come", "is it a relay of this protocol that answers there?"):
            try:
                while True:
                    await self._connection.get_message()
            except ConnectionClosed as closed:
                return _closing(closed)

    async def close(self) -> None:
        """Close from this side with 1000, also when cancelled: the relay should not have to guess."""
        cancelled = trio.current_effective_deadline() == -math.inf
        with trio.move_on_after(LAST_WORD if cancelled else min(GOODBYE, self._plan.timeout), shield=True):
            await self._connection.aclose(1000)

    def _ended(self, closing: Closing) -> Failed:
        return Failed(
            f"the {self.role} was {closing}",
            "relayd logs why it closes a connection; if it did not, something in between has cut it",
        )


@frozen
class Pair:
    """A phone that has joined a binary. ``server_id`` is theirs alone."""

    server_id: str
    conn_id: str
    binary: Peer
    phone: Peer

    async def down(self, frame: str) -> None:
        """Send ``frame``, which is JSON, from the binary to the phone. Raises Failed."""
        await self.binary.send(addressed(self.conn_id, frame))


def addressed(conn_id: str, frame: str) -> str:
    """A binary's envelope around ``frame``, which is JSON."""
    return f'{{"conn_id":{json.dumps(conn_id)},"frame":{frame}}}'


def greeting() -> str:
    """A frame that no other phone sends."""
    return json.dumps(secrets.token_hex(8))


@asynccontextmanager
async def binary(plan: Plan, server_id: str) -> AsyncIterator[Peer]:
    """A binary's connection, for the body; its claim may still be refused. Raises Failed, in groups."""
    async with _peer(plan, "binary", "/v1/server", {"x-pyrycode-server": server_id, **BINARY}) as peer:
        yield peer


@asynccontextmanager
async def phone(plan: Plan, server_id: str) -> AsyncIterator[Peer]:
    """A phone's connection, for the body; it may still be refused. Raises Failed, in groups."""
    async with _peer(plan, "phone", "/v1/client", {"x-pyrycode-server": server_id, **PHONE}) as peer:
        yield peer


@asynccontextmanager
async def pair(plan: Plan) -> AsyncIterator[Pair]:
    """A binary with a server-id of its own and its phone, for the body. Raises Failed, in groups."""
    server_id = new_server_id()
    async with binary(plan, server_id) as held:
        for _ in range(CLAIM_TRIES):
            async with phone(plan, server_id) as joined:
                answer = await _greeted(held, joined)
                if isinstance(answer, str):
                    yield Pair(server_id, answer, held, joined)
                    return
            if answer.code != NO_SERVER:
                break
            await trio.sleep(CLAIM_PAUSE)
        raise Failed(
            f"the binary has its connection, but its phone was {answer}",
            "do both reach the same relay? With several behind one address, no phone finds its binary reliably",
        )


async def _greeted(held: Peer, joined: Peer) -> str | Closing:
    """The conn_id under which the phone's first frame reached the binary, or how the phone was closed."""
    answers: list[str | Closing] = []
    async with trio.open_nursery() as nursery:

        async def arrival() -> None:
            hello = greeting()
            await joined.say(hello)
            envelope = await held.envelope("the phone's first frame at the binary")
            if bytes(envelope.frame).decode() != hello:
                raise Failed("the binary got another frame than its phone sent", BUFFERS)
            answers.append(envelope.conn_id)
            nursery.cancel_scope.cancel()

        async def refusal() -> None:
            answers.append(await joined.closing(math.inf, ""))
            nursery.cancel_scope.cancel()

        nursery.start_soon(arrival)
        nursery.start_soon(refusal)
    return answers[0]


@asynccontextmanager
async def _peer(plan: Plan, role: str, path: str, headers: Mapping[str, str]) -> AsyncIterator[Peer]:
    """Dials again and again if the relay says that it is too often."""
    patience = Patience(plan.timeout)
    async with AsyncExitStack() as stack:
        peer: Peer | None = None
        while peer is None:
            try:
                peer = await stack.enter_async_context(_peer_at_once(plan, role, path, headers))
            except* TooOften as refusals:
                await patience.wait(first(refusals))
        yield peer


@asynccontextmanager
async def _peer_at_once(plan: Plan, role: str, path: str, headers: Mapping[str, str]) -> AsyncIterator[Peer]:
    path = plan.target.prefix + path
    try:
        async with opened(plan) as stream, trio.open_nursery() as nursery:
            watched = _Watched(stream)
            with within(
                plan.timeout, f"{path}: no answer to the upgrade", "it was answered a moment ago: try again"
            ):
                connection = await wrap_client_stream(
                    cast("trio.Nursery", _Readers(nursery)),
                    cast("trio.SocketStream", watched),
                    plan.target.authority,
                    path,
                    extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                    message_queue_size=QUEUE,
                )
            peer = Peer(role, plan, connection, watched)
            try:
                yield peer
            finally:
                await peer.close()
                # A reader that still waits for the relay's Close frame would wait for ever.
                nursery.cancel_scope.cancel()
    except* ConnectionRejected as rejections:
        rejected = rejections.exceptions[0]
        assert isinstance(rejected, ConnectionRejected)
        said = {name: value.decode("latin-1") for name, value in rejected.headers}
        raise refused(rejected.status_code, said.get(b"server"), said.get(b"retry-after"), path) from None
    except* ProtocolError:
        raise Failed(
            f"the {role} got something that is not WebSocket (RFC 6455)",
            "what is in between changes bytes: dial the relay itself, and compare",
        ) from None


def _closing(closed: ConnectionClosed) -> Closing:
    if closed.reason is None:
        return Closing(1006, "")
    return Closing(closed.reason.code, closed.reason.reason or "")
