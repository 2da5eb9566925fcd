"""WebSocket frames: bytes in, messages out, and back (RFC 6455, section 5).

This exists because relayd moves data frames in batches. trio-websocket hands over one message at a
time, and each costs a memory channel, two task switches and a generator-based parser; here one read
becomes one list of messages. Whoever takes data frames away from wsproto also takes over their
rules, so all of them are kept in this file: mask required, reserved bits and opcodes refused,
lengths minimal, fragments reassembled and bounded. Control frames are checked just as strictly and
then handed on whole, for trio-websocket to answer.

UTF-8 is not checked here: what a bad text costs differs by leg (the contract's table of errors),
and incoming text and binary messages are treated alike, so `relayd.wire.envelope` does it.
"""

from collections.abc import Callable
from typing import Final

from relayd.wire.close import MESSAGE_TOO_BIG, Close, may_travel, protocol_error

__all__ = ["FRAMES_PER_BATCH", "PING", "FrameDecoder", "encode_close", "encode_text"]

FRAMES_PER_BATCH: Final = 256
"""Frames decoded before the caller gets a turn, at most: 64 KiB of empty frames are 10,000 of them, and
to decode and route all of those in one go would hold everybody else up for some 20 ms."""

PINGS_KEPT: Final = 16
"""Unanswered pings kept for their pong. RFC 6455, section 5.5.3, lets an endpoint answer only the
latest of several, so a flood of pings costs its sender bandwidth and us neither memory nor writes."""

PING: Final = b"\x89\x00"
"""A ping with an empty payload, as a server sends it (unmasked)."""

_OPCODE_CLOSE: Final = 0x8
_OPCODE_PING: Final = 0x9
_OPCODE_PONG: Final = 0xA


def encode_text(payload: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """One whole, final, unmasked text frame: what a server sends (RFC 6455, section 5.2).

    Its text is ``payload``, or ``payload`` between two other parts.
    """
    length = len(before) + len(payload) + len(after)
    if length < 126:
        header = bytes((0x81, length))
    elif length < 0x10000:
        header = b"\x81\x7e" + length.to_bytes(2, "big")
    else:
        header = b"\x81\x7f" + length.to_bytes(8, "big")
    return b"".join((header, before, payload, after)) if before or after else header + payload


def encode_close(close: Close) -> bytes:
    """A Close frame with ``close``'s code and reason (at most 123 bytes of UTF-8), unmasked."""
    payload = close.code.to_bytes(2, "big") + close.reason.encode()
    return bytes((0x80 | _OPCODE_CLOSE, len(payload))) + payload


def _unmask_with_integers(payload: bytes, key: bytes) -> bytes:
    # One XOR over two long integers: CPython's own word loop, several times faster than any loop
    # over bytes could be.
    length = len(payload)
    repeated = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(length, "little")


_unmask: Callable[[bytes, bytes], bytes]
try:
    # The C of `websockets`: ten times faster for a small frame, seventy for a large one.
    from websockets.speedups import apply_mask
except ImportError:  # its wheel has no compiled part for this platform
    _unmask = _unmask_with_integers
else:
    _unmask = apply_mask


class FrameDecoder:
    """The receiving half of a server's connection, without the connection.

    Feed it what was read with `decode`, which returns the data messages that those bytes complete.
    After that, look at `pings` and `close_frame` (control frames to answer) and at `failure`. Once
    there is a `close_frame` or a `failure` the stream has ended as far as frames go, and further
    bytes are ignored; the messages before that point have been returned.
    """

    __slots__ = (
        "_backlog",
        "_buffer",
        "_fragments",
        "_max_message_bytes",
        "_need",
        "_position",
        "close_code",
        "close_frame",
        "failure",
        "idle",
        "others",
        "pings",
        "pongs",
    )

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        # The beginning of a frame that is not complete, and how many bytes it takes before looking
        # again is worth while: a frame that dribbles in is looked at a constant number of times.
        self._buffer = bytearray()
        self._need = 2
        # What was fed and had no turn yet begins at `_position` of `_backlog`.
        self._backlog = b""
        self._position = 0
        # The payloads so far of a message whose final fragment has not come.
        self._fragments: bytearray | None = None
        #: Whole ping frames as received, still masked, oldest first.
        self.pings: list[bytes] = []
        #: Pongs that have come; whoever looks may set it back.
        self.pongs = 0
        #: Frames decoded that made no message of their own: control frames, and fragments but the last of
        #: each message. Whoever looks may set it back, as with those among them that carried nothing for
        #: anybody: control frames, and empty fragments.
        self.others = 0
        self.idle = 0
        #: The whole Close frame as received, still masked.
        self.close_frame: bytes | None = None
        #: The code in that Close frame; None when it carried none.
        self.close_code: int | None = None
        #: The rule that the peer broke, as the Close that it has earned.
        self.failure: Close | None = None

    @property
    def ended(self) -> bool:
        """Whether a Close frame or a broken rule has ended the stream of frames."""
        return self.close_frame is not None or self.failure is not None

    @property
    def backlog(self) -> bool:
        """Whether ``decode(b"")`` would find more in what it was already fed."""
        return bool(self._backlog) and not self.ended

    @property
    def mid_message(self) -> bool:
        """Whether a message (or a control frame) has begun and is not complete."""
        return bool(self._buffer or self._backlog) or self._fragments is not None

    @property
    def fragmented(self) -> bool:
        """Whether a message has begun of which there will be another fragment."""
        return self._fragments is not None

    @property
    def held(self) -> int:
        """Bytes kept for later, with what a bytearray takes in advance."""
        held = len(self._buffer) + (0 if self._fragments is None else len(self._fragments))
        return held + (held >> 3) + len(self._backlog)

    def give_up(self, close: Close) -> None:
        """Let go of all that is kept, and so of telling frames apart: ``close`` is the failure."""
        self._fail(close)
        self._buffer.clear()
        self._backlog = b""
        self.pings.clear()

    def decode(self, data: bytes, most: int = FRAMES_PER_BATCH) -> list[bytes]:
        """Take the next bytes of the stream; return the messages that they complete, in order.

        At most ``most`` frames are decoded; `backlog` tells whether some are left.
        Text and binary messages come out alike, unmasked and reassembled.
        """
        messages: list[bytes] = []
        if self.ended:
            return messages
        if self._backlog:
            backlog, position = self._backlog, self._position
            self._backlog = b""
            if data:
                backlog, position = backlog[position:] + data, 0
            self._split(backlog, position, most, messages)
            return messages
        position = 0
        buffer = self._buffer
        while buffer and not self.ended:
            # Only what completes the frame, or its header, joins its beginning: the rest may be long.
            end = position + self._need - len(buffer)
            buffer += data[position:end]
            if end > len(data):
                return messages
            position = end
            begun = bytes(buffer)
            buffer.clear()
            self._split(begun, 0, 1, messages)
            most -= not buffer
        if not self.ended:
            self._split(data, position, most, messages)
        return messages

    def _split(self, data: bytes, position: int, most: int, messages: list[bytes]) -> None:
        """Decode up to ``most`` frames of ``data`` from ``position`` on; keep what is left."""
        size = len(data)
        self._need = 2
        for _ in range(most):
            if size - position < 2:
                break
            first = data[position]
            length = data[position + 1] - 0x80
            start = position + 6
            if length < 0:
                self._fail(protocol_error("frame is not masked"))
                return
            if length >= 126:
                start += 2 if length == 126 else 8
                if start > size:
                    self._need = start - position
                    break
                if length == 126:
                    length = data[position + 2] << 8 | data[position + 3]
                    shortest = 126
                else:
                    length = int.from_bytes(data[position + 2 : position + 10], "big")
                    shortest = 0x10000
                if length < shortest:
                    self._fail(protocol_error("frame length is not minimal"))
                    return
                if length > 0x7FFF_FFFF_FFFF_FFFF:
                    self._fail(protocol_error("frame length has its top bit set"))
                    return
            # All checks run before the payload is there, so that a frame which will be refused is
            # refused at once and never buffered.
            whole = first == 0x81 or first == 0x82
            if not whole or length > self._max_message_bytes or self._fragments is not None:
                refusal = self._refusal(first, length)
                if refusal is not None:
                    self._fail(refusal)
                    return
            end = start + length
            if end > size:
                self._need = end - position
                break
            payload = _unmask(data[start:end], data[start - 4 : start])
            if whole:
                messages.append(payload)
            elif first & 0x08:
                self._control(first & 0x0F, payload, data[position:end])
                if self.ended:
                    return
            else:
                if self._fragments is None:
                    self._fragments = bytearray()
                self._fragments += payload
                if first & 0x80:
                    messages.append(bytes(self._fragments))
                    self._fragments = None
                else:
                    self.others += 1
                    self.idle += not length
            position = end
        else:
            if position < size:
                self._backlog, self._position = data, position
            return
        self._buffer += memoryview(data)[position:]

    def _refusal(self, first: int, length: int) -> Close | None:
        """The rule that a frame breaks by its first byte and its length, unless it breaks none."""
        opcode = first & 0x0F
        if first & 0x70:
            return protocol_error("reserved bit set")
        if opcode >= _OPCODE_CLOSE:
            if opcode > _OPCODE_PONG:
                return protocol_error("reserved opcode")
            if not first & 0x80:
                return protocol_error("fragmented control frame")
            if length > 125:
                return protocol_error("control frame too long")
            return None
        if opcode > 0x2:
            return protocol_error("reserved opcode")
        if opcode == 0 and self._fragments is None:
            return protocol_error("continuation of no message")
        if opcode != 0 and self._fragments is not None:
            return protocol_error("new message inside a fragmented one")
        if length + len(self._fragments or b"") > self._max_message_bytes:
            return MESSAGE_TOO_BIG
        return None

    def _control(self, opcode: int, payload: bytes, frame: bytes) -> None:
        self.others += 1
        self.idle += 1
        if opcode == _OPCODE_PING:
            del self.pings[: 1 - PINGS_KEPT]
            self.pings.append(frame)
        elif opcode == _OPCODE_CLOSE:
            if payload:
                code = int.from_bytes(payload[:2], "big")
                if len(payload) < 2 or not may_travel(code):
                    self.failure = protocol_error("bad close code")
                    return
                try:
                    payload[2:].decode()
                except UnicodeDecodeError:
                    self.failure = Close(1007, "close reason is not UTF-8")
                    return
                self.close_code = code
            self.close_frame = frame
        else:
            # It asks for no answer, and that bytes arrived at all is all that a heartbeat wants to know.
            self.pongs += 1

    def _fail(self, close: Close) -> None:
        self.failure = close
        self._fragments = None
