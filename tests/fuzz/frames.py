"""The frame decoder: the same in any cuts, and what RFC 6455 and `websockets` make of the same bytes."""

from io import BytesIO
from itertools import cycle
from operator import xor

from attrs import Factory, frozen

from relayd.wire.close import may_travel
from relayd.wire.frames import PINGS_KEPT, FrameDecoder
from tests.fuzz.cuts import cut
from tests.wire.oracles import websockets_reading

LONGEST = 600
WORDS = (
    b"\x81\x80",
    b"\x01\x80",
    b"\x80\x80",
    b"\x82\xfe",
    b"\x82\xff\0\0\0\0\0\x01\0\0",
    b"\x88\x82",
    b"\x89\x80",
    b"\x8a\x80",
    b"\x03\xe8",
)

SEEDS = (
    # Too big by its fragments alone: a cap of 7 bytes, twice 5.
    b"\1\0\xff\xff\xff\0\3\5" + b"\x01\x85abcd12345" + b"\x80\x85abcd12345",
    b"\1\0\xff\xff\xff\0\3\5" + b"\x01\x85abcd12345" + b"\x89\x80abcd" + b"\x80\x82abcd12",
    # Each reserved bit, and each length in a form that is too long for it.
    *(b"\4\0\xff\xff\xff\0\3\5" + bytes([first]) + b"\x80abcd" for first in (0xC1, 0xA1, 0x91, 0x83, 0x8B)),
    b"\4\0\xff\xff\xff\0\3\5" + b"\x81\xfe\0\1abcd1",
    b"\4\0\xff\xff\xff\0\3\5" + b"\x81\xff\0\0\0\0\0\0\0\1abcd1",
    b"\4\0\xff\xff\xff\0\3\5" + b"\x88\x81abcd1",
)

_CAPS = (0, 7, 125, 300, 70_000)
_LONGEST_FILL = 70_000


@frozen
class _Outcome:
    messages: list[bytes]
    failure: int | None = None
    """The code that a broken rule has earned."""
    close_code: int | None = None
    """Of a Close frame; 1005 if it has none."""
    pings: list[bytes] = Factory(list)
    pongs: int = 0
    mid_message: bool | None = None
    """None once the stream has ended, as it then says nothing."""


def check(data: bytes) -> None:
    """Decode a stream; the first bytes say how it is cut, and where a run of zeros makes it long."""
    if len(data) < 8:
        return
    cap = _CAPS[data[0] % len(_CAPS)]
    most = data[1] or 256
    fill = int.from_bytes(data[2:5], "big")
    stream = data[8:]
    if fill <= _LONGEST_FILL:
        at = len(stream) * data[5] // 255
        stream = stream[:at] + bytes(fill) + stream[at:]
    # Long streams in longer pieces: one byte at a time is for streams as short as almost all are.
    shortest = len(stream) // 500
    whole = _decoded([stream], cap, 256)
    assert whole == _decoded(cut(stream, shortest + data[6], shortest + data[7] + 1), cap, most)
    assert whole == _decoded(cut(stream, shortest + 1, shortest + 1), cap, most)
    assert whole == _as_rfc6455_says(stream, cap)
    _compare_with_websockets(stream, cap, whole)


def _decoded(pieces: list[bytes], cap: int, most: int) -> _Outcome:
    decoder = FrameDecoder(cap)
    messages: list[bytes] = []
    for piece in pieces:
        batch = decoder.decode(piece, most)
        assert len(batch) <= most
        messages += batch
        while decoder.backlog:
            messages += decoder.decode(b"", most)
    if decoder.ended:
        assert decoder.decode(b"\x81\x80\0\0\0\0") == []
    assert all(len(message) <= cap for message in messages)
    code = None if decoder.close_frame is None else decoder.close_code or 1005
    pings = [_unmasked(frame[6:], frame[2:6]) for frame in decoder.pings]
    return _Outcome(
        messages,
        None if decoder.failure is None else decoder.failure.code,
        code,
        pings,
        decoder.pongs,
        None if decoder.ended else decoder.mid_message,
    )


def _unmasked(payload: bytes, key: bytes) -> bytes:
    return bytes(map(xor, payload, cycle(key)))


def _as_rfc6455_says(stream: bytes, cap: int) -> _Outcome:
    """Section 5, read a frame at a time from a whole stream: slow, and without any state to get wrong."""
    reader = BytesIO(stream)
    messages: list[bytes] = []
    parts: list[bytes] | None = None
    pings: list[bytes] = []
    pongs = 0

    def outcome(**ending: int | bool | None) -> _Outcome:
        return _Outcome(messages, pings=pings[-PINGS_KEPT:], pongs=pongs, **ending)  # type: ignore[arg-type]

    while True:
        first, second = reader.read(1), reader.read(1)
        if not second:
            return outcome(mid_message=bool(first) or parts is not None)
        final, reserved, opcode = first[0] >> 7, first[0] >> 4 & 7, first[0] & 15
        length = second[0] & 127
        minimum = 0
        if not second[0] & 128:
            return outcome(failure=1002)
        if length > 125:
            # Such a header is judged when it is whole, its key included.
            size, minimum = (2, 126) if length == 126 else (8, 65536)
            extended = reader.read(size + 4)
            if len(extended) < size + 4:
                return outcome(mid_message=True)
            length, key = int.from_bytes(extended[:size], "big"), extended[size:]
        else:
            key = reader.read(4)
        control = opcode >= 8
        if (
            reserved
            or opcode not in (0, 1, 2, 8, 9, 10)
            or not minimum <= length < 1 << 63
            or (control and (not final or length > 125))
            or (opcode == 0 and parts is None)
            or (opcode in (1, 2) and parts is not None)
        ):
            return outcome(failure=1002)
        if not control and length + sum(map(len, parts or [])) > cap:
            return outcome(failure=1009)
        # Never for a length that the stream cannot have.
        payload = _unmasked(reader.read(min(length, len(stream))), key)
        if len(payload) < length or len(key) < 4:
            return outcome(mid_message=True)
        if opcode == 9:
            pings.append(payload)
        elif opcode == 10:
            pongs += 1
        elif opcode == 8:
            if not payload:
                return outcome(close_code=1005)
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or not may_travel(code):
                return outcome(failure=1002)
            try:
                payload[2:].decode()
            except UnicodeDecodeError:
                return outcome(failure=1007)
            return outcome(close_code=code)
        else:
            parts = [*(parts or []), payload]
            if final:
                messages.append(b"".join(parts))
                parts = None


def _compare_with_websockets(stream: bytes, cap: int, ours: _Outcome) -> None:
    messages, ending = websockets_reading(stream)
    if ours.failure is not None:
        # It takes lengths that are not minimal, has no cap here, and waits for the payload before it judges.
        assert messages[: len(ours.messages)] == ours.messages
        return
    if ending == "refused" and ours.mid_message:
        # It judges an opcode before the rest of the header is there.
        assert _decoded([stream + bytes(14)], cap, 256).failure == 1002
        ending = None
    assert (messages, ending) == (ours.messages, ours.close_code)
