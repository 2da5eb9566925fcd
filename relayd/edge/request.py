"""A request head and its answer, for every listener that speaks HTTP.

One request per connection. `relayd.wire.head` reads it. Answers never echo a byte of it.
"""

from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Final, TypeVar

import trio
from attrs import frozen

from relayd.wire.head import BadHead, Head, may_become_head, parse_head

__all__ = ["Answer", "Request", "answer_or", "not_allowed", "send_answer"]

T = TypeVar("T")

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100

_END_OF_HEAD: Final = b"\r\n\r\n"

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


@frozen
class Request:
    """A whole request head, and the bytes that followed it."""

    head: Head
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
    received = bytearray()
    try:
        with trio.move_on_after(timeout):
            if await _read_head(stream, received):
                return judge(_request(bytes(received)))
            return None
        # Not a word to a client that has sent none: it may be a port scan, or a spare connection.
        if received:
            raise Answer(408)
    except Answer as answer:
        on_answer(answer)
        await send_answer(stream, timeout, answer)
    return None


async def _read_head(stream: trio.SocketStream, received: bytearray) -> bool:
    """Read until the head is whole; False if the client hung up before. Raises `Answer`."""
    while _END_OF_HEAD not in received:
        if len(received) == MAX_HEAD_BYTES:
            raise Answer(431)
        try:
            data = await stream.receive_some(MAX_HEAD_BYTES - len(received))
        except trio.BrokenResourceError:
            data = b""
        if not data:
            return False
        received += data
        if _END_OF_HEAD not in received and not may_become_head(received):
            raise Answer(400)
    return True


def _request(received: bytes) -> Request:
    end = received.index(_END_OF_HEAD) + len(_END_OF_HEAD)
    try:
        head = parse_head(received[:end])
    except BadHead:
        raise Answer(400) from None
    if len(head.fields) > MAX_HEADERS:
        raise Answer(431)
    return Request(head, received[end:])


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
