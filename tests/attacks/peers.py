"""Raw sockets with a WebSocket of their own: what an attacker sends is nothing that a library would.

Nothing here is relayd's, nor imports anything that takes long: `tests.attacks.honest` is a process of its own.
"""

import os
import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attacks.tls import TlsSocket

OVER_TLS = os.environ.get("ATTACK_OVER") == "tls"
"""Whether attackers, and the honest pair, speak TLS to a relay that does."""

PATIENCE = 20.0
"""Seconds until a peer gives up on something that takes milliseconds on an idle machine."""

KEY = b"\x37\xfa\x21\x3d"
CONTINUATION, TEXT, CLOSE, PING, PONG = 0x00, 0x81, 0x88, 0x89, 0x8A
BEGINNING = 0x01
"""The first fragment of a text."""

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n"


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


def close_frame(code: int) -> bytes:
    """A Close frame without a reason."""
    return frame(struct.pack("!H", code), CLOSE)


def request(path: str, server_id: str, fields: Mapping[bytes, bytes] | None = None) -> bytes:
    """The head of an upgrade, fit for both endpoints; ``fields`` stand in for those of the same name."""
    lines = {
        b"Host": b"relay",
        b"Connection": b"Upgrade",
        b"Upgrade": b"websocket",
        b"Sec-WebSocket-Version": b"13",
        b"Sec-WebSocket-Key": b"AAAAAAAAAAAAAAAAAAAAAA==",
        b"x-pyrycode-server": server_id.encode(),
        b"x-pyrycode-version": b"1",
        b"x-pyrycode-token": b"t",
        b"user-agent": b"attack",
        **(fields or {}),
    }
    head = b"".join(b"%b: %b\r\n" % field for field in lines.items())
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), head)


def connect(port: int, receive_buffer: int = 0, *, tls: bool = OVER_TLS, patient: bool = True) -> socket.socket:
    """A connection to 127.0.0.1; ``receive_buffer`` bytes make the kernel's window small.

    Unless it is ``patient``, there may be nobody yet to shake hands with.
    """
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(("127.0.0.1", port))
    return secured(sock, patient=patient) if tls else sock


def over(sock: socket.socket) -> socket.socket:
    """``sock``, which is connected, as the suite speaks to the relay."""
    return secured(sock) if OVER_TLS else sock


def secured(sock: socket.socket, *, patient: bool = True) -> "TlsSocket":
    """TLS over ``sock``, the handshake done if we are ``patient``."""
    # It imports ssl, which the processes of an attack over plain sockets do without.
    from tests.attacks.tls import TlsSocket

    tls = TlsSocket(sock)
    if patient:
        try:
            tls.shake_hands()
        except BaseException:
            tls.close()
            raise
    return tls


def readable(sock: socket.socket, seconds: float = 0.0) -> bool:
    """Whether there is something to read, or the end; wait so long for it."""
    if hasattr(sock, "readable"):
        # There may be bytes that are no data, and data that have left the kernel.
        found: bool = sock.readable(seconds)
        return found
    # select(2) has no room for as many sockets as there are here.
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class Peer:
    """One upgraded connection. It answers pings while it reads, and does nothing else unasked."""

    def __init__(self, sock: socket.socket, path: str, server_id: str, behind: bytes = b"") -> None:
        """``behind`` goes out together with the request head."""
        self.socket = sock
        self.socket.sendall(request(path, server_id) + behind)
        # What was received and is not read yet.
        self._buffer = bytearray()
        head = self._read(len(SWITCHING))
        assert head == SWITCHING, head
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(1)

    def settle(self) -> None:
        """Wait until the relay reads our frames: by then, a binary holds its server-id."""
        self.socket.sendall(frame(b"settled", PING))
        while self.frame() != (PONG, b"settled"):
            pass

    def frame(self) -> tuple[int, bytes]:
        """The next frame's first byte and payload; zero at the end of the stream."""
        head = self._read(2)
        if not head:
            return 0, b""
        length = head[1]
        if length >= 126:
            length = int.from_bytes(self._read(2 if length == 126 else 8), "big")
        return head[0], self._read(length)

    def waiting(self) -> bool:
        """Whether there is something to read, be it the end."""
        return bool(self._buffer) or readable(self.socket)

    def take_in(self, seconds: float) -> None:
        """Read for so long what arrives, for later."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if readable(self.socket, left):
                data = self.socket.recv(65536)
                if not data:
                    return
                self._buffer += data

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
        self.socket.close()

    def _read(self, count: int) -> bytes:
        """``count`` bytes; fewer at the end of the stream."""
        while len(self._buffer) < count:
            data = self.socket.recv(max(65536, count - len(self._buffer)))
            if not data:
                break
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def read_all(sock: socket.socket) -> bytes:
    """All that comes until the end."""
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


def binary(port: int, server_id: str, receive_buffer: int = 0, *, tls: bool = OVER_TLS) -> Peer:
    """A binary that holds its server-id."""
    peer = Peer(connect(port, receive_buffer, tls=tls), "/v1/server", server_id)
    peer.settle()
    return peer


def phone(port: int, server_id: str, receive_buffer: int = 0, *, tls: bool = OVER_TLS) -> Peer:
    """A phone."""
    return Peer(connect(port, receive_buffer, tls=tls), "/v1/client", server_id)


def introduce(to: Peer, who: Peer) -> bytes:
    """The conn_id under which binary ``to`` knows phone ``who``."""
    who.send(b'"hello"')
    message = to.text()
    assert message.endswith(b'","frame":"hello"}'), message
    return message.split(b'"')[3]
