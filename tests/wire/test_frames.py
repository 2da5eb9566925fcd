"""WebSocket frames: RFC 6455's own examples, every rule, any chunking, and two other decoders as oracles."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig
from websockets.protocol import State
from websockets.server import ServerProtocol
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage
from wsproto.frame_protocol import CloseReason

from relayd.wire import frames
from relayd.wire.close import MESSAGE_TOO_BIG, Close
from relayd.wire.frames import (
    FRAMES_PER_BATCH,
    PINGS_KEPT,
    FrameDecoder,
    encode_close,
    encode_text,
)
from tests.wire.oracles import Reading, websockets_reading, wsproto_reading

CAP = 70_000
KEY = bytes.fromhex("37fa213d")
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, key: bytes = KEY) -> bytes:
    """A masked frame as a client sends it, made byte by byte as section 5.2 draws it."""
    length = len(payload)
    if length < 126:
        sized = bytes([0x80 | length])
    elif length < 0x10000:
        sized = b"\xfe" + length.to_bytes(2, "big")
    else:
        sized = b"\xff" + length.to_bytes(8, "big")
    masked = bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))
    return bytes([fin << 7 | rsv << 4 | opcode]) + sized + key + masked


def decode_all(decoder: FrameDecoder, chunks: Sequence[bytes]) -> list[bytes]:
    messages = []
    for chunk in chunks:
        messages += decoder.decode(chunk)
        while decoder.backlog:
            messages += decoder.decode(b"")
    return messages


# Lengths around every border of the format; cheap payloads, since only their length is of interest.
payloads = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([0, 1, 124, 125, 126, 127, 65535, 65536, CAP - 1, CAP]).map(
        lambda size: (b"0123456789abc" * (size // 13 + 1))[:size]
    ),
)
keys = st.binary(min_size=4, max_size=4)
controls = st.builds(
    frame, st.sampled_from([PING, PONG]), st.binary(max_size=125), key=keys
)  # what may stand between any two frames


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A valid stream of frames, and the messages in it."""
    wire, messages = b"", []
    for _ in range(draw(st.integers(1, 4))):
        message = draw(payloads)
        cuts = sorted(draw(st.lists(st.integers(0, len(message)), max_size=3)))
        parts = [message[start:end] for start, end in pairwise([0, *cuts, len(message)])]
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        for index, part in enumerate(parts):
            wire += b"".join(draw(st.lists(controls, max_size=1)))
            first = opcode if index == 0 else CONTINUATION
            wire += frame(first, part, fin=index == len(parts) - 1, key=draw(keys))
        messages.append(message)
    return wire, messages


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(streams(), st.data())
def test_any_chunking_of_a_valid_stream_gives_the_same_messages(
    stream: tuple[bytes, list[bytes]], data: st.DataObject
) -> None:
    wire, messages = stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    chunks = [wire[start:end] for start, end in pairwise([0, *cuts, len(wire)])]
    whole, chunked = FrameDecoder(CAP), FrameDecoder(CAP)
    assert decode_all(whole, [wire]) == messages
    assert decode_all(chunked, chunks) == messages
    assert (whole.failure, chunked.failure) == (None, None)
    assert whole.pings == chunked.pings
    assert not chunked.mid_message


def our_reading(wire: bytes) -> Reading:
    decoder = FrameDecoder(CAP)
    messages = decode_all(decoder, [wire])
    if decoder.failure is not None:
        return messages, "refused"
    return messages, None if decoder.close_frame is None else decoder.close_code or 1005


# Whole characters to a frame, because wsproto also checks the UTF-8 of text, which relayd's decoder
# leaves to the envelope. No 1014 among the close codes: wsproto does not know it.
any_data = st.builds(
    frame,
    st.one_of(st.sampled_from([CONTINUATION, TEXT, BINARY, PING, PONG]), st.sampled_from([3, 7, 11, 15])),
    st.text(max_size=70).map(str.encode),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0, 1, 2, 4]),
    key=keys,
)
any_close = st.builds(
    frame,
    st.just(CLOSE),
    st.one_of(
        st.binary(max_size=4),
        st.builds(
            lambda code, reason: code.to_bytes(2, "big") + reason,
            st.sampled_from([999, 1000, 1001, 1004, 1005, 1006, 1011, 1015, 2999, 3000, 4404, 4999, 5000]),
            st.one_of(st.text(max_size=30).map(str.encode), st.binary(max_size=6)),
        ),
    ),
    key=keys,
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(any_data, any_data, any_data, any_close), max_size=6).map(b"".join))
def test_any_frames_are_read_as_wsproto_and_websockets_read_them(wire: bytes) -> None:
    ours = our_reading(wire)
    assert ours == wsproto_reading(wire)
    assert ours == websockets_reading(wire)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(streams())
def test_valid_streams_are_read_as_websockets_reads_them(stream: tuple[bytes, list[bytes]]) -> None:
    assert websockets_reading(stream[0]) == our_reading(stream[0]) == (stream[1], None)


def test_the_size_cap_is_where_websockets_has_it() -> None:
    protocol = ServerProtocol(state=State.OPEN, max_size=CAP)
    protocol.receive_data(frame(TEXT, bytes(CAP + 1)))
    assert isinstance(protocol.parser_exc, PayloadTooBig)
    decoder = FrameDecoder(CAP)
    assert decoder.decode(frame(TEXT, bytes(CAP + 1))) == []
    assert decoder.failure == MESSAGE_TOO_BIG


# The masked examples of section 5.7, and its unmasked ones masked with the same key, since a server
# takes no others.
@pytest.mark.parametrize(
    ("wire", "messages"),
    [
        pytest.param("818537fa213d7f9f4d5158", [b"Hello"], id="single-frame masked text message"),
        pytest.param(
            frame(TEXT, b"Hel", fin=False).hex() + frame(CONTINUATION, b"lo").hex(),
            [b"Hello"],
            id="fragmented text message",
        ),
        pytest.param(frame(BINARY, bytes(256)).hex(), [bytes(256)], id="256 bytes binary message"),
        pytest.param(frame(BINARY, bytes(65536)).hex(), [bytes(65536)], id="64 KiB binary message"),
    ],
)
def test_rfc6455_section_5_7_data_examples(wire: str, messages: list[bytes]) -> None:
    assert FrameDecoder(CAP).decode(bytes.fromhex(wire)) == messages


def test_rfc6455_section_5_7_masked_ping_and_pong() -> None:
    decoder = FrameDecoder(CAP)
    ping = bytes.fromhex("898537fa213d7f9f4d5158")
    assert decoder.decode(ping + bytes.fromhex("8a8537fa213d7f9f4d5158")) == []
    assert list(decoder.pings) == [ping]
    assert not decoder.ended


def test_rfc6455_section_5_7_unmasked_text_message_is_what_a_server_sends() -> None:
    assert encode_text(b"Hello") == bytes.fromhex("810548656c6c6f")


OPEN = frame(TEXT, b"a", fin=False)


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(b"\x81\x05Hello", 1002, id="mask required"),
        pytest.param(frame(TEXT, rsv=4), 1002, id="RSV1"),
        pytest.param(frame(TEXT, rsv=2), 1002, id="RSV2"),
        pytest.param(frame(PING, rsv=1), 1002, id="RSV3 on a ping"),
        *(pytest.param(frame(op), 1002, id=f"opcode {op}") for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        *(pytest.param(frame(op, fin=False), 1002, id=f"fragmented {op}") for op in (CLOSE, PING, PONG)),
        *(pytest.param(frame(op, bytes(126)), 1002, id=f"long {op}") for op in (CLOSE, PING, PONG)),
        pytest.param(b"\x81\xfe\x00\x7d" + KEY, 1002, id="125 in 16 bits"),
        pytest.param(b"\x81\xff" + (65535).to_bytes(8, "big") + KEY, 1002, id="65535 in 64 bits"),
        pytest.param(b"\x81\xff\x80" + bytes(7) + KEY, 1002, id="top bit of a 64-bit length"),
        pytest.param(frame(CONTINUATION, b"a"), 1002, id="continuation of nothing"),
        pytest.param(OPEN + frame(TEXT, b"b"), 1002, id="new text inside a fragmented one"),
        pytest.param(OPEN + frame(BINARY, b"b", fin=False), 1002, id="new fragments inside a fragmented one"),
        pytest.param(frame(CLOSE, b"\x03"), 1002, id="close payload of one byte"),
        *(
            pytest.param(frame(CLOSE, code.to_bytes(2, "big")), 1002, id=f"close code {code}")
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
        ),
        pytest.param(frame(CLOSE, b"\x03\xe8\xff"), 1007, id="close reason is not UTF-8"),
        # The headers of what would be too big, without their payload.
        pytest.param(b"\x81\xff" + (CAP + 1).to_bytes(8, "big") + KEY, 1009, id="oversize, at its header"),
        pytest.param(OPEN + b"\x80\xff" + CAP.to_bytes(8, "big") + KEY, 1009, id="oversize by fragments"),
        pytest.param(b"\x01\xff" + (CAP + 1).to_bytes(8, "big") + KEY, 1009, id="oversize first fragment"),
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_a_broken_rule_ends_the_stream_with_its_code(wire: bytes, code: int, step: int) -> None:
    decoder = FrameDecoder(CAP)
    stream = frame(TEXT, b"before") + wire + frame(TEXT, b"after")
    chunks = [stream[at : at + step] for at in range(0, len(stream), step)]
    assert decode_all(decoder, chunks) == [b"before"]
    assert decoder.failure is not None
    assert decoder.failure.code == code
    assert decoder.ended
    assert decoder.decode(frame(TEXT, b"later")) == []


def test_an_oversize_frame_is_refused_before_its_payload_arrives() -> None:
    decoder = FrameDecoder(10)
    decoder.decode(b"\x81\x8b" + KEY)
    assert decoder.failure == MESSAGE_TOO_BIG


@settings(deadline=None)
@given(payloads, keys)
def test_unmasking_without_the_compiled_helper_gives_the_same(payload: bytes, key: bytes) -> None:
    masked = frame(BINARY, payload, key=key)[-len(payload) :] if payload else b""
    assert frames._unmask_with_integers(masked, key) == payload == frames._unmask(masked, key)


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"", None), (b"\x03\xe8", 1000), (b"\x03\xe9bye", 1001), (b"\x0f\xa0" + "é".encode(), 4000)],
)
def test_a_close_frame_is_kept_whole_and_nothing_is_read_after_it(payload: bytes, code: int | None) -> None:
    decoder = FrameDecoder(CAP)
    close = frame(CLOSE, payload)
    assert decoder.decode(frame(TEXT, b"a") + close + frame(TEXT, b"b") + frame(PING)) == [b"a"]
    assert (decoder.close_frame, decoder.close_code, decoder.failure) == (close, code, None)
    assert not decoder.pings
    assert decoder.decode(frame(TEXT, b"c")) == []


def test_a_batch_is_bounded_and_backlog_says_that_frames_are_left() -> None:
    decoder = FrameDecoder(CAP)
    assert len(decoder.decode(frame(TEXT, b"x") * (FRAMES_PER_BATCH + 1))) == FRAMES_PER_BATCH
    assert decoder.backlog
    assert decoder.decode(b"") == [b"x"]
    assert not decoder.backlog
    assert not decoder.mid_message


@pytest.mark.parametrize("begun", [0, 1, 6, 8])
def test_a_batch_is_as_large_as_was_asked_for_also_when_its_first_frame_has_begun_before(begun: int) -> None:
    stream = frame(TEXT, b"xyz") * 10
    decoder = FrameDecoder(CAP)
    assert decoder.decode(stream[:begun]) == []
    batches = [decoder.decode(stream[begun:], 4)]
    while decoder.backlog:
        batches.append(decoder.decode(b"", 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]


def test_what_is_fed_on_top_of_a_backlog_comes_after_it() -> None:
    decoder = FrameDecoder(CAP)
    numbers = [b"%d" % number for number in range(FRAMES_PER_BATCH + 3)]
    stream = b"".join(frame(TEXT, number) for number in numbers)
    messages = decoder.decode(stream[:-1])
    assert decoder.mid_message
    messages += decoder.decode(stream[-1:])
    assert messages == numbers
    assert not decoder.mid_message


def test_of_many_pings_the_latest_are_kept() -> None:
    decoder = FrameDecoder(CAP)
    pings = [frame(PING, b"%d" % number) for number in range(PINGS_KEPT + 5)]
    decoder.decode(b"".join(pings))
    assert list(decoder.pings) == pings[-PINGS_KEPT:]


def test_mid_message_from_the_first_byte_to_the_last_of_the_last_fragment() -> None:
    decoder = FrameDecoder(CAP)
    assert not decoder.mid_message
    wire = frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b")
    for byte in wire[:-1]:
        assert decoder.decode(bytes([byte])) == []
        assert decoder.mid_message
    assert decoder.decode(wire[-1:]) == [b"ab"]
    assert not decoder.mid_message


class _CountingBuffer(bytearray):
    """Counts how often the decoder takes everything out of it, to look for a frame."""

    looks = 0

    def clear(self) -> None:
        self.looks += 1
        super().clear()


@pytest.mark.parametrize("size", [100, 1_000, CAP])
def test_a_frame_that_dribbles_in_is_looked_at_four_times_whatever_its_size(size: int) -> None:
    # Two bytes, the whole header, the whole frame; one more for what a step too far would cost.
    decoder = FrameDecoder(CAP)
    buffer = decoder._buffer = _CountingBuffer()
    wire = frame(TEXT, bytes(size))
    assert decode_all(decoder, [wire[at : at + 1] for at in range(len(wire))]) == [bytes(size)]
    assert buffer.looks <= 4


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 262144])
def test_what_relayd_sends_is_one_text_message_to_other_implementations(size: int) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(encode_text(b"x" * size))
    events = list(client.events())
    text = "".join(event.data for event in events if isinstance(event, TextMessage))
    assert text == "x" * size
    assert len(events) == sum(isinstance(event, TextMessage) for event in events)


@pytest.mark.parametrize("close", [Close(1000), Close(4404, "binary is gone"), Close(1011, "é" * 61)])
def test_a_close_that_relayd_sends_is_read_by_wsproto(close: Close) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(encode_close(close))
    (event,) = client.events()
    assert isinstance(event, CloseConnection)
    assert (int(CloseReason(event.code) if event.code < 3000 else event.code), event.reason or "") == (
        close.code,
        close.reason,
    )
