"""Who is calling, as HTTP proxies report it: ``X-Forwarded-For`` and ``Forwarded`` (RFC 7239).

Each proxy appends the address that called it, so a list is as good as those who wrote it, and is read
from its end: what a trusted proxy appended is true, and if that is a trusted proxy's address too, so is
what that one appended before. The first address that is no trusted proxy's is the client's. What stands
left of it the client may have written, and it is not looked at, be it well formed or not: so nothing
that a client sends changes whom it is taken for.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from relayd.wire.address import IPAddress, Source, ip_address, port_number

__all__ = ["Contradiction", "forwarded_source"]

Trusted = Callable[[IPAddress], bool]
"""Whether an address is a trusted proxy's."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'

_PAIR: Final = re.compile(rb"(%b)=(%b|%b)" % (_TOKEN, _TOKEN, _QUOTED))
_ELEMENT: Final = re.compile(rb"[ \t]*+((?:%b)?+(?:;(?:%b)?+)*+)[ \t]*+" % (_PAIR.pattern, _PAIR.pattern))
"""A forwarded-element (RFC 7239, section 4), and the white space around it in a list."""

_NODE: Final = re.compile(
    r"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|([0-9.]+))(?::(?:([0-9]{1,5})|_[0-9A-Za-z._-]+))?"
)
"""A node that says who it is (RFC 7239, section 6). ``unknown`` and ``_hidden`` do not."""

_BARE_IPV6: Final = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")


_MOST_COMMAS: Final = 100
"""How far a list is looked through. RFC 9110, section 5.6.1.2, wants a reasonable number of empty elements
ignored, and there are not so many proxies."""


class Contradiction(ValueError):
    """``X-Forwarded-For`` and ``Forwarded`` lead to different addresses. Carries neither."""


def forwarded_source(
    x_forwarded_for: Sequence[bytes], forwarded: Sequence[bytes], trusted: Trusted
) -> Source | None:
    """Who called the first of the trusted proxies. Takes the values of all fields of each name, in order.

    None if the proxy that sent them does not say. An element that hides its address or is malformed ends
    the walk, and so does the list: the last address before it is the one to rely on, which is then a
    trusted proxy's. What stands left of a list's last 100 commas is as good as malformed.

    A proxy writes one of the two and mostly passes on the other as its client sent it; which one it
    writes, it does not say. Were one of them to win, then behind a proxy that writes the other all clients
    would choose their addresses; were neither to count, they could hide behind the proxy's. So where there
    are both, they must lead to one address. Raises `Contradiction` if they do not.
    """
    old_said, old = _walk(_x_forwarded_for(x_forwarded_for), trusted)
    new_said, new = _walk(_forwarded(forwarded), trusted)
    if old_said and new_said and (old and old.address) != (new and new.address):
        raise Contradiction
    return new if new_said else old


def _walk(sources: Iterator[Source | None], trusted: Trusted) -> tuple[bool, Source | None]:
    """Whether there was anything, and the last source that can be relied on."""
    said, last = False, None
    for source in sources:
        said = True
        if source is None:
            break
        last = source
        if not trusted(source.address):
            break
    return said, last


def _x_forwarded_for(values: Sequence[bytes]) -> Iterator[Source | None]:
    """Each element, from the right; None for one that names nobody."""
    for value in _from_the_last(values):
        for element in reversed(value.split(b",")):
            if text := element.strip(b" \t").decode("latin-1"):
                yield _source(f"[{text}]" if _BARE_IPV6.fullmatch(text) else text)


def _forwarded(values: Sequence[bytes]) -> Iterator[Source | None]:
    """Each element, from the right; None for one that names nobody."""
    for value in _from_the_last(values):
        for element in _elements(value):
            if element is None:
                yield None
            elif element:
                nodes = [node for name, node in _PAIR.findall(element) if name.lower() == b"for"]
                yield _source(_unquoted(nodes[0])) if len(nodes) == 1 else None


def _from_the_last(values: Sequence[bytes]) -> Iterator[bytes]:
    """``values``, the last first, and something malformed in the place of what is not looked at."""
    left = _MOST_COMMAS
    for value in reversed(values):
        first, *others = value.rsplit(b",", left)
        if b"," in first:
            yield b",".join((b"\0", *others))
            return
        yield value
        left -= len(others)


def _elements(value: bytes) -> Iterator[bytes | None]:
    """Each element of ``value``, from the right; None where there is none, and then no more.

    To find them from the left would be to believe the quotes of who wrote first: ``for="`` from a client
    would swallow what its proxy appended. From the right, no comma within the quotes of a well-formed
    element can be taken for its beginning: behind it there is an odd number of quotes.
    """
    end = len(value)
    while end >= 0:
        start = end
        while (element := _ELEMENT.fullmatch(value, (start := value.rfind(b",", 0, start)) + 1, end)) is None:
            if start < 0:
                yield None
                return
        yield element[1]
        end = start


def _unquoted(value: bytes) -> str:
    text = value.decode("latin-1")
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _source(node: str) -> Source | None:
    match = _NODE.fullmatch(node)
    if match is None:
        return None
    try:
        return Source(ip_address(match[1] or match[2]), port_number(match[3] or "0"))
    except ValueError:
        return None
