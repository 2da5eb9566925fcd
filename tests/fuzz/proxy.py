"""The PROXY header: what the specification makes of it, read another way, and the same at every cut."""

import re
import socket
from ipaddress import IPv6Address

from relayd.wire.proxy import MAX_HEADER_BYTES, BadProxyHeader, ProxyHeader, decode_proxy_header

LONGEST = 700
WORDS = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n",
    b"PROXY TCP6 2001:db8::1 ::1 5000 443\r\n",
    b"PROXY UNKNOWN\r\n",
    b"::ffff:192.0.2.1",
    b"65535",
    b"65536",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    b"\x03\0\x04",
)

Reading = tuple[int, str, bytes, int]
"""Length, kind, packed address, port."""


def check(data: bytes) -> None:
    """Read ``data``; if its first byte says so, with a checksum that chance would not find."""
    if not data:
        return
    data = _with_checksum(data[1:]) if data[0] & 1 else data[1:]
    ours = _read(data)
    theirs = _as_the_specification_says(data)
    assert _written(ours) == theirs
    if ours is None:
        assert len(data) < MAX_HEADER_BYTES
    for end in {*range(min(len(data), 120)), *range(0, len(data), 37), max(len(data) - 1, 0)}:
        before = _read(data[:end])
        if before is None:
            # Then all of it is of the header, if it is one.
            assert not isinstance(ours, ProxyHeader) or end < ours.length
        else:
            # What is known is known.
            assert before == ours
    if isinstance(ours, ProxyHeader):
        assert ours == _read(data[: ours.length]) == _read(data[: ours.length] + b"\r\n")
        assert _read(data[: ours.length - 1]) is None


def _read(data: bytes) -> ProxyHeader | str | None:
    try:
        return decode_proxy_header(data)
    except BadProxyHeader:
        return "bad"


def _written(header: ProxyHeader | str | None) -> Reading | None:
    if not isinstance(header, ProxyHeader):
        return None
    if header.source is None:
        return header.length, header.kind, b"", 0
    return header.length, header.kind, header.source.address.packed, header.source.port


def _as_the_specification_says(data: bytes) -> Reading | None:
    """The header that ``data`` begins with; None if there is none, or none that is whole."""
    if data.startswith(b"PROXY "):
        line, end, _ = data[:107].partition(b"\r\n")
        return _version_1(line) if end else None
    if data.startswith(b"\r\n\r\n\0\r\nQUIT\n") and len(data) >= 16:
        return _version_2(data)
    return None


def _version_1(line: bytes) -> Reading | None:
    words = line.decode("latin-1").split(" ")
    length = len(line) + 2
    if words[1] == "UNKNOWN":
        return (
            None
            if "\r" in line.decode("latin-1") or "\n" in line.decode("latin-1")
            else (length, "unknown", b"", 0)
        )
    if words[1] not in ("TCP4", "TCP6") or len(words) != 6:
        return None
    family = socket.AF_INET if words[1] == "TCP4" else socket.AF_INET6
    try:
        source, _ = (socket.inet_pton(family, word) for word in words[2:4])
    except (OSError, ValueError):
        return None
    if not all(re.fullmatch("0|[1-9][0-9]{0,4}", word) and int(word) < 65536 for word in words[4:]):
        return None
    return length, "proxied", _unmapped(source), int(words[4])


def _version_2(data: bytes) -> Reading | None:
    command, family, transport = data[12], data[13] >> 4, data[13] & 15
    length = 16 + int.from_bytes(data[14:16], "big")
    if command not in (0x20, 0x21) or length > MAX_HEADER_BYTES or len(data) < length:
        return None
    if command == 0x20:
        return length, "local", b"", 0
    sizes = {0: 0, 1: 4, 2: 16, 3: 108}
    if family not in sizes or transport > 2:
        return None
    size = sizes[family]
    rest = data[16:length]
    tlvs = rest[2 * size + (4 if family in (1, 2) else 0) :]
    if len(rest) < 2 * size + (4 if family in (1, 2) else 0) or not _are_tlvs(data[:length], tlvs):
        return None
    if not family or transport != 1:
        return length, "unspec", b"", 0
    if family == 3:
        return length, "unix", b"", 0
    return length, "proxied", _unmapped(rest[:size]), int.from_bytes(rest[2 * size : 2 * size + 2], "big")


def _are_tlvs(header: bytes, tlvs: bytes) -> bool:
    checksums = []
    while tlvs:
        size = 3 + int.from_bytes(tlvs[1:3], "big")
        if len(tlvs) < 3 or len(tlvs) < size:
            return False
        if tlvs[0] == 3:
            value = len(header) - len(tlvs) + 3
            checksums.append(tlvs[3:size])
            if checksums[0] != _crc32c(header[:value] + bytes(4) + header[value + 4 :]).to_bytes(4, "big"):
                return False
        tlvs = tlvs[size:]
    return len(checksums) < 2


def _unmapped(packed: bytes) -> bytes:
    return packed[12:] if len(packed) == 16 and packed[:12] == IPv6Address("::ffff:0:0").packed[:12] else packed


def _with_checksum(data: bytes) -> bytes:
    """``data``, a header of version 2, with a checksum as its last TLV."""
    length = int.from_bytes(data[14:16], "big") + 7
    if len(data) < 16 or length + 16 > MAX_HEADER_BYTES:
        return data
    header = data[:14] + length.to_bytes(2, "big") + data[16:][: length - 7] + b"\x03\0\x04"
    return header + _crc32c(header + bytes(4)).to_bytes(4, "big") + data[16 + length - 7 :]


def _crc32c(data: bytes) -> int:
    """A bit at a time."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF
