"""TLS: what is spoken, what is refused, how certificates change, and what becomes of bytes in between."""

import contextlib
import ctypes
import os
import select
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing
from attrs import frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from websockets.sync.client import connect

from relayd.cli import main
from relayd.edge.stream import PlainStream
from relayd.edge.tls import TlsStream, accept_tls
from relayd.edge.turns import NEWCOMERS_AT_ONCE, Gate
from relayd.ops.events import CertificateLoaded, CertificateRefused, RateLimited, TlsRefused
from relayd.wire.client_hello import ClientHello
from tests.attacks.peers import frame, request
from tests.attacks.tls import client_hello
from tests.edge.pairs import Pair, under_tls
from tests.relay_process import WAIT, RelayProcess
from tests.trio_client import BINARY_HEADERS, RelayUnderTest


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What relayd says with these arguments instead of starting, in one line."""
    monkeypatch.setenv("RELAYD_CONFIG", "/dev/null")

    def refuse(*arguments: str) -> str:
        assert main(arguments) == 2
        said = capfd.readouterr().err
        assert said.startswith("relayd: ")
        assert said.count("\n") == 1
        return said

    return refuse


def shake(port: int, context: ssl.SSLContext, name: str = "127.0.0.1") -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), WAIT)
    try:
        return context.wrap_socket(raw, server_hostname=name, suppress_ragged_eofs=False)
    except BaseException:
        raw.close()
        raise


def self_signed(pair: Pair, *more: str) -> None:
    """Have OpenSSL make a certificate and its key, into the same files."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=relay", "-keyout", str(pair.key), "-out", str(pair.chain), *more),
        ],
        check=True,
        capture_output=True,
    )


def names_served(port: int, pair: Pair) -> list[str]:
    with shake(port, pair.client()) as connection:
        found = connection.getpeercert()
        assert found is not None
        return [str(value) for _, value in cast("tuple[tuple[str, str], ...]", found["subjectAltName"])]


def test_curl_gets_an_answer_by_http_1_1_and_the_log_says_until_when_the_certificate_is(
    start_relay: Callable[..., RelayProcess], pair: Pair
) -> None:
    relay = start_relay(*pair.flags)
    loaded = relay.event("certificate_loaded", file=str(pair.chain))
    assert loaded["names"] == "127.0.0.1, relay.example.org"
    assert loaded["expires"].endswith("Z")
    assert relay.address.endswith("+tls")
    ca = pair.chain.with_name("ca.pem")
    pair.ca.cert_pem.write_to_path(ca)
    done = subprocess.run(
        ["curl", "-sSv", "--cacert", ca, f"https://127.0.0.1:{relay.port}/healthz"],
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert done.returncode == 0, done.stderr
    assert '"status":"ok"' in done.stdout
    assert (
        "ALPN: server accepted http/1.1" in done.stderr
        or "ALPN, server accepted to use http/1.1" in done.stderr
    )


def test_tls_1_2_and_1_3_are_spoken_by_the_suite_that_the_client_prefers_and_nothing_older(
    start_relay: Callable[..., RelayProcess], pair: Pair
) -> None:
    relay = start_relay(*pair.flags)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = pair.client()
        context.minimum_version = context.maximum_version = version
        with shake(relay.port, context) as connection:
            cipher = connection.cipher()
            assert cipher is not None
            assert version is ssl.TLSVersion.TLSv1_3 or cipher[0].startswith("ECDHE-")
            assert connection.compression() is None
    context = pair.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    suites = ["ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256"]
    for wanted in (suites, suites[::-1]):
        context.set_ciphers(":".join(wanted))
        with shake(relay.port, context) as connection:
            cipher = connection.cipher()
            assert cipher is not None
            assert cipher[0] == wanted[0]
    # OpenSSL's own client would not speak it either, unless told that it may.
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{relay.port}", "-tls1_1", "-cipher", "ALL@SECLEVEL=0"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=WAIT,
    )
    assert done.returncode != 0
    assert "alert protocol version" in done.stderr
    relay.event("tls_refused", reason="UNSUPPORTED_PROTOCOL")


def test_http_on_a_tls_port_is_hung_up_on(start_relay: Callable[..., RelayProcess], pair: Pair) -> None:
    relay = start_relay(*pair.flags)
    with socket.create_connection(("127.0.0.1", relay.port), WAIT) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
        assert not client.recv(4096).startswith(b"HTTP")
    relay.event("tls_refused", reason="HTTP_REQUEST")


def test_listener_marked_plain_speaks_no_tls_beside_one_that_does(
    start_relay: Callable[..., RelayProcess], pair: Pair, tmp_path: Path
) -> None:
    path = tmp_path / "relay.sock"
    relay = start_relay(*pair.flags, "--listen", "127.0.0.1:0", "--listen", f"unix:{path}+plain")
    relay.event("listening", address=f"unix:{path}+plain")
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", path, "http://relay/healthz"], capture_output=True, timeout=WAIT
    )
    assert done.returncode == 0
    assert names_served(relay.port, pair) == ["127.0.0.1", "relay.example.org"]


def test_connection_ends_with_a_close_notify(start_relay: Callable[..., RelayProcess], pair: Pair) -> None:
    relay = start_relay(*pair.flags)
    with shake(relay.port, pair.client()) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
        answer = b""
        # A ragged end would raise.
        while data := connection.recv(4096):
            answer += data
    assert answer.endswith(b"}")
    with connect(
        relay.url("/v1/server"),
        ssl=pair.threaded_client(),
        additional_headers={**BINARY_HEADERS, "x-pyrycode-server": "bye"},
    ) as binary:
        binary.close()
        assert binary.close_code == 1000


def test_changed_files_are_taken_on_sighup_and_no_connection_is_lost(
    start_relay: Callable[..., RelayProcess], pair: Pair
) -> None:
    relay = start_relay(*pair.flags)
    headers = {**BINARY_HEADERS, "x-pyrycode-server": "reload"}
    with connect(relay.url("/v1/server"), ssl=pair.threaded_client(), additional_headers=headers) as binary:
        relay.event("binary_claimed")
        pair.write(pair.issue("127.0.0.1", "first.example.org"))
        relay.process.send_signal(signal.SIGHUP)
        relay.event("certificate_loaded", names="127.0.0.1, first.example.org")
        assert names_served(relay.port, pair) == ["127.0.0.1", "first.example.org"]
        binary.ping().wait(WAIT)
    assert len(relay.events("binary_released")) <= 1


async def test_pair_that_does_not_fit_is_refused_loudly_and_the_one_before_stays(
    autojump_clock: MockClock, pair: Pair
) -> None:
    async with under_tls(pair) as relay:
        old = pair.key.read_bytes()
        pair.key.write_bytes(pair.issue().private_key_pem.bytes())
        await trio.sleep(30)
        assert [event.error for event in relay.seen(CertificateRefused)] == [
            f"{pair.key}: is not the key of {pair.chain}"
        ]
        assert await served(relay, pair) == b"HTTP/1.1 200 OK"
        # What comes right again is taken again.
        pair.key.write_bytes(old)
        await trio.sleep(30)
        assert len(relay.seen(CertificateLoaded)) == 2
        assert len(relay.seen(CertificateRefused)) == 1


async def test_changed_files_are_taken_by_themselves_when_both_are_there(
    autojump_clock: MockClock, pair: Pair
) -> None:
    async with under_tls(pair) as relay:
        new = pair.issue("127.0.0.1", "second.example.org")
        pair.chain.write_bytes(b"".join(blob.bytes() for blob in new.cert_chain_pems))
        await trio.sleep(6)
        pair.key.write_bytes(new.private_key_pem.bytes())
        await trio.sleep(30)
        assert [event.names for event in relay.seen(CertificateLoaded)][1:] == ["127.0.0.1, second.example.org"]
        assert relay.seen(CertificateRefused) == []
        assert await served(relay, pair) == b"HTTP/1.1 200 OK"


async def test_files_that_vanish_are_refused_and_come_back(autojump_clock: MockClock, pair: Pair) -> None:
    async with under_tls(pair) as relay:
        away = pair.chain.rename(pair.chain.with_suffix(".away"))
        await trio.sleep(30)
        assert [event.error for event in relay.seen(CertificateRefused)] == [
            f"{pair.chain}: cannot be read: No such file or directory"
        ]
        away.rename(pair.chain)
        await trio.sleep(30)
        assert len(relay.seen(CertificateLoaded)) == 2


@pytest.mark.parametrize("between", ["für".encode(), b"MIIB"])
async def test_certificate_is_the_one_that_is_served_whatever_else_looks_like_one(
    autojump_clock: MockClock, pair: Pair, between: bytes
) -> None:
    async with under_tls(pair) as relay:
        comment = b"# -----BEGIN CERTIFICATE----- %b -----END CERTIFICATE-----\n" % between
        pair.chain.write_bytes(comment + pair.chain.read_bytes())
        await trio.sleep(30)
        assert relay.seen(CertificateRefused) == []
        assert [event.names for event in relay.seen(CertificateLoaded)] == ["127.0.0.1, relay.example.org"] * 2
        assert await served(relay, pair) == b"HTTP/1.1 200 OK"


async def test_certificate_with_a_name_that_cannot_be_read_is_refused_and_the_one_before_stays(
    autojump_clock: MockClock, pair: Pair
) -> None:
    async with under_tls(pair) as relay:
        # A DNS name of 3 bytes: "für" in Latin-1.
        self_signed(pair, "-addext", "subjectAltName=DER:3005820366fc72")
        await trio.sleep(30)
        assert [event.error for event in relay.seen(CertificateRefused)] == [
            f"{pair.chain}: has a name that is not ASCII; have it issued with the xn-- form of that name"
        ]
        assert await served(relay, pair) == b"HTTP/1.1 200 OK"


async def test_handshake_and_head_share_one_time_limit(autojump_clock: MockClock, pair: Pair) -> None:
    async with under_tls(pair, handshake_timeout=5.0) as relay:
        start = trio.current_time()
        silent = await relay.connect()
        await silent.stream.send_all(b"\x16\x03\x01")
        assert await silent.stream.receive_some(10) == b""
        assert trio.current_time() - start == pytest.approx(5.0)
        assert [event.reason for event in relay.seen(TlsRefused)] == ["TIMEOUT"]
        start = trio.current_time()
        raw = await relay.connect()
        await trio.sleep(4.0)
        client = trio.SSLStream(raw.stream, pair.client(), server_hostname="127.0.0.1", https_compatible=True)
        await client.send_all(b"GET /healthz HTTP/1.1\r\n")
        assert (await client.receive_some(100)).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - start == pytest.approx(5.0)


@pytest.mark.parametrize("command", [(), ("check",)], ids=["start", "check"])
def test_key_that_others_can_read_is_refused_with_the_command_that_mends_it(
    pair: Pair, command: Sequence[str], refused: Callable[..., str]
) -> None:
    pair.key.chmod(0o644)
    said = refused(*command, *pair.flags)
    assert f"{pair.key}: others can read this key; mend it with: chmod o= {pair.key}" in said
    subprocess.run(said.rpartition("with: ")[2], shell=True, check=True)
    assert pair.key.stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_served_is_refused_at_the_start_in_one_line(
    pair: Pair, tmp_path: Path, refused: Callable[..., str]
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(pair.issue().private_key_pem.bytes())
    other.chmod(0o600)
    assert f"{other}: is not the key of {pair.chain}" in refused(
        "--tls-cert", str(pair.chain), "--tls-key", str(other)
    )
    pair.chain.chmod(0o600)
    assert "there is no private key in PEM" in refused(
        "--tls-cert", str(pair.chain), "--tls-key", str(pair.chain)
    )
    assert "there is no certificate in PEM" in refused("--tls-cert", str(pair.key), "--tls-key", str(pair.key))
    assert "/dev/null: is no file" in refused("--tls-cert", str(pair.chain), "--tls-key", "/dev/null")
    assert "No such file" in refused("--tls-cert", "/nowhere/c.pem", "--tls-key", str(pair.key))
    assert "tls-key: is not set" in refused("--tls-cert", str(pair.chain))
    assert "tls-cert: is not set" in refused("--tls-key", str(pair.key))
    assert "127.0.0.1:0+tls is to speak TLS" in refused("--listen", "127.0.0.1:0+tls")
    subprocess.run(
        ["openssl", "pkey", "-in", pair.key, "-aes256", "-passout", "pass:secret", "-out", other], check=True
    )
    assert "is encrypted" in refused("--tls-cert", str(pair.chain), "--tls-key", str(other))


def test_certificate_for_clients_only_is_refused_and_an_expired_one_is_served_loudly(
    start_relay: Callable[..., RelayProcess], pair: Pair, refused: Callable[..., str]
) -> None:
    self_signed(pair, "-addext", "extendedKeyUsage=clientAuth")
    assert "no client would accept it" in refused(*pair.flags)
    pair.write(pair.ca.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC)))
    relay = start_relay(*pair.flags)
    assert relay.event("certificate_loaded")["expires"] == "has expired"


async def served(relay: RelayUnderTest, pair: Pair) -> bytes:
    """The status line of ``/healthz``."""
    raw = (await relay.connect()).stream
    client = trio.SSLStream(raw, pair.client(), server_hostname="127.0.0.1", https_compatible=True)
    await client.send_all(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
    return bytes((await client.receive_some(4096)).partition(b"\r\n")[0])


async def test_handshakes_that_come_all_at_once_are_begun_a_few_at_a_time_and_others_run_between_them(
    pair: Pair,
) -> None:
    hello = client_hello()
    async with under_tls(pair, max_handshakes=800) as relay:
        clients = [await relay.connect() for _ in range(200)]
        await trio.testing.wait_all_tasks_blocked()
        poll = select.poll()
        for client in clients:
            poll.register(client.stream.socket.fileno(), select.POLLIN)
            os.write(client.stream.socket.fileno(), hello)
        counts: list[int] = []
        with trio.fail_after(WAIT):
            while sum(counts) < 200:
                await trio.lowlevel.checkpoint()
                counts.append(len(poll.poll(0)) - sum(counts))
        # We look in the middle of a pass of the loop, before some of its tasks and behind others.
        assert max(counts) <= 64


async def test_client_that_takes_nothing_of_a_handshake_keeps_no_place_from_others(pair: Pair) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.chain, pair.key)
    ours, theirs = socket.socketpair()
    gate = Gate()
    with ours, theirs:
        below = PlainStream(ours)
        with contextlib.suppress(BlockingIOError):
            while ours.send(bytes(65_536)):
                pass
        theirs.sendall(client_hello())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_tls, below, lambda _: server, gate, lambda: None)
            await trio.testing.wait_all_tasks_blocked()
            with contextlib.ExitStack() as stack, trio.fail_after(WAIT):
                for _ in range(NEWCOMERS_AT_ONCE):
                    await stack.enter_context(gate.approached()).enter()
            nursery.cancel_scope.cancel()


# The bytes between the buffers.


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
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.chain, pair.key)
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


async def test_client_that_is_asked_for_another_hello_gets_its_answer(pair: Pair) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.chain, pair.key)
    # A client's first key is for X25519.
    server.set_ecdh_curve("prime256v1")
    ours, theirs = socket.socketpair()
    raw = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    client = trio.SSLStream(raw, pair.client(), server_hostname="127.0.0.1", https_compatible=True)
    hellos = []

    def choose(hello: ClientHello | None) -> ssl.SSLContext:
        hellos.append(hello)
        return server

    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, b"hello")
            stream = await accept_tls(PlainStream(ours), choose, Gate(), lambda: None)
            assert await stream.receive_some(100) == b"hello"
    assert hellos == [ClientHello("", ())]


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
