"""A request head and its answer, for every listener that speaks HTTP.

One request per connection. `relayd.wire.head` reads it. Answers never echo a byte of it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import formatdate
from typing import Any, Final, TypeVar

import msgspec
import trio
from attrs import frozen

from relayd.edge.stream import Stream
from relayd.routing.budget import Account, Budget
from relayd.wire.head import BadHead, Head, may_become_head, parse_head

__all__ = [
    "JSON_HEADERS",
    "Answer",
    "Request",
    "answer_or",
    "encode_head",
    "hang_up",
    "read_request",
    "send_answer",
]

T = TypeVar("T")

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100

JSON_HEADERS: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))

_END_OF_HEAD: Final = b"\r\n\r\n"

_OTHER_LINES: Final = 2
"""Of a head, those that are no headers: its first and its last, which is empty."""

_REASONS: Final = {
    200: b"OK",
    202: b"Accepted",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    421: b"Misdirected Request",
    426: b"Upgrade Required",
    429: b"Too Many Requests",
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
    unsaid: bool = False
    """Whether it is only counted: nobody is there to hear it."""

    @classmethod
    def document(cls, status: int, document: Mapping[str, Any]) -> "Answer":
        """An answer in JSON that nobody may keep for later."""
        return cls(status, JSON_HEADERS, msgspec.json.encode(document))

    @classmethod
    def not_allowed(cls, allowed: bytes = b"GET") -> "Answer":
        """The method is not ``allowed`` here."""
        return cls(405, ((b"allow", allowed),))


@frozen
class Request:
    """A whole request head, and the bytes that followed it."""

    head: Head
    leftover: bytes


async def answer_or(
    stream: Stream,
    deadline: float,
    timeout: float,
    judge: Callable[[Request], T],
    on_answer: Callable[[Answer], None],
    budget: Budget | None = None,
) -> T | None:
    """Read a request head; return what ``judge`` makes of it, or send the `Answer` that it raises.

    The whole head must be there at ``deadline``; the answer, of which ``on_answer`` is told before it is
    sent, may take ``timeout`` seconds. Nothing is sent to a client that hangs up before it has asked.
    What has come of the head counts against ``budget``.
    """
    try:
        return await _judged(stream, deadline, judge, budget)
    except Answer as raised:
        # Its traceback, and that of what it was raised for, keep the request and all that was made of it.
        answer = raised.with_traceback(None)
        answer.__context__ = None
    on_answer(answer)
    await send_answer(stream, timeout, answer)
    return None


async def _judged(
    stream: Stream, deadline: float, judge: Callable[[Request], T], budget: Budget | None
) -> T | None:
    # A function of its own, so that no request waits until its answer has been read.
    request = await read_request(stream, deadline, budget)
    return None if request is None else judge(request)


async def read_request(stream: Stream, deadline: float, budget: Budget | None = None) -> Request | None:
    """Read a whole request head, until ``deadline`` by trio's clock, holding it on ``budget``.

    None if the client hung up before that. Raises `Answer`: what a head in bad order gets, or one that is late.
    """
    received = bytearray()
    with trio.move_on_at(deadline) as scope, _counted(received, budget, scope) as account:
        length = await _read_head(stream, received, account)
        return _request(bytes(received), length) if length else None
    if trio.current_time() < deadline:
        # The budget has wanted it back.
        return None
    # Not a word to a client that has sent none: it may be a port scan, or a spare connection.
    raise Answer(408, unsaid=not received)


@contextmanager
def _counted(received: bytearray, budget: Budget | None, scope: trio.CancelScope) -> Iterator[Account | None]:
    """Of ``received``; where ``budget`` wants it back, ``scope`` is cancelled, as if nothing had come."""
    if budget is None:
        yield None
        return

    def give_up() -> None:
        account.close()
        received.clear()
        scope.cancel()

    account = Account(budget, give_up)
    try:
        yield account
    finally:
        account.close()


async def _read_head(stream: Stream, received: bytearray, account: Account | None) -> int:
    """Read until the head is whole; its length, or 0 if the client hung up before. Raises `Answer`."""
    while True:
        known = len(received)
        if known == MAX_HEAD_BYTES:
            raise Answer(431)
        # What was read last must not be kept through the wait for more: it is counted once.
        data = b""
        data = await stream.receive_some(MAX_HEAD_BYTES - known)
        # If the budget has wanted all back since, the rest must not be taken for a whole head.
        await trio.lowlevel.checkpoint_if_cancelled()
        if not data:
            return 0
        received += data
        end = received.find(_END_OF_HEAD, max(known - len(_END_OF_HEAD) + 1, 0))
        if end >= 0:
            return end + len(_END_OF_HEAD)
        if not may_become_head(received, known):
            raise Answer(400)
        if account is not None:
            account.change(len(data))


def _request(received: bytes, length: int) -> Request:
    """``length`` is the head's. Raises `Answer`."""
    # Before they are fields, which take 30 times the bytes that they are made of.
    if received.count(b"\r\n", 0, length) > MAX_HEADERS + _OTHER_LINES:
        raise Answer(431)
    try:
        head = parse_head(received[:length])
    except BadHead:
        raise Answer(400) from None
    return Request(head, received[length:])


async def send_answer(stream: Stream, timeout: float, answer: Answer) -> None:
    """Send ``answer`` and wait for the client to hang up, ``timeout`` seconds at most. Never raises."""
    if answer.unsaid:
        return
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


async def hang_up(stream: Stream) -> None:
    """Say that the answer is whole, and wait for the client to hang up. Raises `trio.BrokenResourceError`."""
    # Closing a socket with unread bytes resets the connection, and the answer may be lost on the way.
    await stream.send_eof()
    while await stream.receive_some(MAX_HEAD_BYTES):
        pass
