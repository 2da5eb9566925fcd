"""``X-Forwarded-For`` and ``Forwarded``: read from the left as well, and a proxy's word against a client's."""

import re
import socket

from relayd.wire.address import IPAddress
from relayd.wire.forwarded import Contradiction, forwarded_source

LONGEST = 300
WORDS = (
    b"for=192.0.2.1",
    b"For=10.0.0.1",
    b'for="[2001:db8::1]:80"',
    b"for=unknown",
    b"for=_hidden",
    b'for="',
    b'\\"',
    b";proto=https;by=10.0.0.2",
    b", ",
    b"\nx",
    b"\nf",
    b"10.0.0.1",
    b"192.0.2.1:80",
    b"[2001:db8::1]",
    b"::ffff:10.0.0.1",
)

HONEST = "198.51.100.7"
MOST_COMMAS = 100

Source = tuple[bytes, int]
"""A packed address and a port."""


def check(data: bytes) -> None:
    """Read the lines of ``data`` as fields; the first byte of each says of which header."""
    fields = [line for line in re.sub(rb"[\r\0]", b"", data).split(b"\n") if line]
    old = [field[1:] for field in fields if field[0] % 2]
    new = [field[1:] for field in fields if not field[0] % 2]
    old_walk = _walk(_old_elements(old))
    elements = _new_elements(new)
    # Longer lists are not looked through to their left end.
    if elements is not None and max(b"".join(side).count(b",") for side in (old, new)) <= MOST_COMMAS:
        new_walk = _walk(elements)
        if old_walk and new_walk and _address(old_walk) != _address(new_walk):
            assert _read(old, new) == "contradiction"
        else:
            assert _read(old, new) == (new_walk or old_walk or [None])[-1]
    _check_that_the_proxy_is_heard(old, new)


def _check_that_the_proxy_is_heard(old: list[bytes], new: list[bytes]) -> None:
    """Whatever a client has written, what a proxy writes behind it counts, with another proxy or without."""
    honest = socket.inet_aton(HONEST), 0
    said = HONEST.encode()
    for before in (old, new):
        for more in ([b"%b" % said], [b"%b, 10.0.0.1" % said], [said, b"10.0.0.1"]):
            assert _read([*before, *more], []) == honest
            assert _read(_appended(before, more), []) == honest
            more = [b", ".join(b"for=%b" % word for word in value.split(b", ")) for value in more]
            assert _read([], [*before, *more]) == honest
            assert _read([], _appended(before, more)) == honest


def _appended(before: list[bytes], more: list[bytes]) -> list[bytes]:
    return [*before[:-1], b", ".join([*before[-1:], *more])]


def _read(old: list[bytes], new: list[bytes]) -> Source | str | None:
    try:
        source = forwarded_source(old, new, _trusted)
    except Contradiction:
        return "contradiction"
    return None if source is None else (source.address.packed, source.port)


def _trusted(address: IPAddress) -> bool:
    return address.packed[0] in (10, 0xFD)


def _address(walk: list[Source | None]) -> bytes | None:
    return walk[-1][0] if walk[-1] else None


def _walk(elements: list[Source | None]) -> list[Source | None]:
    """The sources that count so far, from the right, the last of which is the client; [None] for nobody."""
    walk: list[Source | None] = []
    for source in reversed(elements):
        if source is None:
            return walk or [None]
        walk.append(source)
        if source[0][0] not in (10, 0xFD):
            break
    return walk


def _old_elements(values: list[bytes]) -> list[Source | None]:
    words = [word.strip(" \t") for word in b",".join(values).decode("latin-1").split(",")]
    return [_node(f"[{word}]" if word.count(":") > 1 and word[0] != "[" else word) for word in words if word]


def _new_elements(values: list[bytes]) -> list[Source | None] | None:
    """The elements by the grammar of RFC 7239, read from the left; None if that does not hold."""
    found: list[Source | None] = []
    for value in values:
        tokens = _tokens(value.decode("latin-1"))
        if tokens is None:
            return None
        elements: list[list[re.Match[str]]] = [[]]
        for token in tokens:
            if token[0] == ",":
                elements.append([])
            else:
                elements[-1].append(token)
        for element in elements:
            while element and element[0][0].isspace():
                del element[0]
            while element and element[-1][0].isspace():
                del element[-1]
            kinds = "".join("p" if token["name"] else token[0][0] for token in element)
            if " " in kinds or "\t" in kinds or "pp" in kinds:
                return None
            if element:
                nodes = [token for token in element if (token["name"] or "").lower() == "for"]
                found.append(_node(_content(nodes[0])) if len(nodes) == 1 else None)
    return found


_TOKEN = re.compile(
    r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    r"(?:(?P<plain>[!#$%&'*+.^_`|~0-9A-Za-z-]+)"
    r'|"(?P<quoted>(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*)")'
    r"|[;,]|[ \t]+"
)


def _tokens(text: str) -> list[re.Match[str]] | None:
    tokens = []
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        tokens.append(token)
        position = token.end()
    return tokens


def _content(pair: re.Match[str]) -> str:
    return pair["plain"] or re.sub(r"\\(.)", r"\1", pair["quoted"])


def _node(text: str) -> Source | None:
    """Section 6: an address, in brackets if it is of IPv6, and perhaps a port; None if it names nobody."""
    host, bracket, port = text.partition("]") if text.startswith("[") else text.partition(":")
    if bracket == "]":
        host = host[1:]
        if port and port[0] != ":":
            return None
        bracket, port = port[:1], port[1:]
    number = 0
    if bracket:
        if re.fullmatch("[0-9]{1,5}", port) and int(port) < 65536:
            number = int(port)
        elif re.fullmatch("_[0-9A-Za-z._-]+", port) is None:
            return None
    try:
        packed = socket.inet_pton(socket.AF_INET6 if text.startswith("[") else socket.AF_INET, host)
    except (OSError, ValueError):
        return None
    mapped = socket.inet_pton(socket.AF_INET6, "::ffff:0.0.0.0")[:12]
    return (packed[12:] if len(packed) == 16 and packed[:12] == mapped else packed), number
