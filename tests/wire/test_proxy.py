"""PROXY headers as bytes, against an encoder of our own and against the specification's words."""

import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.address import Source
from relayd.wire.proxy import MAX_HEADER_BYTES, BadProxyHeader, ProxyHeader, decode_proxy_header
from tests.proxy_headers import LOCAL, SIGNATURE, crc32c, tlv, v1, v2

PORTS = st.integers(0, 65535)
PAIRS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
TLVS = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=40)), max_size=4
)


def seen_by_a_server(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def outcome(data: bytes) -> ProxyHeader | type[BadProxyHeader] | None:
    try:
        return decode_proxy_header(data)
    except BadProxyHeader:
        return BadProxyHeader


def assert_needs_all_of(header: bytes) -> None:
    """No beginning of ``header`` is a header, none is bad, and what follows it is not looked at."""
    assert [end for end in range(len(header)) if outcome(header[:end]) is not None] == []
    whole = outcome(header)
    assert isinstance(whole, ProxyHeader)
    assert whole.length == len(header)
    assert outcome(header + b"PROXY TCP4 9.9.9.9 9.9.9.9 9 9\r\n") == whole
    assert outcome(header + bytes(5000)) == whole


@settings(deadline=None)
@given(PAIRS, PORTS, PORTS, TLVS, st.booleans())
def test_what_a_version_2_encoder_writes_is_read(
    pair: tuple[IPv4Address, IPv4Address],
    source: int,
    destination: int,
    tlvs: list[tuple[int, bytes]],
    crc: bool,
) -> None:
    extra = b"".join(tlv(kind, value) for kind, value in tlvs)
    header = v2((str(pair[0]), source), (str(pair[1]), destination), tlvs=extra, checksum=crc)
    expected = ProxyHeader(len(header), "proxied", Source(seen_by_a_server(pair[0]), source))
    assert outcome(header) == expected
    assert_needs_all_of(header)


@settings(deadline=None)
@given(PAIRS, PORTS, PORTS)
def test_what_a_version_1_encoder_writes_is_read(
    pair: tuple[IPv4Address, IPv4Address], source: int, destination: int
) -> None:
    header = v1(str(pair[0]), str(pair[1]), source, destination)
    assert outcome(header) == ProxyHeader(len(header), "proxied", Source(seen_by_a_server(pair[0]), source))
    assert_needs_all_of(header)


@settings(deadline=None)
@given(st.ip_addresses(v=6), PORTS)
def test_an_ipv6_address_may_be_written_as_inet_ntop_writes_it(address: IPv6Address, port: int) -> None:
    """HAProxy and curl write IPv4-mapped addresses so: with dots."""
    written = socket.inet_ntop(socket.AF_INET6, address.packed)
    header = v1(written, written, port, port)
    assert outcome(header) == ProxyHeader(len(header), "proxied", Source(seen_by_a_server(address), port))


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (b"PROXY UNKNOWN\r\n", "unknown"),
        (b"PROXY UNKNOWN \r\n", "unknown"),
        (b"PROXY UNKNOWN TCP4 1.2.3.4 \xff\0 anything\r\n", "unknown"),
        (b"PROXY UNKNOWN ffff:f:f:f:f:f:f:ffff ffff:f:f:f:f:f:f:ffff 65535 65535\r\n", "unknown"),
        (LOCAL, "local"),
        (SIGNATURE + b"\x20\x11\0\x0c" + bytes(12), "local"),
        (SIGNATURE + b"\x20\xff\0\x05abcde", "local"),
        (SIGNATURE + b"\x21\0\0\0", "unspec"),
        (SIGNATURE + b"\x21\0\0\x03" + tlv(4, b""), "unspec"),
        (SIGNATURE + b"\x21\x01\0\0", "unspec"),
        (SIGNATURE + b"\x21\x10\0\x0c" + bytes(12), "unspec"),
        (SIGNATURE + b"\x21\x12\0\x0c" + bytes(12), "unspec"),
        (SIGNATURE + b"\x21\x22\0\x24" + bytes(36), "unspec"),
        (SIGNATURE + b"\x21\x32\0\xd8" + bytes(216), "unspec"),
        (SIGNATURE + b"\x21\x31\0\xd8" + bytes(216), "unix"),
    ],
)
def test_a_header_that_names_no_address_has_none(header: bytes, kind: str) -> None:
    assert outcome(header) == ProxyHeader(len(header), kind)  # type: ignore[arg-type]
    assert_needs_all_of(header)


LONGEST_V1 = b"PROXY UNKNOWN " + b"f" * (107 - 16) + b"\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\r\n",
        b"\r\n\r\n\0\r\nQUIT\r",
        b" PROXY",
        b"proxy TCP4",
        b"PROXY\tTCP4",
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 00\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1_0 2\r\n",
        b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.888 1 2\r\n",
        b"PROXY TCP4 0x1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP6 ::1 5.6.7.8 1 2\r\n",
        b"PROXY TCP6 ::1%lo ::2 1 2\r\n",
        b"PROXY TCP6 [::1] [::2] 1 2\r\n",
        b"PROXY TCP6 1::2::3 ::2 1 2\r\n",
        b"PROXY TCP6 00000::1 ::2 1 2\r\n",
        b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY UNKNOWNx\r\n",
        b"PROXY unknown\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rX",
        b"PROXY UNKNOWN a\nb\r\n",
        b"PROXY UNKNOWN a\rb\r\n",
        b"PROXY TCP4 \xd9\xa1.2.3.4 5.6.7.8 1 2\r\n",
        LONGEST_V1[:-2] + b"f\r\n",
        b"PROXY TCP4 " + b"1" * 96,
        SIGNATURE + b"\x11",
        SIGNATURE + b"\x31",
        SIGNATURE + b"\x22",
        SIGNATURE + b"\x2f",
        SIGNATURE + b"\x21\x41\0\0",
        SIGNATURE + b"\x21\xf1\0\0",
        SIGNATURE + b"\x21\x13\0\x0c",
        SIGNATURE + b"\x21\x11\0\x0b",
        SIGNATURE + b"\x21\x21\0\x23",
        SIGNATURE + b"\x21\x31\0\xd7",
        SIGNATURE + b"\x21\x11\x0f\xf1",
        SIGNATURE + b"\x20\0\xff\xff",
    ],
)
def test_what_is_no_header_is_refused_as_soon_as_its_bytes_say_so(data: bytes) -> None:
    assert outcome(data) is BadProxyHeader
    assert outcome(data + b"\r\n" + bytes(5000)) is BadProxyHeader


def test_the_longest_headers_are_taken() -> None:
    assert len(LONGEST_V1) == 107
    assert outcome(LONGEST_V1) == ProxyHeader(107, "unknown")
    padding = MAX_HEADER_BYTES - 16 - 12 - 3
    longest = v2(("1.2.3.4", 1), ("5.6.7.8", 2), tlvs=tlv(4, bytes(padding)))
    assert len(longest) == MAX_HEADER_BYTES == 4096
    assert outcome(longest) == ProxyHeader(4096, "proxied", Source(IPv4Address("1.2.3.4"), 1))
    assert outcome(longest[:-1]) is None
    assert outcome(v2(("1.2.3.4", 1), ("5.6.7.8", 2), tlvs=tlv(4, bytes(padding + 1)))) is BadProxyHeader


@pytest.mark.parametrize(
    "tlvs",
    [
        b"\x04",
        b"\x04\0",
        b"\x04\0\x01",
        tlv(4, b"") + b"\x04\xff\xffabc",
        tlv(3, b""),
        tlv(3, bytes(3)),
        tlv(3, bytes(5)),
        tlv(3, bytes(4)),
    ],
)
def test_tlvs_that_do_not_fill_the_header_and_bad_checksums_are_refused(tlvs: bytes) -> None:
    assert outcome(v2(("1.2.3.4", 1), ("5.6.7.8", 2), tlvs=tlvs)) is BadProxyHeader


def test_a_header_with_a_second_checksum_is_refused_although_the_first_is_right() -> None:
    header = bytearray(v2(("1.2.3.4", 1), ("5.6.7.8", 2), tlvs=tlv(3, bytes(4)) + tlv(3, bytes(4))))
    header[31:35] = crc32c(bytes(header)).to_bytes(4, "big")
    assert outcome(bytes(header)) is BadProxyHeader
    header[35] = 4  # now it is another TLV
    header[31:35] = crc32c(bytes(header[:31] + bytes(4) + header[35:])).to_bytes(4, "big")
    assert isinstance(outcome(bytes(header)), ProxyHeader)


@settings(deadline=None)
@given(st.integers(0, 46), st.integers(1, 255))
def test_a_checksum_finds_every_change_of_a_byte(at: int, change: int) -> None:
    header = bytearray(v2(("1.2.3.4", 1), ("5.6.7.8", 2), tlvs=tlv(2, b"relay.test"), checksum=True))
    assert isinstance(outcome(bytes(header)), ProxyHeader)
    header[at] ^= change
    found = outcome(bytes(header) + bytes(5000))
    # But for a change that makes of it a header without addresses, of which the rest is not read, or one whose
    # checksum is no longer called so.
    if isinstance(found, ProxyHeader) and found.kind == "proxied":
        assert at == 16 + 12 + 13
    else:
        assert found is BadProxyHeader or isinstance(found, ProxyHeader)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda rest: SIGNATURE + rest)))
def test_no_bytes_make_the_decoder_fail_or_ask_for_more_than_the_limit(data: bytes) -> None:
    found = outcome(data)
    if isinstance(found, ProxyHeader):
        assert 15 <= found.length <= len(data)
    assert outcome(data + bytes(MAX_HEADER_BYTES)) is not None


@settings(deadline=None)
@given(st.integers(0, 40), st.binary(max_size=2), st.integers(0, 2))
def test_a_changed_line_is_refused_or_says_what_another_reader_reads(at: int, new: bytes, cut: int) -> None:
    line = b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n"
    changed = line[:at] + new + line[at + cut :]
    found = outcome(changed)
    if isinstance(found, ProxyHeader) and found.source is not None:
        word, family, source, destination, *ports = changed[: found.length].decode("ascii")[:-2].split(" ")
        assert (word, family, len(ports)) == ("PROXY", "TCP4", 2)
        assert str(found.source.address) == source
        assert str(ipaddress.IPv4Address(destination)) == destination
        assert [str(int(port)) for port in ports] == ports
        assert found.source.port == int(ports[0])
