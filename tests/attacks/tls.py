"""A client's end of TLS in which every byte that goes out, and when, is an attacker's to choose."""

import contextlib
import select
import socket
import ssl
import time
from threading import Lock
from typing import Any

from tests.attacks.peers import PATIENCE

RECORD = 16 * 1024
"""Most bytes of data in a record."""


def client_context() -> ssl.SSLContext:
    """Whose certificate it is is of no interest here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


CONTEXT = client_context()


def client_hello() -> bytes:
    """What a client says first."""
    outgoing = ssl.MemoryBIO()
    try:
        CONTEXT.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="relay").do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody")


class TlsSocket(socket.socket):
    """A connected socket with TLS on it, and what of `socket.socket` is used in this directory.

    Nothing goes out unasked: to close it is a FIN without a goodbye, as of a process that is killed.
    What is sent before the handshake is done goes out behind it. MSG_DONTWAIT does not wait.
    """

    def __init__(self, sock: socket.socket) -> None:
        """``sock`` is connected. Sends the ClientHello, and does not wait for anything."""
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        super().settimeout(0)
        self._patience: float | None = PATIENCE
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = CONTEXT.wrap_bio(self._incoming, self._outgoing, server_hostname="relay")
        # One thread may read while another one sends.
        self._lock = Lock()
        self._shaken = False
        # Sent before the handshake was done.
        self._early = bytearray()
        # What the kernel has not taken yet.
        self._ciphertext = b""
        # What can be read, and whether it is the last.
        self._plain = bytearray()
        self._ended = False
        #: Whether the end was a close_notify.
        self.said_goodbye = False
        with self._lock:
            self._receive()

    def shake_hands(self) -> None:
        """Wait for the end of the handshake. Raises ConnectionError if there will be none."""
        end = self._end()
        while not self._shaken:
            with self._lock:
                self._receive()
            if self._ended:
                raise ConnectionResetError("hung up on in the handshake")
            if not self._shaken:
                self._wait(end, select.POLLIN)

    def encrypted(self, data: bytes, *, record: int = RECORD) -> bytes:
        """The records that ``data`` takes, of ``record`` bytes at most, not sent: see `send_records`."""
        with self._lock:
            for start in range(0, len(data), record):
                self._object.write(memoryview(data)[start : start + record])
            return self._outgoing.read()

    def goodbye(self) -> bytes:
        """A close_notify, not sent. From then on nothing can be encrypted."""
        with self._lock:
            with contextlib.suppress(ssl.SSLError):
                self._object.unwrap()
            return self._outgoing.read()

    def send_records(self, data: bytes) -> None:
        """Send these very bytes."""
        with self._lock:
            self._ciphertext += data
            self._flush()
        self._send_out(self._end())

    def readable(self, seconds: float | None = 0.0) -> bool:
        """Whether there is something to read, be it the end; wait so long for it."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            with self._lock:
                self._receive()
                if self._plain or self._ended:
                    return True
            if end is not None and time.monotonic() >= end:
                return False
            self._poll(end, select.POLLIN)

    # What `socket.socket` has, with its names.

    def settimeout(self, value: float | None, /) -> None:
        self._patience = value

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        taken = b""
        while len(taken) < bufsize:
            if not self.readable(0.0 if flags & socket.MSG_DONTWAIT else self._patience):
                raise BlockingIOError if flags & socket.MSG_DONTWAIT else TimeoutError
            with self._lock:
                part = bytes(self._plain[: bufsize - len(taken)])
                del self._plain[: len(part)]
            taken += part
            if not part or not flags & socket.MSG_WAITALL:
                break
        return taken

    def send(self, data: Any, flags: int = 0, /) -> int:
        """What counts as sent may be sent on by a later call."""
        end = self._end()
        while True:
            with self._lock:
                if not self._shaken:
                    self._receive()
                if not self._shaken:
                    self._early += data
                    return len(data)
                if self._flush():
                    part = memoryview(data)[: 4 * RECORD]
                    self._encrypt(part)
                    self._flush()
                    return len(part)
            if flags & socket.MSG_DONTWAIT:
                raise BlockingIOError
            self._wait(end, select.POLLOUT)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.send(rest, flags) :]
        self._send_out(self._end())

    def shutdown(self, how: int, /) -> None:
        if how == socket.SHUT_WR:
            self.send_records(self.goodbye())
        super().shutdown(how)

    def _receive(self) -> None:
        """Take what is here, and shake hands as far as that goes."""
        while not self._plain and not self._ended:
            try:
                if not self._shaken:
                    self._object.do_handshake()
                    self._shaken = True
                    self._encrypt(self._early)
                data = self._object.read(65536)
                self._plain += data
                self._ended = self.said_goodbye = not data
            except ssl.SSLWantReadError:
                try:
                    received = super().recv(65536)
                except BlockingIOError:
                    break
                if received:
                    self._incoming.write(received)
                else:
                    self._incoming.write_eof()
            except ssl.SSLZeroReturnError:
                self._ended = self.said_goodbye = True
            except ssl.SSLEOFError:
                self._ended = True
            except ssl.SSLError as error:
                if error.reason and "ALERT" not in error.reason:
                    # No test may take that for a connection that was closed.
                    raise AssertionError(f"what the relay has sent is not TLS: {error}") from error
                self._ended = True
            finally:
                self._flush()

    def _encrypt(self, data: Any) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._object.write(rest) :]

    def _flush(self) -> bool:
        """Send what is encrypted; whether the kernel has taken all."""
        self._ciphertext += self._outgoing.read()
        if self._ciphertext:
            with contextlib.suppress(BlockingIOError):
                self._ciphertext = self._ciphertext[super().send(self._ciphertext) :]
        return not self._ciphertext

    def _send_out(self, end: float | None) -> None:
        while True:
            with self._lock:
                if self._flush():
                    return
            self._wait(end, select.POLLOUT)

    def _end(self) -> float | None:
        return None if self._patience is None else time.monotonic() + self._patience

    def _wait(self, end: float | None, events: int) -> None:
        if end is not None and time.monotonic() >= end:
            raise TimeoutError
        self._poll(end, events)

    def _poll(self, end: float | None, events: int) -> None:
        poll = select.poll()
        poll.register(self.fileno(), events | (select.POLLOUT if self._ciphertext else 0))
        poll.poll(None if end is None else max(0.0, end - time.monotonic()) * 1000)
