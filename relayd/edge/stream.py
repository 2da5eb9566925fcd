"""The bytes of one connection: what every listener's streams can do, and the plain one.

A head and its answer are awaited (`Stream.receive_some`, `Stream.send_all`). The frames of an open
connection are not: an inbox and an outbox try, and wait only when the kernel has or takes no more.
"""

import fcntl
import os
import select
import socket
import struct
import sys
import termios
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from relayd.edge.turns import LEAST_FRAMES

__all__ = ["PlainStream", "Stream"]

_UNSENT: Final = 16 * 1024
"""Bytes in the kernel that have not gone out, from which on a socket takes no more."""


class Stream(ABC):
    """A connected stream socket, with or without TLS. One task reads at a time, and one writes."""

    __slots__ = ()

    @abstractmethod
    def try_receive(self, size: int, records: int = LEAST_FRAMES) -> bytes | None:
        """At most ``size`` bytes; none at the end, however it came about; None if there are none yet.

        If they are fewer than ``size``, it takes a `wait_readable` to get more. With TLS, no more than so
        many ``records`` are decrypted.
        """

    @abstractmethod
    def try_send(self, frames: Sequence[bytes | memoryview]) -> int:
        """Send what fits without waiting; how many bytes that was. Raises OSError if the peer is gone.

        If they are fewer than there are, what was not sent must come first the next time: see
        `relayd.edge.tls.TlsStream`. Takes up to 1,024 frames (IOV_MAX of writev(2)).
        """

    @abstractmethod
    async def wait_readable(self) -> None:
        """Wait until `try_receive` is worth a try."""

    @abstractmethod
    async def wait_writable(self) -> None:
        """Wait until `try_send` is worth a try, also if only to learn that the peer is gone."""

    @abstractmethod
    def unacknowledged(self) -> int:
        """How many bytes of what was sent the peer's side has not confirmed yet."""

    @abstractmethod
    def kept(self) -> int:
        """How many bytes of what counts as sent are kept here, for the kernel to take."""

    @abstractmethod
    def unread(self) -> int:
        """How many bytes have been received and wait here for `try_receive`."""

    @abstractmethod
    def discard_unread(self) -> None:
        """Let go of those. Whatever comes from then on is the end."""

    @abstractmethod
    def hung_up(self) -> bool:
        """Whether the peer will send no more, although nobody has read as far as that."""

    @abstractmethod
    async def send_eof(self) -> None:
        """Say that there is no more to come. Raises `trio.BrokenResourceError`.

        What is received from then on is only there to be thrown away.
        """

    @abstractmethod
    def close(self) -> None:
        """Close it, at once. Whoever waits for it gets `trio.ClosedResourceError`."""

    @abstractmethod
    def discard_unsent(self) -> None:
        """Throw away what has not gone out, and once this is closed have the kernel do so too, with a reset."""

    async def receive_some(self, size: int) -> bytes:
        """At least one byte, and at most ``size``; none at the end, however it came about."""
        await trio.lowlevel.checkpoint()
        while (data := self.try_receive(size)) is None:
            await self.wait_readable()
        return data

    async def send_all(self, data: bytes) -> None:
        """Send all of ``data``. Raises `trio.BrokenResourceError`. Cancelled, part of it may have gone out."""
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.try_send([rest]) :]
                if rest:
                    await self.wait_writable()
        except OSError:
            raise trio.BrokenResourceError from None


class PlainStream(Stream):
    """A socket as it is."""

    __slots__ = ("socket",)

    def __init__(self, sock: socket.socket) -> None:
        """``sock`` is connected, and is never to block from now on."""
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            # Each of our writes is all that there is to say for now.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Not writable while much waits here unsent: it is better off in an outbox, where it is counted.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        self.socket = sock

    def try_receive(self, size: int, records: int = LEAST_FRAMES) -> bytes | None:
        try:
            return os.read(self.socket.fileno(), size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def try_send(self, frames: Sequence[bytes | memoryview]) -> int:
        try:
            return os.writev(self.socket.fileno(), frames)
        except BlockingIOError:
            return 0

    async def wait_readable(self) -> None:
        await trio.lowlevel.wait_readable(self.socket)

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self.socket)

    def unacknowledged(self) -> int:
        # SIOCOUTQ of tcp(7), which Linux calls TIOCOUTQ.
        answer = fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(answer, sys.byteorder)

    def kept(self) -> int:
        return 0

    def unread(self) -> int:
        return 0

    def discard_unread(self) -> None:
        pass

    def hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self.socket.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            raise trio.BrokenResourceError from None

    def close(self) -> None:
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    def discard_unsent(self) -> None:
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
