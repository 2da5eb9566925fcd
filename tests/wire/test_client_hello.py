"""What a TLS client asks for, read from real ClientHellos and from what is none."""

import contextlib
import ssl
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.client_hello import BadClientHello, ClientHello, ClientHelloReader, ClientHelloTooLong


def parse_client_hello(data: bytes) -> ClientHello | None:
    return ClientHelloReader().feed(data)


def hello(server_name: str | None, protocols: list[str]) -> bytes:
    """What OpenSSL says first."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(protocols)
    context.check_hostname = server_name is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(data: bytes, size: int) -> bytes:
    """The same handshake message, in records of ``size`` bytes."""
    message = data[5:]
    parts = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in parts)


@pytest.mark.parametrize(
    ("server_name", "protocols"),
    [(None, []), ("Relay.example.org", []), ("relay.example.org", ["http/1.1"]), ("a.b", ["acme-tls/1", "h2"])],
)
def test_name_and_protocols_of_a_real_client_are_found_and_not_before_all_of_it_is_there(
    server_name: str | None, protocols: list[str]
) -> None:
    data = hello(server_name, protocols)
    found = ClientHello((server_name or "").lower(), tuple(name.encode() for name in protocols))
    assert parse_client_hello(data) == found
    assert parse_client_hello(data + b"\x14\x03\x03\0\x01\x01") == found
    for end in range(len(data)):
        assert parse_client_hello(data[:end]) is None


@pytest.mark.parametrize("size", [1, 3, 100])
def test_client_hello_may_come_in_several_records(size: int) -> None:
    assert parse_client_hello(in_records(hello("a.b", ["x"]), size)) == ClientHello("a.b", (b"x",))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\x16\x03\x01\0\0",  # an empty record
        b"\x16\x03\x01\x40\x01",  # a record that is too large
        b"\x16\x03\x01\0\x04\x02\0\0\0",  # a ServerHello
        b"\x16\x03\x01\0\x04\x01\xff\xff\xff",  # too long a message
        b"\x16\x03\x01\0\x05\x01\0\0\x01\x03",  # too short a message
        b"\x15\x03\x01\0\x02\x01\0",  # an alert
    ],
)
def test_what_is_no_client_hello_is_refused(data: bytes) -> None:
    with pytest.raises(BadClientHello):
        parse_client_hello(data)


REAL = hello("relay.example.org", ["http/1.1", "acme-tls/1"])


@given(st.binary(max_size=400), st.integers(0, 400), st.booleans())
def test_no_bytes_whatever_raise_anything_else(data: bytes, place: int, splice: bool) -> None:
    if splice:
        place %= len(REAL)
        data = REAL[:place] + data + REAL[place + len(data) :]
    with contextlib.suppress(BadClientHello):
        parse_client_hello(data)


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("cut", [1, 6, 11, 1_000])
def test_reads_may_be_cut_anywhere(size: int, cut: int) -> None:
    data = in_records(REAL, size)
    reader = ClientHelloReader()
    pieces = [data[start : start + cut] for start in range(0, len(data), cut)]
    found = [reader.feed(piece) for piece in pieces]
    assert found == [None] * (len(pieces) - 1) + [
        ClientHello("relay.example.org", (b"http/1.1", b"acme-tls/1"))
    ]


def lines_run(data: bytes) -> int:
    """How many lines of relayd's it takes to read ``data`` in pieces of one record of one byte."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        nonlocal lines
        if frame.f_globals.get("__name__") != ClientHelloReader.__module__:
            return None
        lines += event == "line"
        return trace

    reader, before = ClientHelloReader(), sys.gettrace()
    sys.settrace(trace)
    try:
        for start in range(0, len(data), 6):
            assert reader.feed(data[start : start + 6]) is None
    finally:
        sys.settrace(before)
    return lines


def test_a_client_that_sends_a_byte_to_a_record_costs_the_same_for_each() -> None:
    message = b"\x01\0\x40\0" + bytes(0x4000)
    data = in_records(b"\x16\x03\x01\0\0" + message, 1)
    few, many = lines_run(data[: 6 * 100]), lines_run(data[: 6 * 1_000])
    assert few < many <= 10 * few


CHANGE_CIPHER_SPEC = b"\x14\x03\x03\0\x01\x01"


@pytest.mark.parametrize("size", [1, 100, 5000])
@pytest.mark.parametrize("behind", [b"", CHANGE_CIPHER_SPEC, b"\x16\x03\x03\0\x01\x01"])
def test_what_a_client_hello_takes_ends_with_its_last_record(size: int, behind: bytes) -> None:
    data = in_records(hello("a.b", []), size)
    reader = ClientHelloReader()
    assert reader.feed(data + behind) == ClientHello("a.b")
    assert reader.taken == len(data)


def test_a_change_cipher_spec_may_stand_before_the_second_client_hello_alone() -> None:
    data = CHANGE_CIPHER_SPEC + hello("a.b", [])
    with pytest.raises(BadClientHello):
        parse_client_hello(data)
    reader = ClientHelloReader(second=True)
    assert [reader.feed(data[i : i + 1]) for i in range(len(data))][-1] == ClientHello("a.b")
    assert reader.taken == len(data)


@pytest.mark.parametrize("second", [False, True])
def test_a_client_hello_that_is_said_to_be_too_long_is_refused_by_its_first_four_bytes(second: bool) -> None:
    with pytest.raises(ClientHelloTooLong):
        ClientHelloReader(second=second).feed(b"\x16\x03\x01\x40\x00" + b"\x01\x00\x40\x01")
