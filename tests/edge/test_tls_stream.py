"""The bytes of a connection through TLS, between OpenSSL's buffers and the socket."""

import contextlib
import ctypes
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from attrs import frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relayd.edge.stream import PlainStream
from relayd.edge.tls import TlsStream
from relayd.ops.events import RateLimited
from tests.attacks.peers import frame, request
from tests.edge.pairs import Pair, under_tls
from tests.relay_process import WAIT, RelayProcess
from tests.trio_client import RelayUnderTest


class Stingy(PlainStream):
    """A socket that takes as many bytes as it is told to, and is full until it is told again."""

    __slots__ = ("allowance",)
    allowance: int

    def try_send(self, frames: Sequence[bytes | memoryview]) -> int:
        data = b"".join(frames)[: self.allowance]
        self.allowance -= len(data)
        self.socket.sendall(data)
        return len(data)


class Queue:
    """Frames on their way, as an outbox has them: it gives up any but one that it has begun to send."""

    def __init__(self, stream: TlsStream) -> None:
        self._stream = stream
        self._frames: list[bytes] = []
        self._begun = 0
        #: All that the peer is to get: what was begun, in order.
        self.due: list[bytes] = []

    def put(self, frame: bytes) -> None:
        self._frames.append(frame)

    def send(self) -> None:
        while self._frames:
            rest: list[bytes | memoryview] = [memoryview(self._frames[0])[self._begun :], *self._frames[1:]]
            sent = self._stream.try_send(rest)
            if not sent:
                return
            if not self._begun:
                self.due.append(self._frames[0])
            self._begun += sent
            while self._frames and self._begun >= len(self._frames[0]):
                self._begun -= len(self._frames.pop(0))
                if self._begun:
                    self.due.append(self._frames[0])

    def discard(self) -> None:
        del self._frames[1 if self._begun else 0 :]


@frozen
class Ends:
    """A TLS stream of ours above a socket, and OpenSSL as its client, with what comes to it and goes out."""

    stream: TlsStream
    client: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


def tls_over(below: PlainStream, pair: Pair) -> Ends:
    server = pair.server()
    received, sent, incoming, outgoing = (ssl.MemoryBIO() for _ in range(4))
    tls = server.wrap_bio(received, sent, server_side=True)
    client = pair.client().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    for _ in range(3):
        for side in (client, tls):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            received.write(outgoing.read())
            incoming.write(sent.read())
    return Ends(TlsStream(below, tls, received, sent, lambda: None), client, incoming, outgoing)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(2, 300) | st.sampled_from([16_384, 70_000, 200_000])),
        st.tuples(st.just("allow"), st.integers(0, 400) | st.sampled_from([16_406, 30_000, 500_000])),
        st.tuples(st.just("discard"), st.just(0)),
    ),
    max_size=30,
)


@given(steps=STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
def test_whatever_the_socket_takes_the_peer_gets_whole_frames_in_order(
    pair: Pair, steps: list[tuple[str, int]]
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.setblocking(False)
        below = Stingy(ours)
        below.allowance = 0
        ends = tls_over(below, pair)
        queue, plain, number = Queue(ends.stream), bytearray(), 0

        def take_what_came() -> None:
            with contextlib.suppress(BlockingIOError):
                while data := theirs.recv(1 << 20):
                    ends.incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError):
                while True:
                    plain.extend(ends.client.read(1 << 20))

        for step, size in [*steps, ("allow", 1 << 30)]:
            if step == "put":
                number += 1
                queue.put(number.to_bytes(2, "big") * (size // 2))
            elif step == "allow":
                below.allowance = size
            else:
                queue.discard()
            queue.send()
            take_what_came()
        assert bytes(plain) == b"".join(queue.due)


@given(
    sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=6), cut=st.integers(1, 50_000), ask=st.data()
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
def test_all_that_was_sent_is_received_however_it_comes_and_the_end_after_it(
    pair: Pair, sizes: list[int], cut: int, ask: st.DataObject
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ends = tls_over(PlainStream(ours), pair)
        for number, size in enumerate(sizes):
            ends.client.write(bytes([number]) * size)
        with contextlib.suppress(ssl.SSLError):
            ends.client.unwrap()
        encrypted = ends.outgoing.read()
        received = b""
        for start in range(0, len(encrypted), cut):
            theirs.sendall(encrypted[start : start + cut])
            size = ask.draw(st.integers(1, 70_000))
            while data := ends.stream.try_receive(size):
                received += data
                if len(data) < size:
                    break
        while data := ends.stream.try_receive(65_536):
            received += data
        # No more is awaited from the socket, which is still open.
        assert data == b""
        assert received == b"".join(bytes([number]) * size for number, size in enumerate(sizes))


@pytest.mark.parametrize(("record", "first"), [(16_384, 98_304), (1000, 64_000), (1, 64)])
def test_a_turn_brings_all_that_is_there_unless_that_is_in_too_many_records(
    pair: Pair, record: int, first: int
) -> None:
    count = 98_304 // record if record > 1 else 3000
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ends = tls_over(PlainStream(ours), pair)
        for _ in range(count):
            ends.client.write(bytes(record))
        theirs.sendall(ends.outgoing.read())
        turns = []
        while data := ends.stream.try_receive(98_304):
            turns.append(len(data))
        assert turns[0] == first
        assert max(turns) == first
        assert sum(turns) == record * count


async def test_what_a_turn_has_left_is_not_waited_for(pair: Pair) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ends = tls_over(PlainStream(ours), pair)
        for number in range(100):
            ends.client.write(bytes([number]))
        theirs.sendall(ends.outgoing.read())
        received = b""
        with trio.fail_after(WAIT):
            while len(received) < 100:
                received += await ends.stream.receive_some(4096)
        assert received == bytes(range(100))


def test_peer_that_asks_for_new_keys_gets_them_and_its_answer(
    start_relay: Callable[..., RelayProcess], pair: Pair
) -> None:
    relay = start_relay(*pair.flags)
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{relay.port}", "-tls1_3", "-crlf", "-msg"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        seen = b""
        # A line that begins with K is no text to it, but a command; it has to come alone.
        for text, awaited in (
            (b"K\n", b">>> TLS 1.3, Handshake [length 0005], KeyUpdate"),
            (b"GET /healthz HTTP/1.1\nHost: relay\n\n", b"HTTP/1.1 200 OK"),
        ):
            client.stdin.write(text)
            client.stdin.flush()
            while awaited not in seen:
                data = os.read(client.stdout.fileno(), 65_536)
                assert data, seen
                seen += data
        assert b"<<< TLS 1.3, Handshake [length 0005], KeyUpdate" in seen


class Mallinfo(ctypes.Structure):
    """mallinfo2(3), of which 4 is what is mapped, and 7 what is in use of the heap."""

    _fields_ = (("values", ctypes.c_size_t * 10),)


def allocated() -> int:
    """Bytes that this process has from malloc, OpenSSL's among them."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    values = mallinfo().values
    return int(values[4] + values[7])


def test_stream_that_has_carried_much_at_once_holds_little_more_than_an_idle_one(pair: Pair) -> None:
    count, size = 20, 200_000
    with contextlib.ExitStack() as stack:
        all_ends = []
        for _ in range(count):
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            ends = tls_over(PlainStream(ours), pair)
            ends.client.write(bytes(size))
            all_ends.append((ends, theirs, ends.outgoing.read()))
        before = allocated()
        for ends, theirs, encrypted in all_ends:
            left = size
            for start in range(0, len(encrypted), 65_536):
                theirs.sendall(encrypted[start : start + 65_536])
                while data := ends.stream.try_receive(65_536):
                    left -= len(data)
            assert not left
            left = size
            while left:
                left -= ends.stream.try_send([bytes(left)])
                theirs.recv(1 << 20)
        assert allocated() - before <= count * 32 * 1024


@asynccontextmanager
async def in_one_go(relay: RelayUnderTest, pair: Pair) -> AsyncIterator[ssl.SSLObject]:
    """A client that has shaken hands; what it writes in the body goes out at once, behind it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = pair.client().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    raw = (await relay.connect()).stream
    shaken = False
    while not shaken:
        try:
            client.do_handshake()
            shaken = True
        except ssl.SSLWantReadError:
            await raw.send_all(outgoing.read())
            incoming.write(await raw.receive_some(65_536))
    yield client
    await raw.send_all(outgoing.read())


async def test_what_is_left_of_a_read_behind_the_end_does_not_wait_for_the_goodbye(pair: Pair) -> None:
    async with under_tls(pair) as relay:
        async with in_one_go(relay, pair) as client:
            client.write(request("/v1/server", "broken"))
            # Not masked: the connection fails here.
            client.write(b"\x81\x00")
            for _ in range(2_000):
                client.write(b"x")
        await relay.until(lambda: any(connection.inbox.over for connection in relay.relay.connections))
        (connection,) = relay.relay.connections
        assert connection._stream.unread() == 0
        assert relay.relay.budget.used == 0


async def test_what_is_left_of_a_read_while_a_peer_is_held_back_counts_as_buffered_and_can_be_given_up(
    pair: Pair,
) -> None:
    async with under_tls(pair) as relay:
        async with in_one_go(relay, pair) as client:
            client.write(request("/v1/server", "pings"))
            # Each in a record of its own: beyond 100 at once, it is not read from.
            for _ in range(300):
                client.write(frame(b"", 0x89))
        await relay.until(lambda: relay.seen(RateLimited))
        await trio.testing.wait_all_tasks_blocked()
        assert 2_000 < relay.relay.budget.used < 10_000
        relay.relay.budget.limit = 0
        relay.relay.budget.relieve()
        assert relay.relay.budget.used == 0
