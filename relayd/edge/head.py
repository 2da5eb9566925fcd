"""A request head, and the answer to it: what every HTTP listener of relayd has in common.

It is parsed by httptools, which is llhttp, the parser of Node.js: it takes no shape of a head that
another parser might read differently. Answers never echo a byte of the request.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final

import httptools
import msgspec
import trio
from attrs import frozen

__all__ = ["JSON_HEADERS", "Answer", "Request", "encode_head", "hang_up", "read_request", "send_answer"]

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100

JSON_HEADERS: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))

_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ ")
"""What may be a method (RFC 9110, section 9.1), although the parser knows it not."""

_REASONS: Final = {
    200: b"OK",
    202: b"Accepted",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    426: b"Upgrade Required",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


@frozen
class Answer(Exception):
    """What a request gets that is answered at once, and not with a stream of anything."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    @classmethod
    def document(cls, status: int, document: Mapping[str, Any]) -> "Answer":
        """An answer in JSON that nobody may keep for later."""
        return cls(status, JSON_HEADERS, msgspec.json.encode(document))

    @classmethod
    def not_allowed(cls, allowed: bytes = b"GET") -> "Answer":
        """The method is not ``allowed`` here."""
        return cls(405, ((b"allow", allowed),))


class _Head:
    """A request head, as the parser finds it piece by piece. What follows the first is not looked at."""

    def __init__(self) -> None:
        self.size = 0
        self.complete = False
        self.target = b""
        #: Names in lower case, values without surrounding white space.
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, part: bytes) -> None:
        if not self.complete:
            self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


@frozen
class Request:
    """A whole request head, and the bytes that followed it."""

    method: bytes
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    leftover: bytes


async def read_request(stream: trio.SocketStream, timeout: float) -> Request | None:
    """Read a whole request head within ``timeout`` seconds.

    None if the client hung up before that, or has sent nothing. Raises `Answer`: what a head in bad order gets.
    """
    head = _Head()
    with trio.move_on_after(timeout):
        return await _read(stream, head)
    # Not a word to a client that has sent none: it may be a port scan, or a spare connection.
    if head.size:
        raise Answer(408)
    return None


async def send_answer(stream: trio.SocketStream, answer: Answer, timeout: float) -> None:
    """Send ``answer`` and wait for the client to hang up, ``timeout`` seconds at most. Never raises."""
    with trio.move_on_after(timeout), suppress(trio.BrokenResourceError):
        await stream.send_all(encode_head(answer.status, answer.headers, len(answer.body)) + answer.body)
        await hang_up(stream)


def encode_head(status: int, headers: Iterable[tuple[bytes, bytes]], length: int | None) -> bytes:
    """The head of an answer whose body has ``length`` bytes; with None, it ends with the connection."""
    lines = [
        b"HTTP/1.1 %d %b" % (status, _REASONS[status]),
        b"date: %b" % formatdate(usegmt=True).encode("ascii"),
        b"connection: %b" % (b"close, upgrade" if status == 426 else b"close"),
        *([] if length is None else [b"content-length: %d" % length]),
        *(b"%b: %b" % header for header in headers),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def hang_up(stream: trio.SocketStream) -> None:
    """Say that the answer is whole, and wait for the client to hang up. Raises `trio.BrokenResourceError`."""
    # Closing a socket with unread bytes resets the connection, and the answer may be lost on the way.
    await stream.send_eof()
    while await stream.receive_some(MAX_HEAD_BYTES):
        pass


async def _read(stream: trio.SocketStream, head: _Head) -> Request | None:
    """The request, or None if the client hung up before it was whole. Raises `Answer`."""
    parser = httptools.HttpRequestParser(head)
    leftover = b""
    while not head.complete:
        if head.size == MAX_HEAD_BYTES:
            raise Answer(431)
        try:
            data = await stream.receive_some(MAX_HEAD_BYTES - head.size)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            return None
        head.size += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            leftover = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            # After a whole head, what is wrong with the rest is of no interest.
            if not head.complete:
                unknown = isinstance(error, httptools.HttpParserInvalidMethodError)
                raise (Answer.not_allowed() if unknown and _METHOD.match(data) else Answer(400)) from None
    if len(head.headers) > MAX_HEADERS:
        raise Answer(431)
    version = parser.get_http_version()
    # RFC 9112, section 3.2: exactly one Host, but in HTTP/1.0, which knew none.
    hosts = sum(name == b"host" for name, _ in head.headers)
    if hosts > 1 or (hosts < 1 and version != "1.0"):
        raise Answer(400)
    return Request(parser.get_method(), head.target, version, head.headers, leftover)
