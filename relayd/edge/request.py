"""A request head and its answer, for every listener that speaks HTTP.

One request per connection. The head is parsed by httptools, which is llhttp, the parser of Node.js: it
takes no shape of a head that another parser might read differently. Answers never echo a byte of it.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Final, TypeVar

import httptools
import trio
from attrs import frozen

__all__ = ["Answer", "Request", "answer_or", "not_allowed", "send_answer"]

T = TypeVar("T")

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100

_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ ")
"""What may be a method (RFC 9110, section 9.1), although the parser knows it not."""

_REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    426: b"Upgrade Required",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


@frozen
class Answer(Exception):
    """What a request gets, and the end of it: raised by whoever judges the request."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    quiet: bool = False
    """Whether it leaves no trace in the log."""


def not_allowed() -> Answer:
    """What another method than GET gets."""
    return Answer(405, ((b"allow", b"GET"),))


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


async def answer_or(
    stream: trio.SocketStream,
    timeout: float,
    judge: Callable[[Request], T],
    on_answer: Callable[[Answer], None],
) -> T | None:
    """Read a request head; return what ``judge`` makes of it, or send the `Answer` that it raises.

    Bounded by ``timeout`` seconds for the whole head, and by as much again for the answer, of which
    ``on_answer`` is told before it is sent. Nothing is sent to a client that hangs up before it has asked.
    """
    head = _Head()
    try:
        with trio.move_on_after(timeout):
            request = await _read_head(stream, head)
            return None if request is None else judge(request)
        # Not a word to a client that has sent none: it may be a port scan, or a spare connection.
        if head.size:
            raise Answer(408)
    except Answer as answer:
        on_answer(answer)
        await send_answer(stream, timeout, answer)
    return None


async def _read_head(stream: trio.SocketStream, head: _Head) -> Request | None:
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
                raise (not_allowed() if unknown and _METHOD.match(data) else Answer(400)) from None
    if len(head.headers) > MAX_HEADERS:
        raise Answer(431)
    version = parser.get_http_version()
    # RFC 9112, section 3.2: exactly one Host, but in HTTP/1.0, which knew none.
    hosts = sum(name == b"host" for name, _ in head.headers)
    if hosts > 1 or (hosts < 1 and version != "1.0"):
        raise Answer(400)
    return Request(parser.get_method(), head.target, version, head.headers, leftover)


async def send_answer(stream: trio.SocketStream, timeout: float, answer: Answer) -> None:
    """Send ``answer`` and wait for the client to hang up, within ``timeout`` seconds."""
    connection = b"close, upgrade" if answer.status == 426 else b"close"
    head = [
        b"HTTP/1.1 %d %b" % (answer.status, _REASONS[answer.status]),
        b"date: %b" % formatdate(usegmt=True).encode("ascii"),
        b"connection: %b" % connection,
        b"content-length: %d" % len(answer.body),
        *(b"%b: %b" % header for header in answer.headers),
    ]
    with trio.move_on_after(timeout), suppress(trio.BrokenResourceError):
        await stream.send_all(b"\r\n".join(head) + b"\r\n\r\n" + answer.body)
        # Closing a socket with unread bytes resets the connection, and the answer may be lost on
        # the way: wait for the client to hang up first.
        await stream.send_eof()
        while await stream.receive_some(MAX_HEAD_BYTES):
            pass
