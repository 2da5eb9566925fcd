"""Request heads as bytes; h11, a parser that forgives more than ours, is the oracle for what ours takes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.head import BadHead, Head, may_become_head, parse_head
from tests.wire.cost import least_time
from tests.wire.oracles import h11_reading

GOOD = b"GET /v1/client?a=b HTTP/1.1\r\nHost: relay\r\nX-Two: \t a \t b \r\nx-two:\r\n\r\n"

NAMES = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=9).map(str.encode)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)
FIELDS = st.lists(st.tuples(NAMES, VALUES.map(lambda text: text.encode("latin-1"))), max_size=5)


def head_of(fields: list[tuple[bytes, bytes]]) -> bytes:
    lines = [b"%b: %b\r\n" % field for field in [(b"Host", b"relay"), *fields]]
    return b"GET / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n"


def test_head_is_read() -> None:
    fields = [(b"host", b"relay"), (b"x-two", b"a \t b"), (b"x-two", b"")]
    head = parse_head(GOOD)
    assert head == Head(b"GET", b"/v1/client?a=b", 1, fields)
    assert head.values(b"x-two") == [b"a \t b", b""]
    assert parse_head(b"PUT / HTTP/1.0\r\n\r\n") == Head(b"PUT", b"/", 0, [])


def test_control_characters_of_a_value_are_kept_for_whoever_escapes_them() -> None:
    assert parse_head(head_of([(b"x", b"a\x1b\x7f\x85b")])).fields[1] == (b"x", b"a\x1b\x7f\x85b")


@settings(deadline=None)
@given(FIELDS)
def test_what_is_well_formed_is_read_as_h11_reads_it(fields: list[tuple[bytes, bytes]]) -> None:
    data = head_of(fields)
    theirs = h11_reading(data)
    try:
        ours = parse_head(data)
    except BadHead:
        # A second Host or a length that is none.
        assert any(name.lower() in (b"host", b"content-length") for name, _ in fields)
    else:
        assert ours == theirs


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=2), st.integers(0, 2))
def test_what_is_taken_after_a_mutation_is_what_h11_takes(at: int, inserted: bytes, cut: int) -> None:
    data = GOOD[:at] + inserted + GOOD[at + cut :]
    try:
        ours = parse_head(data)
    except BadHead:
        return
    theirs = h11_reading(data)
    if theirs is None:
        # The one thing that h11 refuses and we do not.
        assert any(byte < 0x20 or byte == 0x7F for byte in inserted)
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    ("line", "codings"),
    [
        (b"GET / HTTP/1.1\r\nHost: a", [b"identity"]),
        (b"GET / HTTP/1.1\r\nHost: a", [b"chunked, gzip"]),
        (b"GET / HTTP/1.1\r\nHost: a", [b"ch\xc6unked"]),
        (b"GET / HTTP/1.1\r\nHost: a", [b""]),
        (b"GET / HTTP/1.1\r\nHost: a", [b"chunked", b"chunked"]),
        (b"GET / HTTP/1.0", [b"chunked"]),
    ],
)
def test_a_body_whose_end_a_proxy_may_see_elsewhere_is_refused(line: bytes, codings: list[bytes]) -> None:
    fields = b"".join(b"Transfer-Encoding: %b\r\n" % coding for coding in codings)
    with pytest.raises(BadHead):
        parse_head(b"%b\r\n%b\r\n" % (line, fields))


@pytest.mark.parametrize("length", [b"", b"-1", b"1,1", b"0x1", b"9" * 19])
def test_a_length_that_a_proxy_may_read_otherwise_is_refused(length: bytes) -> None:
    with pytest.raises(BadHead):
        parse_head(head_of([(b"Content-Length", length)]))
    assert parse_head(head_of([(b"Content-Length", b"9" * 18)])).values(b"content-length") == [b"9" * 18]


def test_a_body_in_chunks_is_a_body_like_another() -> None:
    head = parse_head(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n")
    assert head.values(b"transfer-encoding") == [b"Chunked"]


def test_head_without_its_empty_line_is_none() -> None:
    for data in (GOOD[:-2], GOOD[:-2] + b"  ", b"GET / HTTP/1.0\r\n", b"GET / HTTP/1.0\r\n\0\0"):
        with pytest.raises(BadHead):
            parse_head(data)


@settings(deadline=None)
@given(FIELDS)
def test_every_beginning_of_a_head_may_become_one(fields: list[tuple[bytes, bytes]]) -> None:
    data = head_of(fields)
    assert [end for end in range(len(data)) if not may_become_head(data[:end])] == []


@settings(deadline=None)
@given(
    st.sampled_from([b"", GOOD[:-4]]),
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"GET /", b" a:"]), max_size=5),
)
def test_what_is_known_of_a_beginning_need_not_be_looked_at_again(start: bytes, more: list[bytes]) -> None:
    whole = start + b"".join(more)
    for known in range(len(whole) + 1):
        if may_become_head(whole[:known]):
            assert may_become_head(whole, known) == may_become_head(whole)


def test_a_head_byte_by_byte_takes_time_that_grows_with_its_length_alone() -> None:
    def bytes_behind(size: int) -> None:
        data = bytearray(b"GET / HTTP/1.1\r\na: " + bytes(size))
        for _ in range(1024):
            data += b"b"
            assert may_become_head(data, len(data) - 1)
        assert not may_become_head(data + b"\n", len(data))

    # What stands before costs nothing, be it a head or 64 times as much; looked at again, 40 times as much.
    assert least_time(lambda: bytes_behind(1024 * 1024)) < 8 * least_time(lambda: bytes_behind(16 * 1024))


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"\x16\x03\x01",
        b"\xff",
        b" ",
        b"\r\n",
        b"GET /\n",
        b"GET  ",
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1 x",
        b"HELO a\r\n",
        b"GET http:",
        b"OPTIONS *",
        b"CONNECT relay:443",
    ],
)
def test_what_cannot_become_a_head_is_known_at_once(data: bytes) -> None:
    assert not may_become_head(data)
    with pytest.raises(BadHead):
        parse_head(data + b"\r\n\r\n")
