"""PROXY headers as a proxy writes them. Shares nothing with relayd's reader, its checksum neither."""

import socket

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
LOCAL = SIGNATURE + b"\x20\0\0\0"

Endpoint = tuple[str, int]


def v1(source: str, destination: str, source_port: int = 5000, destination_port: int = 443) -> bytes:
    """A header of version 1."""
    family = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {family} {source} {destination} {source_port} {destination_port}\r\n".encode()


def v2(source: Endpoint, destination: Endpoint, *, tlvs: bytes = b"", checksum: bool = False) -> bytes:
    """A header of version 2, TCP over the family of its addresses."""
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    body = socket.inet_pton(family, source[0]) + socket.inet_pton(family, destination[0])
    body += source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big") + tlvs
    if checksum:
        body += tlv(3, bytes(4))
    start = b"\x21\x21" if family == socket.AF_INET6 else b"\x21\x11"
    header = SIGNATURE + start + len(body).to_bytes(2, "big") + body
    return header[:-4] + crc32c(header).to_bytes(4, "big") if checksum else header


def tlv(kind: int, value: bytes) -> bytes:
    """A type, a length and a value."""
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def crc32c(data: bytes) -> int:
    """By the definition: long division of polynomials over GF(2), bits in the order of the wire."""
    bits = "".join(f"{byte:08b}"[::-1] for byte in data)
    flipped = [int(bit) for bit in bits] + [0] * 32
    for place in range(32):
        flipped[place] ^= 1
    for place in range(len(flipped) - 32):
        if flipped[place]:
            for offset, bit in enumerate(f"{0x11EDC6F41:033b}"):
                flipped[place + offset] ^= int(bit)
    return int("".join(map(str, flipped[-32:]))[::-1], 2) ^ 0xFFFFFFFF
