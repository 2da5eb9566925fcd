"""Whatever one peer does, the relay keeps working, and honest peers are served meanwhile.

The peers are raw sockets with a WebSocket of their own, a dozen lines long: what an attacker sends is
nothing that a library would. In every test an honest binary and phone exchange numbered frames while
the attack is on; afterwards the daemon is alive, has no internal error in its log, and has let go of
every descriptor that the attack cost it.
"""

import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from relayd.edge.pace import CONTROL_BURST
from tests.relay_process import WAIT, RelayProcess, until

RelayStarter = Callable[..., RelayProcess]

KEY = b"\x37\xfa\x21\x3d"
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A


def frame(payload: bytes, first: int = TEXT) -> bytes:
    """One masked frame."""
    length = len(payload)
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 0x10000:
        head = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, length)
    mask = (KEY * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return head + KEY + masked.to_bytes(length, "big")


def request(path: str, server_id: str) -> bytes:
    """The head of an upgrade, fit for both endpoints."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"x-pyrycode-server: {server_id}\r\nx-pyrycode-version: 1\r\nx-pyrycode-token: t\r\n"
        "user-agent: attack\r\n\r\n"
    ).encode()


class Peer:
    """One upgraded connection. It answers pings while it reads, and does nothing else unasked."""

    def __init__(self, relay: RelayProcess, path: str, server_id: str, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(WAIT)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", relay.port))
        self.socket.sendall(request(path, server_id))
        self._incoming = self.socket.makefile("rb")
        assert self._incoming.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        while self._incoming.readline() != b"\r\n":
            pass
        if path == "/v1/server":
            # An accepted binary has yet to claim its server-id, and a phone may be quicker.
            relay.event("binary_claimed", server_id=server_id)

    def frame(self) -> tuple[int, bytes]:
        """The next frame's first byte and payload; zero at the end of the stream."""
        head = self._incoming.read(2)
        if not head:
            return 0, b""
        length = head[1]
        if length >= 126:
            length = int.from_bytes(self._incoming.read(2 if length == 126 else 8), "big")
        return head[0], self._incoming.read(length)

    def text(self) -> bytes:
        """The next text message."""
        while True:
            first, payload = self.frame()
            if first == PING:
                self.socket.sendall(frame(payload, PONG))
            elif first != PONG:
                assert first == TEXT, (first, payload)
                return payload

    def close_code(self) -> int:
        """Read on to the Close frame; its code."""
        while True:
            first, payload = self.frame()
            assert first, "the stream ended without a Close frame"
            if first == CLOSE:
                return int.from_bytes(payload[:2], "big")

    def send(self, payload: bytes) -> None:
        """Send one text message."""
        self.socket.sendall(frame(payload))

    def reset(self) -> None:
        """Vanish with an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Hang up, with a FIN and no Close frame."""
        self._incoming.close()
        self.socket.close()


class Honest:
    """A binary and its phone, whom an attack must not touch."""

    def __init__(self, relay: RelayProcess) -> None:
        self.binary = Peer(relay, "/v1/server", "honest")
        self.phone = Peer(relay, "/v1/client", "honest")
        self._number = 0
        self.conn_id = introduce(self.binary, self.phone)

    def exchange(self, count: int = 20) -> None:
        """Frames each way: every one arrives once, in order, unchanged."""
        for _ in range(count):
            self._number += 1
            self.phone.send(b'"up %d"' % self._number)
            assert self.binary.text() == b'{"conn_id":"%b","frame":"up %d"}' % (self.conn_id, self._number)
            self.binary.send(b'{"conn_id":"%b","frame":"down %d"}' % (self.conn_id, self._number))
            assert self.phone.text() == b'"down %d"' % self._number

    def close(self) -> None:
        """Hang up."""
        self.phone.close()
        self.binary.close()


def introduce(binary: Peer, phone: Peer) -> bytes:
    """The conn_id under which ``binary`` knows ``phone``."""
    phone.send(b'"hello"')
    message = binary.text()
    assert message.endswith(b'","frame":"hello"}')
    return message.split(b'"')[3]


def descriptors(relay: RelayProcess) -> int:
    """How many file descriptors the daemon holds."""
    return len(list(Path(f"/proc/{relay.pid}/fd").iterdir()))


@contextmanager
def under_attack(relay: RelayProcess) -> Iterator[Honest]:
    """An honest pair beside the body. In the end it is served, and descriptors are back.

    `relay_factory` looks for internal errors when the test is over.
    """
    with closing(Honest(relay)) as honest:
        before = descriptors(relay)
        yield honest
        until(lambda: descriptors(relay) <= before, f"return to {before} descriptors")
        honest.exchange()
        assert relay.process.poll() is None


def test_phone_that_stops_reading_is_closed_with_1011_and_its_sibling_is_served(
    start_relay: RelayStarter,
) -> None:
    relay = start_relay("--outbox-bytes", "65536")
    with under_attack(relay) as honest:
        stalled = Peer(relay, "/v1/client", "honest", receive_buffer=4096)
        with closing(stalled):
            conn_id = introduce(honest.binary, stalled)
            envelope = b'{"conn_id":"%b","frame":"%b"}' % (conn_id, b"x" * 16384)
            # 64 MiB at most: what the kernel's buffers take is for the kernel to say.
            for _ in range(4096):
                honest.binary.send(envelope)
                if select.select([honest.binary.socket], [], [], 0)[0]:
                    break
            assert honest.binary.text() == b'{"conn_id":"%b","close_code":1001}' % conn_id
            honest.exchange()
            event = relay.event("phone_unregistered", conn_id=conn_id.decode())
            assert (event["code"], event["reason"]) == (1011, "phone backlog full")


def test_lone_frame_elsewhere_arrives_while_a_binary_floods(start_relay: RelayStarter) -> None:
    relay = start_relay()
    with under_attack(relay) as honest, closing(Peer(relay, "/v1/server", "flood")) as flooder:
        enough = threading.Event()
        sent: list[int] = []
        block = frame(b'{"conn_id":"c-nobody","frame":1}') * 2000

        def flood() -> None:
            # The bound is there in case nobody ever says that it is enough.
            while not enough.is_set() and len(sent) < 2000:
                flooder.socket.sendall(block)
                sent.append(len(block))

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            until(lambda: sent, "beginning of the flood")
            honest.exchange(50)
            served_in_mid_flood = thread.is_alive()
        finally:
            enough.set()
            thread.join(WAIT)
        assert served_in_mid_flood
        flooder.close()
        dropped = relay.events("envelopes_dropped")
        assert dropped
        assert all(event["server_id"] == "flood" for event in dropped)


VICTIM = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.sendall(bytes.fromhex(sys.argv[2]))
while b"\\r\\n\\r\\n" not in sock.recv(65536):
    pass
sock.sendall(bytes.fromhex(sys.argv[3]))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("path", "event"), [("/v1/client", "phone_unregistered"), ("/v1/server", "binary_released")]
)
def test_peer_killed_in_the_middle_of_a_frame_is_released(
    start_relay: RelayStarter, path: str, event: str
) -> None:
    relay = start_relay()
    server_id = "honest" if path == "/v1/client" else "victim"
    half = frame(b"[" + b"1," * 500)[:700]
    command = [sys.executable, "-c", VICTIM, str(relay.port), request(path, server_id).hex(), half.hex()]
    with under_attack(relay) as honest:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == b"ready\n"
            honest.exchange()
            os.kill(victim.pid, signal.SIGKILL)
        assert (relay.event(event, server_id=server_id)["code"], victim.returncode) == (1006, -signal.SIGKILL)
        if path == "/v1/client":
            assert honest.binary.text().endswith(b',"close_code":1001}')


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"GET /v1/client HTTP/1.1\r\nx-fill: ", b"HTTP/1.1 408 "),
        (request("/v1/server", "dribble") + b"\x81\xfe\x10\x00" + KEY, b"HTTP/1.1 101 "),
    ],
    ids=["head, closed by the handshake timeout", "message, closed with 1008"],
)
def test_peer_that_dribbles_is_closed_in_time(start_relay: RelayStarter, head: bytes, answer: bytes) -> None:
    relay = start_relay("--handshake-timeout", "0.5", "--message-timeout", "0.5")
    with under_attack(relay) as honest, socket.create_connection(("127.0.0.1", relay.port), WAIT) as dribbler:
        dribbler.sendall(head)
        received = b""

        def dribble() -> bool:
            nonlocal received
            if select.select([dribbler], [], [], 0.02)[0]:
                data = dribbler.recv(65536)
                received += data
                return not data or b"message too slow" in data
            dribbler.sendall(b"a")
            honest.exchange(1)
            return False

        until(dribble, "end of a dribble")
        assert received.startswith(answer)
        if answer.startswith(b"HTTP/1.1 101"):
            assert received.endswith(struct.pack("!BBH", CLOSE, 18, 1008) + b"message too slow")


def test_thousand_connections_that_say_nothing_are_closed_by_the_handshake_timeout(
    start_relay: RelayStarter,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Here and, inherited, in the daemon: the usual limit of 1,024 has no room for them and the rest.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    try:
        relay = start_relay("--handshake-timeout", "0.5", "--max-handshakes", "2000")
        with under_attack(relay) as honest, ExitStack() as stack:
            silent = []
            for _ in range(1000):
                sock = socket.create_connection(("127.0.0.1", relay.port), WAIT)
                silent.append(stack.enter_context(sock))
            honest.exchange()
            assert [sock.recv(1) for sock in silent] == [b""] * 1000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100 + b"\r\n\r\n",
        b"\xff" * 20_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/client HTTP/1.1\r\n" + b"a: b\r\n" * 500 + b"\r\n",
        random.Random(1).randbytes(30_000),
    ],
    ids=["nul", "ff", "tls", "version", "many headers", "random"],
)
def test_garbage_before_the_upgrade_gets_an_http_error_that_echoes_nothing(
    start_relay: RelayStarter, garbage: bytes
) -> None:
    relay = start_relay()
    with under_attack(relay) as honest, socket.create_connection(("127.0.0.1", relay.port), WAIT) as attacker:
        attacker.sendall(garbage)
        attacker.shutdown(socket.SHUT_WR)
        honest.exchange()
        with attacker.makefile("rb") as answer:
            status, _, rest = answer.read().partition(b"\r\n")
        assert status.startswith(b"HTTP/1.1 4")
        assert rest.endswith(b"content-length: 0\r\n\r\n")


@pytest.mark.parametrize("path", ["/v1/client", "/v1/server"])
def test_garbage_after_the_upgrade_is_a_protocol_error(start_relay: RelayStarter, path: str) -> None:
    relay = start_relay()
    noise = [random.Random(seed).randbytes(5000) for seed in range(30)]
    with under_attack(relay) as honest:
        for number, garbage in enumerate([b"\xff" * 5000, bytes(5000), request(path, "honest"), *noise]):
            server_id = "honest" if path == "/v1/client" else f"garbage-{number}"
            with closing(Peer(relay, path, server_id)) as attacker:
                attacker.socket.sendall(garbage)
                # 1009 where the garbage happens to spell the length of a frame that is too big.
                assert attacker.close_code() in (1002, 1009)
            if path == "/v1/client":
                assert honest.binary.text().endswith(b',"close_code":1001}')
            honest.exchange(1)


@pytest.mark.parametrize("path", ["/v1/client", "/v1/server"])
def test_close_is_answered_after_as_many_pings_as_may_come_at_once(
    start_relay: RelayStarter, path: str
) -> None:
    relay = start_relay()
    with under_attack(relay) as honest:
        server_id = "honest" if path == "/v1/client" else "pings"
        with closing(Peer(relay, path, server_id)) as attacker:
            attacker.socket.sendall(frame(b"ping", PING) * CONTROL_BURST)
            honest.exchange()
            attacker.socket.sendall(frame(struct.pack("!H", 3000), CLOSE))
            assert attacker.close_code() == 3000
        if path == "/v1/client":
            assert honest.binary.text().endswith(b',"close_code":3000}')


def fragments(payload: bytes) -> bytes:
    """A message in fragments of one byte, its final one left out."""
    return frame(payload[:1], 0x01) + b"".join(frame(payload[i : i + 1], 0x00) for i in range(1, len(payload)))


def test_fragments_of_one_byte_add_up_to_the_size_cap_and_beyond_it_to_1009(
    start_relay: RelayStarter,
) -> None:
    cap = 20_000
    relay = start_relay("--max-frame-bytes", str(cap))
    message = b'"' + b"x" * (cap - 2) + b'"'
    with under_attack(relay) as honest, closing(Peer(relay, "/v1/client", "honest")) as attacker:
        attacker.socket.sendall(fragments(message))
        honest.exchange()
        attacker.socket.sendall(frame(b"", 0x80))
        prefix, _, received = honest.binary.text().partition(b'"frame":')
        assert received == message + b"}"
        attacker.socket.sendall(fragments(message))
        attacker.socket.sendall(frame(b"x", 0x00))
        assert attacker.close_code() == 1009
        assert honest.binary.text() == prefix + b'"close_code":1001}'


def test_empty_messages_are_logged_by_the_read_and_the_binary_is_read_to_its_end(
    start_relay: RelayStarter,
) -> None:
    relay = start_relay()
    count = 64 * 1024 // len(frame(b""))
    with under_attack(relay), closing(Peer(relay, "/v1/server", "empty")) as binary:
        binary.socket.sendall(frame(b"") * count)
        binary.close()
        relay.event("binary_released", server_id="empty", code=1006)
        dropped = relay.events("envelopes_dropped")
        assert sum(event["malformed"] for event in dropped) == count
        assert len(dropped) < count / 10


def test_nesting_256_kib_deep_is_dropped_from_a_binary_and_closes_a_phone_with_1007(
    start_relay: RelayStarter,
) -> None:
    relay = start_relay()
    nest = b"[" * 262_144
    with under_attack(relay) as honest:
        honest.binary.send(nest)
        honest.exchange()
        assert [event["malformed"] for event in relay.events("envelopes_dropped")] == [1]
        with closing(Peer(relay, "/v1/client", "honest")) as phone:
            phone.send(nest)
            assert phone.close_code() == 1007
        assert honest.binary.text().endswith(b',"close_code":1001}')


def test_connections_that_come_and_go_leave_nothing_behind(start_relay: RelayStarter) -> None:
    relay = start_relay("--grace", "0.1")
    with under_attack(relay) as honest:
        for number in range(300):
            peer = Peer(relay, ("/v1/server", "/v1/client")[number % 2], f"churn-{number % 2}-{number}")
            match number % 3:
                case 0:
                    peer.reset()
                case 1:
                    peer.close()
                case _:
                    peer.socket.sendall(frame(struct.pack("!H", 1000), CLOSE))
                    peer.close()
            if number % 30 == 0:
                honest.exchange(1)


def test_phone_with_a_full_outbox_that_resets_is_noticed(start_relay: RelayStarter) -> None:
    relay = start_relay("--outbox-bytes", str(64 * 1024 * 1024))
    with under_attack(relay) as honest:
        phone = Peer(relay, "/v1/client", "honest", receive_buffer=4096)
        conn_id = introduce(honest.binary, phone)
        # More than any socket buffer takes, so that some of it waits in the outbox.
        envelope = b'{"conn_id":"%b","frame":"%b"}' % (conn_id, b"x" * 200_000)
        for _ in range(100):
            honest.binary.send(envelope)
        honest.exchange()
        phone.reset()
        assert honest.binary.text() == b'{"conn_id":"%b","close_code":1001}' % conn_id
        assert relay.event("phone_unregistered", conn_id=conn_id.decode())["code"] == 1006


def test_half_open_peers_that_never_answer_are_closed_by_the_heartbeat(start_relay: RelayStarter) -> None:
    relay = start_relay("--heartbeat-interval", "0.2", "--heartbeat-timeout", "2", "--grace", "0.1")
    with under_attack(relay) as honest, ExitStack() as stack:
        before = descriptors(relay)
        for number in range(10):
            stack.enter_context(closing(Peer(relay, "/v1/server", f"dead-{number}")))
            stack.enter_context(closing(Peer(relay, "/v1/client", f"dead-{number}")))

        def gone() -> bool:
            # The honest pair has to read, or it would not answer pings either.
            honest.exchange(1)
            return descriptors(relay) <= before

        until(gone, "end of the dead peers, who never answer a Close frame either")
        ends = relay.events("binary_released") + relay.events("phone_unregistered")
        codes = {(event["server_id"], event["code"]) for event in ends}
        assert {(f"dead-{number}", 1011) for number in range(10)} <= codes
        assert "honest" not in {event["server_id"] for event in ends}
