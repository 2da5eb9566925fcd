"""A WebSocket client for tests that run relay and peers in one trio loop, under a clock of theirs.

Its protocol is wsproto's, which shares no code with relayd's data path; what no correct client
would send goes out as raw bytes. It does nothing on its own: no pong and no Close answer is sent
unless the test says so.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
import wsproto
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    Request,
    TextMessage,
)

from relayd.daemon import Relay
from relayd.ops.events import Event as RelayEvent
from relayd.settings import Settings
from relayd.values import Address

BINARY_HEADERS: Mapping[str, str] = {"x-pyrycode-version": "1.2.3", "user-agent": "test-binary"}
PHONE_HEADERS: Mapping[str, str] = {"x-pyrycode-token": "secret", "user-agent": "test-phone"}


class Client:
    """One end of a WebSocket connection to a relay, driven step by step."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._events: list[Event] = []

    async def handshake(self, path: str, headers: Mapping[str, str]) -> None:
        """Upgrade. Raises AssertionError if the relay rejects it."""
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send(Request(host="relay", target=path, extra_headers=extra))
        event = await self.next_event()
        assert isinstance(event, AcceptConnection), event

    async def send(self, event: Event) -> None:
        """Send a wsproto event."""
        await self.stream.send_all(self._protocol.send(event))

    async def send_text(self, text: str) -> None:
        """Send one text message."""
        await self.send(TextMessage(data=text))

    async def next_event(self) -> Event:
        """The next event, of any kind; a CloseConnection of code 1006 at the end of the stream."""
        while not self._events:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                return CloseConnection(code=1006)
            self._protocol.receive_data(data)
            self._events.extend(self._protocol.events())
        return self._events.pop(0)

    async def next_message(self) -> str:
        """The next text message. Answers pings on the way; anything else is an AssertionError."""
        parts: list[str] = []
        while True:
            event = await self.next_event()
            if isinstance(event, Ping):
                await self.send(event.response())
            elif isinstance(event, TextMessage):
                parts.append(event.data)
                if event.message_finished:
                    return "".join(parts)
            else:
                raise AssertionError(event)

    async def closed(self) -> tuple[int, str]:
        """Read on to the relay's Close frame, answer it and hang up; its code and reason."""
        while True:
            event = await self.next_event()
            if isinstance(event, CloseConnection):
                if event.code != 1006:
                    await self.send(event.response())
                await self.stream.aclose()
                return int(event.code), event.reason or ""

    async def close(self, code: int = 1000) -> None:
        """Close from this side: send a Close frame, read to the relay's answer, hang up."""
        await self.send(CloseConnection(code=code))
        while not isinstance(await self.next_event(), CloseConnection):
            pass
        await self.stream.aclose()

    async def answer_pings(self) -> None:
        """Read for ever, answering pings and dropping everything else; until the stream ends."""
        while True:
            event = await self.next_event()
            if isinstance(event, Ping):
                await self.send(event.response())
            elif isinstance(event, CloseConnection):
                return


class RelayUnderTest:
    """A relay in the test's own trio loop, with every event that it reported."""

    def __init__(self, **settings: Any) -> None:
        self.events: list[RelayEvent] = []
        listen = (Address("127.0.0.1", 0),)
        self.settings = Settings(**{"listen": listen, "admin_socket": "off", **settings})
        self.relay = Relay(self.settings, self.events.append)
        self.port = 0
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        """A TCP connection, nothing sent yet; closed at the latest when the relay is."""
        client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def binary(self, server_id: str = "server", **headers: str) -> Client:
        """An accepted binary; its claim may still be under way."""
        client = await self.connect()
        await client.handshake("/v1/server", {**BINARY_HEADERS, "x-pyrycode-server": server_id, **headers})
        return client

    async def phone(self, server_id: str = "server", **headers: str) -> Client:
        """An accepted phone; its registration may still be refused."""
        client = await self.connect()
        await client.handshake("/v1/client", {**PHONE_HEADERS, "x-pyrycode-server": server_id, **headers})
        return client

    def seen(self, event_type: type[RelayEvent]) -> list[Any]:
        """The events of one type so far."""
        return [event for event in self.events if isinstance(event, event_type)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the relay run until ``condition()`` is true, without moving an autojump clock."""
        for _ in range(10_000):
            if condition():
                return
            await trio.lowlevel.checkpoint()
        raise AssertionError("the condition never came true")


@asynccontextmanager
async def relay_under_test(**settings: Any) -> AsyncIterator[RelayUnderTest]:
    """Run a relay with ``settings`` beside the body; cut it off at the end of the body."""
    under_test = RelayUnderTest(**settings)
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(under_test.relay.serve)
        under_test.port = int(addresses[0].rpartition(":")[2].partition("+")[0])
        try:
            yield under_test
        finally:
            for client in under_test.clients:
                client.stream.socket.close()
        nursery.cancel_scope.cancel()
