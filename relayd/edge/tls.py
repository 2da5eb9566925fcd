"""TLS on a connection: OpenSSL between two buffers, so that it tries and waits as a plain one does."""

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

import trio

from relayd.edge.stream import PlainStream, Stream
from relayd.edge.turns import LEAST_FRAMES
from relayd.wire.tls_records import RecordCounter

__all__ = ["PIECE", "TlsStream"]

_RECORD: Final = 16 * 1024
"""Most bytes in one record (RFC 8446, section 5.1), and so in one read."""

_AT_ONCE: Final = 64 * 1024
"""Bytes encrypted before the socket is tried: enough for one system call, little to hold if it takes none."""

PIECE: Final = 8 * 1024
"""Bytes that OpenSSL's buffers are given at once: it never gives back what they have grown to, a third more."""

_MOST_BARREN: Final = 32 * 1024
"""Bytes from a peer without any data in them. New keys, for one, may be asked for in 27 bytes, as often as one
likes. But a record with data has 16 KiB at most, so nobody needs as much to send some."""

_WORTH: Final = 64
"""Bytes that each byte of data makes up for: its record's, and those of a request for new keys."""

_MOST_REPLIES: Final = 64 * 1024
"""Bytes that TLS itself may owe a peer that does not read: beyond it, he only wants to be answered."""


class TlsStream(Stream):
    """TLS above a plain stream, its handshake done.

    What has been encrypted must go out, and in this order. If the socket takes only part of it, all but the
    last byte of it counts as sent: so whoever sends knows that he is in the middle of a frame, and comes back.
    """

    __slots__ = (
        "_barren",
        "_below",
        "_ciphertext",
        "_counted",
        "_counter",
        "_incoming",
        "_object",
        "_on_limit",
        "_outgoing",
        "_owed",
        "_ready",
        "_replies",
        "_rest",
        "_shut",
    )

    def __init__(
        self,
        below: PlainStream,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        on_limit: Callable[[], None],
        rest: bytes = b"",
    ) -> None:
        """``on_limit`` is told, once, that a peer's end has come because it only keeps TLS busy.

        ``rest`` is what was received and is not in ``incoming`` yet.
        """
        self._on_limit: Callable[[], None] | None = on_limit
        self._below = below
        self._object = tls
        self._incoming = incoming
        self._outgoing = outgoing
        # Of what was received, what OpenSSL has not been given yet: behind the handshake, a record begins.
        self._rest = incoming.read() + rest
        self._counter = RecordCounter()
        # Of it, bytes whose records have been counted.
        self._counted = 0
        # Of what came out of OpenSSL, what the socket has not taken yet.
        self._ciphertext = b""
        # Bytes, one at most, that are encrypted and were not counted as sent.
        self._owed = 0
        # Bytes that have come, less what the data is worth that has come with them.
        self._barren = 0
        # Of the ciphertext, bytes that nobody but the peer's TLS has asked for.
        self._replies = 0
        # There is more to receive than what was asked for, or the end: nothing to wait for.
        self._ready = False
        self._shut = False

    @property
    def protocol(self) -> str | None:
        """What both sides agreed to speak (ALPN)."""
        return self._object.selected_alpn_protocol()

    @property
    def version(self) -> str:
        """Such as ``TLSv1.3``."""
        return self._object.version() or ""

    def try_receive(self, size: int, records: int = LEAST_FRAMES) -> bytes | None:
        if self._shut:
            return self._below.try_receive(size)
        parts: list[bytes] = []
        left, fed = size, 0
        rest, given, counted = self._rest, 0, self._counted
        self._rest, self._counted = b"", 0
        counter = self._counter
        counter.left = records
        emptied = False
        self._ready = True
        while left:
            try:
                data = self._object.read(min(left, _RECORD))
            except ssl.SSLWantReadError:
                if given == counted:
                    counted = counter.advance(rest, given)
                if given == counted:
                    if not counter.left:
                        # There may be more, in its turn.
                        break
                    wanted = min(left, _AT_ONCE)
                    received = None if emptied else self._below.try_receive(wanted)
                    if received is None:
                        self._ready = False
                        break
                    if not received:
                        self._incoming.write_eof()
                        continue
                    emptied = len(received) < wanted
                    rest, given = rest[given:] + received, 0
                    counted = counter.advance(rest, given)
                end = min(given + PIECE, counted)
                self._incoming.write(rest if end - given == len(rest) else memoryview(rest)[given:end])
                fed += end - given
                given = end
                continue
            except ssl.SSLError:
                data = b""
            if not data:
                # Behind what was decrypted, if there is any: then the end comes again.
                return b"".join(parts)
            parts.append(data)
            left -= len(data)
        self._rest, self._counted = rest[given:], counted - given
        if self._outgoing.pending:
            # Warnings, for one of each renegotiation that was refused: not urgent, so not waited for.
            self._replies += self._outgoing.pending
            with suppress(OSError):
                self._all_out()
        self._barren = max(0, self._barren + fed - _WORTH * (size - left))
        if self._replies > _MOST_REPLIES or self._barren > _MOST_BARREN:
            if self._on_limit is not None:
                self._on_limit()
                self._on_limit = None
            return b""
        return b"".join(parts) or None

    def try_send(self, frames: Sequence[bytes | memoryview]) -> int:
        if not self._all_out():
            return 0
        sent, encrypted = 0, self._owed
        self._owed = 0
        for batch in _batches(frames):
            self._encrypt(memoryview(batch)[encrypted:])
            encrypted = 0
            sent += len(batch)
            if not self._all_out():
                self._owed = 1
                return sent - 1
        return sent

    async def wait_readable(self) -> None:
        if self._ready:
            await trio.lowlevel.checkpoint()
        else:
            await self._below.wait_readable()

    async def wait_writable(self) -> None:
        await self._below.wait_writable()

    def unacknowledged(self) -> int:
        return self._below.unacknowledged() + len(self._ciphertext)

    def kept(self) -> int:
        return len(self._ciphertext)

    def unread(self) -> int:
        return len(self._rest)

    def discard_unread(self) -> None:
        if self._rest:
            self._rest, self._counted = b"", 0
            self._incoming.write_eof()

    def hung_up(self) -> bool:
        return self._below.hung_up()

    async def send_eof(self) -> None:
        self._say_goodbye()
        await self._below.send_all(self._take_ciphertext())
        await self._below.send_eof()

    def close(self) -> None:
        with suppress(OSError):
            self._say_goodbye()
            self._all_out()
            # The peer's own goodbye: with bytes left unread, the kernel would reset the connection instead.
            self._below.try_receive(_AT_ONCE)
        self._below.close()

    def discard_unsent(self) -> None:
        self._ciphertext = b""
        self._below.discard_unsent()

    def _say_goodbye(self) -> None:
        """The close_notify alert (RFC 8446, section 6.1), once."""
        if not self._shut:
            self._shut = True
            with suppress(ssl.SSLError):
                # It wants to wait for the peer's, which says nothing that we would not see otherwise.
                self._object.unwrap()

    def _encrypt(self, data: memoryview) -> None:
        records = []
        while data:
            data = data[self._object.write(data[:PIECE]) :]
            records.append(self._outgoing.read())
        self._ciphertext = b"".join((self._ciphertext, *records))

    def _all_out(self) -> bool:
        """Send what is encrypted; whether the socket has taken all. Raises OSError if the peer is gone."""
        self._ciphertext = self._take_ciphertext()
        if self._ciphertext:
            self._ciphertext = self._ciphertext[self._below.try_send([self._ciphertext]) :]
        if self._ciphertext:
            return False
        self._replies = 0
        return True

    def _take_ciphertext(self) -> bytes:
        taken, self._ciphertext = self._ciphertext + self._outgoing.read(), b""
        return taken


def _batches(frames: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """``frames`` in pieces of at most `_AT_ONCE` bytes, none of which ends with the first byte of a frame."""
    batch: list[bytes | memoryview] = []
    size = 0
    for frame in frames:
        if size + len(frame) > _AT_ONCE and batch:
            yield b"".join(batch)
            batch, size = [], 0
        if len(frame) > _AT_ONCE:
            for start in range(0, len(frame), _AT_ONCE):
                yield memoryview(frame)[start : start + _AT_ONCE]
        else:
            batch.append(frame)
            size += len(frame)
    if batch:
        yield b"".join(batch)
