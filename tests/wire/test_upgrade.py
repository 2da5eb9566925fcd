"""The routing headers of an upgrade."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.upgrade import BadHeaders, BinaryHello, PhoneHello, binary_hello, phone_hello

SERVER = (b"x-pyrycode-server", b"s")
VERSION = (b"x-pyrycode-version", b"1")
TOKEN = (b"x-pyrycode-token", b"secret")
AGENT = (b"user-agent", b"test")
DEVICE = b"x-pyrycode-device-name"
LONG = 65536
BINARY = [SERVER, VERSION, AGENT]
PHONE = [SERVER, TOKEN, AGENT]


def test_complete_headers_are_read() -> None:
    assert binary_hello(BINARY) == BinaryHello("s", "1")
    assert phone_hello(PHONE, require_token=True) == PhoneHello("s", "")


@pytest.mark.parametrize("absent", range(3))
@pytest.mark.parametrize("empty", [True, False])
def test_a_required_header_must_be_there_and_not_empty(absent: int, empty: bool) -> None:
    def without(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        name = headers[absent][0]
        return [header for header in headers if header[0] != name] + ([(name, b"")] if empty else [])

    with pytest.raises(BadHeaders):
        binary_hello(without(BINARY))
    with pytest.raises(BadHeaders):
        phone_hello(without(PHONE), require_token=True)


def test_the_token_may_be_left_out_when_it_is_not_required() -> None:
    assert phone_hello([SERVER, AGENT], require_token=False) == PhoneHello("s", "")


@pytest.mark.parametrize("good", [b"a" * 128, bytes(range(0x20, 0x7F))])
def test_a_server_id_is_up_to_128_bytes_of_printable_ascii(good: bytes) -> None:
    assert binary_hello([(SERVER[0], good), VERSION, AGENT]).server_id == good.decode()


@pytest.mark.parametrize("bad", [b"a" * 129, b"a\x1f", b"a\x7f", b"a\tb", "é".encode(), b"\xff", b"\x00"])
def test_any_other_server_id_is_refused(bad: bytes) -> None:
    with pytest.raises(BadHeaders):
        binary_hello([(SERVER[0], bad), VERSION, AGENT])
    with pytest.raises(BadHeaders):
        phone_hello([(SERVER[0], bad), TOKEN, AGENT], require_token=True)


@pytest.mark.parametrize("name", [SERVER[0], TOKEN[0], DEVICE])
def test_a_repeated_routing_header_is_refused(name: bytes) -> None:
    with pytest.raises(BadHeaders):
        phone_hello([*PHONE, (DEVICE, b"d"), (name, b"d")], require_token=True)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"Pixel 9", "Pixel 9"),
        ("Küche 😀".encode(), "Küche 😀"),
        (b"d" * 129, "d" * 128),
        ("é".encode() * 129, "é" * 128),
        (b"a\x1b[31m\nb", "a\\x1b[31m\\nb"),
        ("a\u202eb\u2028".encode(), "a\\u202eb\\u2028"),
        (b"a\xffb", "a\\xffb"),
    ],
)
def test_a_device_name_is_cut_and_its_control_characters_escaped(sent: bytes, shown: str) -> None:
    assert phone_hello([*PHONE, (DEVICE, sent)], require_token=True).device_name == shown


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([b"a", "ü".encode(), "字".encode(), "😀".encode(), b"\xf0", b"\x9f"]), max_size=300
    )
)
def test_of_a_device_name_no_more_is_read_than_is_shown(pieces: list[bytes]) -> None:
    value = b"".join(pieces)
    shown = (value.decode("utf-8", "backslashreplace") + r"\xff" * 32)[:128]
    headers = [*PHONE, (DEVICE, value + b"\xff" * LONG)]
    tracemalloc.start()
    try:
        assert phone_hello(headers, require_token=True).device_name == shown
        assert tracemalloc.get_traced_memory()[1] < LONG // 4
    finally:
        tracemalloc.stop()
