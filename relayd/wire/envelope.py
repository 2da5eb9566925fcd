"""The routing envelope (contract: "Routing envelope"): the only JSON that relayd reads or writes.

The frame inside is opaque. On its way to a phone it is cut out of the binary's message as it
stands; on its way to the binary the phone's message is spliced in as it stands. msgspec validates
the whole document while it skips over the parts that we do not want, so nothing is parsed into
objects but a short string and an integer.
"""

from typing import Final

import msgspec

from relayd.wire.close import may_travel
from relayd.wire.document import Document

__all__ = [
    "Envelope",
    "Malformed",
    "close_notice",
    "decode_envelope",
    "envelope_prefix",
    "is_json",
]


class Malformed(ValueError):
    """A message that is not UTF-8, not one JSON document, or not an envelope.

    Carries nothing of the message: its text must never reach a log.
    """


Envelope = tuple[str, bytes, int]
"""What a binary sent: ``conn_id, frame, close_code``. Deliver the frame to that phone, then close it.

The conn_id is empty in a request to the relay itself (``push_wake``; a phone's is never empty), the
frame is empty when there is none, the code is 0 when there is none.
"""


_UNSET: Final = msgspec.UNSET
_read_document: Final = msgspec.json.Decoder(Document).decode
_skip_document: Final = msgspec.json.Decoder(msgspec.Raw).decode

# Without a "d" there are no surrogates. No digit or letter that JSON means something by is exchanged or comes
# in: so what is a string, a number or a name stays one, and nothing else becomes one.
_WITHOUT_SURROGATES: Final = bytes.maketrans(b"dD", b"cC")


def decode_envelope(message: bytes) -> Envelope:
    """Read one message of a binary.

    Raises `Malformed` for all that the contract tells us to drop: invalid UTF-8, invalid JSON (also
    JSON nested deeper than the interpreter's recursion limit), fields of the wrong type, a
    ``close_code`` that may not travel, and an envelope that asks for nothing.
    """
    try:
        if not message.isascii():
            str(message, "utf-8")
        document = _read_document(message)
    except msgspec.DecodeError:
        return _decode_with_lone_surrogates(message)
    except (UnicodeDecodeError, RecursionError):
        raise Malformed from None
    if document.frame is _UNSET:
        return _checked(document, b"")
    frame = bytes(document.frame)
    conn_id = document.conn_id
    if conn_id and document.close_code is _UNSET and frame != b"null":
        return conn_id, frame, 0  # as almost every envelope is
    return _checked(document, frame)


def is_json(message: bytes) -> bool:
    """Whether a phone's message is one JSON document in UTF-8: what may be spliced into an envelope."""
    try:
        if not message.isascii():
            str(message, "utf-8")
        _skip_document(message)
    except msgspec.DecodeError:
        # Perhaps for a lone surrogate, see below. Nothing of it is read here, so the rest may change with it.
        return _is_plain_json(message.translate(_WITHOUT_SURROGATES))
    except (UnicodeDecodeError, RecursionError):
        return False
    return True


def envelope_prefix(conn_id: str) -> bytes:
    """What stands before a phone's message in its envelope; a single ``}`` goes behind it."""
    return b'{"conn_id":"%s","frame":' % conn_id.encode("ascii")


def close_notice(conn_id: str, code: int) -> bytes:
    """The envelope that tells a binary that one of its phones is gone (contract: "Close notice")."""
    return b'{"conn_id":"%s","close_code":%d}' % (conn_id.encode("ascii"), code)


def _checked(document: Document, frame: bytes) -> Envelope:
    conn_id, close_code = document.conn_id, document.close_code
    if frame == b"null":
        frame = b""
    if conn_id is msgspec.UNSET:
        if document.push_wake is msgspec.UNSET or not bytes(document.push_wake).startswith(b"{"):
            raise Malformed
        if close_code is not msgspec.UNSET and not may_travel(close_code):
            raise Malformed
        return "", b"", 0
    if close_code is msgspec.UNSET:
        if not frame or not conn_id:
            raise Malformed
        return conn_id, frame, 0
    if not conn_id or not may_travel(close_code):
        raise Malformed
    return conn_id, frame, close_code


def _decode_with_lone_surrogates(message: bytes) -> Envelope:
    r"""Read a message that msgspec refuses, if it does so for a lone surrogate only.

    The grammar of JSON allows an escape such as ``"\ud800"`` on its own (RFC 8259, section 8.2), so
    a frame may hold one, and what is valid must pass unchanged. msgspec is given ``"\ue800"`` instead: that
    is as long, and no ASCII either, or it might spell a conn_id that the message does not contain.
    """
    readable = bytearray(message.replace(b"\\ud", b"\\ue").replace(b"\\uD", b"\\uE"))
    if readable == message:
        raise Malformed from None
    try:
        document = _read_document(readable)
    except (msgspec.DecodeError, RecursionError):
        raise Malformed from None
    # What the document has is a view of this, so it comes out as it was sent.
    readable[:] = message
    return _checked(document, b"" if document.frame is msgspec.UNSET else bytes(document.frame))


def _is_plain_json(message: bytes) -> bool:
    try:
        _skip_document(message)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
