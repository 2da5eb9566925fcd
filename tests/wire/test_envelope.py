"""The routing envelope: what is taken, what is malformed, and that a frame is never changed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.envelope import (
    Envelope,
    Malformed,
    close_notice,
    decode_envelope,
    envelope_prefix,
    is_json,
)
from tests.wire.cost import least_time

SURROGATES = rb'"\ud800 \uDFFF \udead"'
FRAMES = [
    b'"text"',
    b"0",
    b"-1.5e-7",
    b"1e99999",
    b"9" * 5000,
    b"true",
    b"false",
    b'""',
    b"{}",
    b"[]",
    b'{"b" : 1,\t"a":[ ] }',
    rb'"\u0000"',
    '"é😀"'.encode(),
    rb'"\ud83d\ude00"',
    SURROGATES,
    # All that might stand in for the "d" of a surrogate is there itself.
    rb'"\ud800 \ue800 \uE800 \uc800 \uC800 \uDFFF \uefff \uCFFF"',
    b'"' + b"".join(rb"\u%c800" % digit for digit in b"0123456789abcdefABCDEF") + b'"',
    b'{"\\ud800":"d","\\ue800":"\\uDEAD","D":"c"}',
    rb'"\\ud800 \ud800 \\\ud800"',
]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("space", [b"", b" \t\r\n"])
def test_a_frame_comes_out_verbatim(frame: bytes, space: bytes) -> None:
    message = space.join([b"{", b'"frame"', b":", frame, b",", b'"conn_id"', b":", b'"c-1"', b"}"])
    assert decode_envelope(message) == ("c-1", frame, 0)
    assert is_json(space + frame + space)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(json_values, st.booleans(), st.sampled_from([None, 0, 3]), st.text(" \t\r\n", max_size=4))
def test_any_json_value_survives_both_ways(
    value: Any, ascii_only: bool, indent: int | None, space: str
) -> None:
    frame = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    white = space.encode()
    spliced = envelope_prefix("c-1") + white + frame + white + b"}"
    assert json.loads(spliced) == {"conn_id": "c-1", "frame": value}
    if value is None:
        with pytest.raises(Malformed):
            decode_envelope(spliced)
    else:
        assert decode_envelope(spliced) == ("c-1", frame, 0)


@given(st.text('{}[]",:\\ud80e1.-+ntrf \n\x00', max_size=12))
def test_a_message_is_json_exactly_when_the_json_module_says_so(text: str) -> None:
    try:
        json.loads(text)
    except ValueError:
        valid = False
    else:
        valid = True
    assert is_json(text.encode()) == valid


@pytest.mark.parametrize(
    ("message", "envelope"),
    [
        (b'{"conn_id":"a","conn_id":"b","frame":1,"frame":2}', ("b", b"2", 0)),
        (rb'{"conn_id":"\u0063-1","frame":1}', ("c-1", b"1", 0)),
        (rb'{"conn_\u0069d":"c","frame":1}', ("c", b"1", 0)),
        (b'{"conn_id":"c","frame":1,"other":[{}],"x":null}', ("c", b"1", 0)),
        (b'{"conn_id":"c","close_code":4401}', ("c", b"", 4401)),
        (b'{"conn_id":"c","frame":null,"close_code":4401}', ("c", b"", 4401)),
        (b'{"conn_id":"c","frame":{},"close_code":4401}', ("c", b"{}", 4401)),
        (b'{"push_wake":{"token":"t"}}', ("", b"", 0)),
        (b'{"conn_id":"c","frame":1,"push_wake":{}}', ("c", b"1", 0)),
    ],
)
def test_an_envelope_is_read(message: bytes, envelope: Envelope) -> None:
    assert decode_envelope(message) == envelope


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{}",
        b"[]",
        b'"a"',
        b"null",
        b'{"conn_id":"c"}',
        b'{"conn_id":"c","frame":null}',
        b'{"frame":1}',
        b'{"conn_id":1,"frame":1}',
        b'{"conn_id":null,"frame":1}',
        b'{"push_wake":1}',
        b'{"push_wake":null}',
        b'{"push_wake":{},"close_code":1005}',
        b'{"conn_id":"c","frame":NaN}',
        b'{"conn_id":"c","frame":1}x',
        b'{"conn_id":"c","frame":1}{}',
        b'{"conn_id":"c","frame":1}\x00',
        b'\xef\xbb\xbf{"conn_id":"c","frame":1}',
        b'{"conn_id":"c","frame":"\x00"}',
        b'{"conn_id":"c","frame":' + b"[" * 262144,
    ],
    ids=lambda message: repr(message[:40]),
)
def test_an_envelope_is_malformed(message: bytes) -> None:
    with pytest.raises(Malformed):
        decode_envelope(message)


def test_256_kib_of_brackets_are_not_json() -> None:
    assert not is_json(b"[" * 262144)


def read_both_ways(frame: bytes) -> None:
    assert is_json(frame)
    assert decode_envelope(envelope_prefix("c-1") + frame + b"}") == ("c-1", frame, 0)


@pytest.mark.parametrize("escapes", [rb"\ud800", rb"\uDFFF\udfff"])
def test_lone_surrogates_cost_no_more_than_other_escapes_times_a_few(escapes: bytes) -> None:
    # By the processor's time, and the least of several: what else runs here adds to any of them, but not to
    # all. Both texts are of one length, so a slow machine is slow with both. Measured: four times as
    # much for the second parse and what leads to it, where a scan for each digit made it 37 times.
    times = 240_000 // len(escapes)
    plain = b'"' + rb"\u00e9" * (len(escapes) // 6 * times) + b'"'
    text = b'"' + escapes * times + b'"'
    assert len(text) == len(plain)
    assert least_time(lambda: read_both_ways(text)) < 8 * least_time(lambda: read_both_ways(plain))


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_invalid_utf8_is_malformed_at_every_position(bad: bytes) -> None:
    message = rb'{"conn_id":"c","x":"yy","frame":"\ud800"}'
    for at in range(len(message) + 1):
        broken = message[:at] + bad + message[at:]
        assert not is_json(broken)
        with pytest.raises(Malformed):
            decode_envelope(broken)


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
def test_a_close_code_that_may_travel_is_taken(code: int) -> None:
    assert decode_envelope(close_notice("c", code)) == ("c", b"", code)


@pytest.mark.parametrize(
    "code",
    [
        "999",
        "1004",
        "1005",
        "1006",
        "1015",
        "2999",
        "5000",
        "0",
        "-1",
        "1000.5",
        "1e3",
        "true",
        "null",
        '"1000"',
        "100000000000000000000000",
    ],
)
def test_any_other_close_code_is_malformed(code: str) -> None:
    with pytest.raises(Malformed):
        decode_envelope(b'{"conn_id":"c","frame":1,"close_code":%s}' % code.encode())
