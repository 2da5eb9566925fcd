"""The header of the PROXY protocol, by which a proxy says whose connection it passes on.

Source: "The PROXY protocol, versions 1 & 2" (doc/proxy-protocol.txt of HAProxy), whose sections are
named below. It is bytes before the first byte of TLS or HTTP. Whether there is one is never guessed
(section 5): who calls this knows that there must be.
"""

import re
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

from attrs import frozen

from relayd.wire.address import Source, port_number, unmapped

__all__ = ["MAX_HEADER_BYTES", "BadProxyHeader", "Kind", "ProxyHeader", "decode_proxy_header"]

MAX_V1_BYTES: Final = 107
"""The longest line that there can be, CRLF included (section 2.1)."""

MAX_V2_BYTES: Final = 4096
"""The length field would allow 65,551. A header is meant to fit in the smallest segment of TCP, 536 bytes
(section 2); what makes one longer is a name or a certificate among its TLVs, and nginx has the same limit."""

MAX_HEADER_BYTES: Final = max(MAX_V1_BYTES, MAX_V2_BYTES)

Kind = Literal["proxied", "local", "unknown", "unspec", "unix"]
"""proxied: on behalf of `ProxyHeader.source`; local: the proxy's own, such as a health check; unknown
(version 1), unspec (version 2): on behalf of somebody of whom nothing usable is known; unix: on behalf of
somebody on a unix socket of the proxy's."""

_V1_START: Final = b"PROXY "
_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_V1_LINE: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?"
    rb"|TCP4 ([0-9.]+) ([0-9.]+) %b %b"
    rb"|TCP6 ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) %b %b)" % (_PORT, _PORT, _PORT, _PORT)
)
_V1_UNFINISHED: Final = re.compile(rb"[^\r\n]*\r?")

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_BYTES: Final = 16
_LOCAL, _PROXY = 0x20, 0x21

_ADDRESS_BYTES: Final = {0x0: 0, 0x1: 12, 0x2: 36, 0x3: 216}
"""By address family: unspecified, IPv4, IPv6, unix."""

_CRC32C_TYPE: Final = 0x03


class BadProxyHeader(ValueError):
    """Not a PROXY header, and no more bytes can make it one. Carries nothing of it."""


@frozen
class ProxyHeader:
    """A whole header."""

    length: int
    """Its bytes; what follows them is the client's."""
    kind: Kind
    source: Source | None = None
    """Who called the proxy; of "proxied" alone."""


def decode_proxy_header(data: bytes) -> ProxyHeader | None:
    """Read the header that ``data`` begins with; None if more bytes are needed, all of ``data`` being of it.

    It takes at most `MAX_HEADER_BYTES`. Raises `BadProxyHeader`, as early as it can be known.
    """
    if _SIGNATURE.startswith(data[: len(_SIGNATURE)]):
        return _decode_v2(data)
    if _V1_START.startswith(data[: len(_V1_START)]):
        return _decode_v1(data)
    raise BadProxyHeader


def _decode_v1(data: bytes) -> ProxyHeader | None:
    """Section 2.1: one line, to the letter."""
    end = data.find(b"\r\n", 0, MAX_V1_BYTES)
    if end < 0:
        if len(data) >= MAX_V1_BYTES or _V1_UNFINISHED.fullmatch(data) is None:
            raise BadProxyHeader
        return None
    line = _V1_LINE.fullmatch(data, 0, end)
    if line is None:
        raise BadProxyHeader
    if line[1] is None and line[5] is None:
        return ProxyHeader(end + 2, "unknown")
    version, written = (IPv4Address, line.groups()[:4]) if line[1] else (IPv6Address, line.groups()[4:])
    try:
        # The destination's are of no use here, but a line is right as a whole or not at all.
        source, _ = (version(text.decode("ascii")) for text in written[:2])
        port, _ = (port_number(text) for text in written[2:])
    except ValueError:
        raise BadProxyHeader from None
    return ProxyHeader(end + 2, "proxied", Source(unmapped(source), port))


def _decode_v2(data: bytes) -> ProxyHeader | None:
    """Section 2.2: 16 bytes, then addresses, then TLVs."""
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise BadProxyHeader
    if len(data) < _FIXED_BYTES:
        return None
    command, kind_of_socket, length = struct.unpack_from("!BBH", data, 12)
    family, transport = divmod(kind_of_socket, 16)
    whole = _FIXED_BYTES + length
    if whole > MAX_V2_BYTES:
        raise BadProxyHeader
    # "Discard the protocol block including the family which is ignored."
    if command == _LOCAL:
        return ProxyHeader(whole, "local") if len(data) >= whole else None
    if family not in _ADDRESS_BYTES or transport > 0x2 or length < _ADDRESS_BYTES[family]:
        raise BadProxyHeader
    if len(data) < whole:
        return None
    header = data[:whole]
    _check_tlvs(header, _FIXED_BYTES + _ADDRESS_BYTES[family])
    # What came over UDP did not come here. A receiver falls back to UNSPEC for what it does not support.
    if family == 0 or transport != 0x1:
        return ProxyHeader(whole, "unspec")
    if family == 0x3:
        return ProxyHeader(whole, "unix")
    return ProxyHeader(whole, "proxied", _v2_source(header, family))


def _v2_source(header: bytes, family: int) -> Source:
    if family == 0x1:
        address, _, port, _ = struct.unpack_from("!4s4sHH", header, _FIXED_BYTES)
        return Source(IPv4Address(address), port)
    address, _, port, _ = struct.unpack_from("!16s16sHH", header, _FIXED_BYTES)
    return Source(unmapped(IPv6Address(address)), port)


def _check_tlvs(header: bytes, start: int) -> None:
    """See that ``header`` is TLVs from ``start`` to its end, and has the checksum that it says, if any.

    Raises `BadProxyHeader`. Section 2.2.3 wants the checksum verified; all other TLVs are skipped.
    """
    at = start
    verified = False
    while at < len(header):
        if at + 3 > len(header):
            raise BadProxyHeader
        kind, length = struct.unpack_from("!BH", header, at)
        value = at + 3
        at = value + length
        if at > len(header):
            raise BadProxyHeader
        if kind == _CRC32C_TYPE:
            blanked = header[:value] + bytes(4) + header[at:]
            # One is verified, so that a header cannot cost more than one pass.
            if verified or length != 4 or int.from_bytes(header[value:at], "big") != _crc32c(blanked):
                raise BadProxyHeader
            verified = True


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C_TABLE: Final = _crc32c_table()


def _crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli; RFC 4960, appendix B), byte by byte: only some proxies send one, and once."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = remainder >> 8 ^ _CRC32C_TABLE[(remainder ^ byte) & 0xFF]
    return remainder ^ 0xFFFFFFFF
