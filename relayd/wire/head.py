"""The head of an HTTP/1 request (RFC 9112, sections 3 and 5), and nothing else of HTTP.

relayd reads one small head for each connection, and a storm of reconnects is a storm of heads. The
parsers to be had are slower by an order of magnitude and forgive (h11), or take what is no HTTP and
refuse control characters in a device name, which the contract wants escaped (llhttp). What is here
is the grammar and no leniency: no folding, no bare line feed, no second space, so that no proxy in
front can have read another request than we do. Nor is there a target but a path: the host in an absolute
URI would count instead of the Host header (section 3.2.2), and some look at the one, some at the other.
"""

import re
from typing import Final

from attrs import frozen

__all__ = ["BadHead", "Head", "may_become_head", "parse_head"]

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

_REQUEST_LINE: Final = re.compile(rb"(%b+) (/[!-~]*) HTTP/1\.([01])\r\n" % _TOKEN)

_FIELD_LINES: Final = re.compile(rb"(?:%b+:[^\0\r\n]*\r\n)*" % _TOKEN)
"""Any byte in a value but those that end it: control characters are for whoever shows it to escape."""

_UNFINISHED_REQUEST_LINE: Final = re.compile(rb"%b*(?:(?<=.) (?:/[!-~]*(?: [!-~]*\r?)?)?)?" % _TOKEN)

_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
"""Never so many digits that 63 bits overflow, in whoever reads it (RFC 9110, section 8.6)."""


class BadHead(ValueError):
    """Not the head of an HTTP/1 request. Carries nothing of it."""


@frozen
class Head:
    """A request head."""

    method: bytes
    target: bytes
    """Begins with a slash."""
    minor_version: int
    """1 for HTTP/1.1, 0 for HTTP/1.0."""
    fields: list[tuple[bytes, bytes]]
    """Names in lower case, values without surrounding white space, in the order of the head."""

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field called ``name``, in lower case."""
        return [value for known, value in self.fields if known == name]


def parse_head(data: bytes) -> Head:
    """Read a whole head, its empty line included. Raises `BadHead`.

    Also for what RFC 9112 has a server refuse: a missing or second Host (section 3.2), lengths of a body
    that contradict each other, and a body whose end cannot be told (sections 6.1 and 6.3).
    """
    line = _REQUEST_LINE.match(data)
    if line is None or not data.endswith(b"\r\n\r\n"):
        raise BadHead
    if _FIELD_LINES.fullmatch(data, line.end(), len(data) - 2) is None:
        raise BadHead
    fields = []
    for field in data[line.end() : -4].split(b"\r\n") if len(data) > line.end() + 2 else ():
        name, _, value = field.partition(b":")
        fields.append((name.lower(), value.strip(b" \t")))
    head = Head(line[1], line[2], int(line[3]), fields)
    hosts = len(head.values(b"host"))
    if hosts > 1 or (hosts < 1 and head.minor_version == 1):
        raise BadHead
    lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
    if len(lengths) > 1 or (lengths and (_LENGTH.fullmatch(lengths[0]) is None or codings)):
        raise BadHead
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked" or head.minor_version < 1):
        raise BadHead
    return head


def may_become_head(data: bytes | bytearray, known: int = 0) -> bool:
    """Whether more bytes could make a head of ``data``, as far as its first line and its line feeds tell.

    Of its first ``known`` bytes they could, and so these are not looked at again, but for a first line that
    is not whole yet.
    """
    if data.find(b"\n", 0, known) < 0:
        if b"\n" not in data:
            return _UNFINISHED_REQUEST_LINE.fullmatch(data) is not None
        if _REQUEST_LINE.match(data) is None:
            return False
    return data.count(b"\n", known) == data.count(b"\r\n", max(known - 1, 0))
