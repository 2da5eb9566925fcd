"""What a TLS client asks for before anything is encrypted: a name and protocols (RFC 8446, section 4.1.2).

Which certificate a client gets depends on it, and OpenSSL, as Python has it, shows the name alone. The
bytes are OpenSSL's all the same: here they are looked at, there they are judged.
"""

from typing import Final

from attrs import frozen

__all__ = ["BadClientHello", "ClientHello", "ClientHelloReader", "ClientHelloTooLong"]

MOST_BYTES: Final = 16 * 1024
"""Of the message. Real ones have less than 2 KiB, those with post-quantum keys included."""

_CHANGE_CIPHER_SPEC: Final = 20
_HANDSHAKE: Final = 22
_RECORD_HEADER: Final = 5
_LARGEST_RECORD: Final = 16 * 1024
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
_ALPN: Final = 16


class BadClientHello(Exception):
    """These bytes do not begin with a ClientHello."""


class ClientHelloTooLong(BadClientHello):
    """They do, with one that is said to be longer than any real one."""


@frozen
class ClientHello:
    """What of it is of interest."""

    server_name: str = ""
    """In lower case (RFC 6066, section 3); empty if there is none."""
    protocols: tuple[bytes, ...] = ()
    """What the client can speak, the best first (ALPN, RFC 7301)."""


class ClientHelloReader:
    """Finds the ClientHello that a connection begins with, however that is cut into records and reads.

    Each byte is looked at once: a client may send it one byte to a record, and one record to a read.
    """

    def __init__(self, *, second: bool = False) -> None:
        """``second``: it is to answer a HelloRetryRequest, and a ChangeCipherSpec may stand before it."""
        self._second = second
        #: How many bytes the records had that it came in.
        self.taken = 0
        self._rest = bytearray()  # of a record that is not whole
        self._message = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """Take what was read next; None while the ClientHello is not whole. Raises `BadClientHello`."""
        rest, message = self._rest, self._message
        rest += data
        start = 0
        while start < len(rest):
            skipped = self._second and rest[start] == _CHANGE_CIPHER_SPEC
            if rest[start] != _HANDSHAKE and not skipped:
                raise BadClientHello
            begin = start + _RECORD_HEADER
            if len(rest) < begin:
                break
            length = int.from_bytes(rest[start + 3 : begin])
            if not 0 < length <= _LARGEST_RECORD:
                raise BadClientHello
            end = begin + length
            if len(message) < 4 and not skipped:
                _check_beginning((message + rest[begin : min(end, begin + 4)])[:4])
            if len(rest) < end:
                break
            if not skipped:
                message += rest[begin:end]
            self.taken += end - start
            start = end
            if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4]):
                return _parse_body(_Bytes(bytes(message[4 : 4 + int.from_bytes(message[1:4])])))
        del rest[:start]
        return None


def _check_beginning(message: bytes | bytearray) -> None:
    """Judge the type and the length of a message, or what is there of them."""
    if message[:1] not in (b"", bytes([_CLIENT_HELLO])):
        raise BadClientHello
    if int.from_bytes(message[1:4]) > MOST_BYTES:
        raise ClientHelloTooLong


class _Bytes:
    """Bytes, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise BadClientHello
        return self._data[start : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> "_Bytes":
        """What stands behind its own length, a number of ``size`` bytes."""
        return _Bytes(self.take(self.number(size)))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)


def _parse_body(body: _Bytes) -> ClientHello:
    body.take(2 + 32)  # legacy_version, random
    body.vector(1)  # legacy_session_id
    body.vector(2)  # cipher_suites
    body.vector(1)  # legacy_compression_methods
    server_name = ""
    protocols: tuple[bytes, ...] = ()
    extensions = body.vector(2) if body else _Bytes(b"")
    while extensions:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            server_name = _parse_names(content.vector(2))
        elif kind == _ALPN:
            protocols = _parse_protocols(content.vector(2))
    return ClientHello(server_name, protocols)


def _parse_names(names: _Bytes) -> str:
    while names:
        kind, name = names.number(1), names.vector(2)
        if kind == _HOST_NAME:
            return name.rest().decode("ascii", "replace").lower()
    return ""


def _parse_protocols(names: _Bytes) -> tuple[bytes, ...]:
    found: list[bytes] = []
    while names:
        found.append(names.vector(1).rest())
    return tuple(found)
