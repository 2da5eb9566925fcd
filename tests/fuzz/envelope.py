"""The envelope: what the standard library's json and the contract's rules make of the same message."""

import re
from json import JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NoReturn

from attrs import frozen

from relayd.wire.close import may_travel
from relayd.wire.envelope import Envelope, Malformed, decode_envelope, envelope_prefix, is_json

LONGEST = 1_000
WORDS = (
    b'"conn_id"',
    b'"frame"',
    b'"close_code"',
    b'"push_wake"',
    b'{"conn_id":"c-1","frame":',
    b',"close_code":4401}',
    b"null",
    b"true",
    b"false",
    b"NaN",
    b"Infinity",
    b"1e400",
    b"4401.0",
    b'"\\ud800"',
    b"\\uD8",
    b"\\u00",
    b"\\\\",
    b"\xc3\xa9",
    b"\xf0\x9f\x98\x80",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
)

SEEDS = (
    b'{"push_wake":{},"close_code":1005}',
    b'{"conn_id":"c","close_code":1005}',
    b'{"conn_id":"c","frame":null}',
    b'{"push_wake":{},"close_code":%b,"close_code":4401}' % (b"9" * 40),
    b'{"conn_id":"c","frame": null ,"close_code":4401}',
    b'{"conn_id":1,"conn_id":"c","frame":1}',
    # What must not come to spell "c-1".
    rb'{"conn_id":"\uD800","conn_id":"\\ud800","frame":1}',
    rb'{"conn_id":"\ud063-1","frame":"\ud800"}',
    rb'{"conn_id":"c","frame":"\ud800 \ue800 \uDFFF","x":"\\ud800"}',
    rb'{"conn_id":"c","frame":"\ud800 \uc800 \uC800 \ue800 \uE800 \uf800","x":"\uDEAD"}',
)

_PIECES = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b" ",
        b'"conn_id":"c-1"',
        b'"conn_id":',
        b'"frame":',
        b'"close_code":',
    ),
    *(
        b'"push_wake":{}',
        b'"push_wake":',
        b"4401",
        b"1005",
        b"-0",
        b"1e3",
        b"4401.0",
        b"9" * 40,
        b"null",
        b"true",
    ),
    *(
        b'"c-1"',
        b'""',
        rb'"\ud83d\ude00"',
        rb'"\uD800"',
        rb'"\\ud800"',
        b'"other":',
        rb'"conn_\u0069d":',
        b'"\xc3\xa9"',
    ),
)
"""What a message is put together from, if its first byte says so: chance seldom writes JSON."""

_DEEP = 200
"""Brackets from which on either side may run into the interpreter's limit of recursion."""

_CONN_ID = re.compile(r"[A-Za-z0-9_-]*")

_SPACE = re.compile(r"[ \t\n\r]*")

_FIELDS = frozenset({"conn_id", "frame", "close_code", "push_wake"})


class _Number(str):
    """A number as it stands."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


_JSON = JSONDecoder(parse_int=_Number, parse_float=_Number, parse_constant=_refuse)


def check(data: bytes) -> None:
    """Read ``data`` as a binary's message and as a phone's."""
    if data.startswith(b"\0"):
        data = b"".join(_PIECES[byte % len(_PIECES)] for byte in data[1:])
    try:
        ours: Envelope | None = decode_envelope(data)
    except Malformed:
        ours = None
    valid = is_json(data)
    assert valid or ours is None
    if data.count(b"[") + data.count(b"{") > _DEEP:
        return
    try:
        text = data.decode()
        fields = _fields(text)
    except ValueError:
        assert not valid
        return
    assert valid
    assert _fields((envelope_prefix("c-1") + data + b"}").decode()) == [
        _Field("conn_id", "c-1", '"c-1"'),
        _Field("frame", _JSON.decode(text), text.strip(" \t\r\n")),
    ]
    theirs = _judged(fields)
    if theirs is None or ours is None:
        assert theirs == ours
        return
    assert ours[1:] == theirs[1:]
    # No phone's has a surrogate or a backslash. What has may be read in some other way, but never as a phone's.
    assert ours[0] == theirs[0] or not (_CONN_ID.fullmatch(ours[0]) or _CONN_ID.fullmatch(theirs[0]))


@frozen
class _Field:
    name: str
    value: Any
    verbatim: str


def _fields(text: str) -> list[_Field]:
    """The members of an object, in their order, each as it stands; none if ``text`` is of another type.

    Raises ValueError unless it is JSON.
    """
    value = _JSON.decode(text)
    if not isinstance(value, dict):
        return []
    fields: list[_Field] = []
    position = _beyond_space(text, _beyond_space(text, 0) + 1)
    while text[position] != "}":
        if text[position] == ",":
            position = _beyond_space(text, position + 1)
        name, position = scanstring(text, position + 1, True)
        position = _beyond_space(text, _beyond_space(text, position) + 1)
        value, end = _JSON.raw_decode(text, position)
        fields.append(_Field(name, value, text[position:end]))
        position = _beyond_space(text, end)
    return fields


def _beyond_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def _judged(fields: list[_Field]) -> Envelope | None:
    """The contract's table of fields. None if it is malformed."""
    last: dict[str, _Field] = {}
    for field in fields:
        # Whichever of several a reader takes: one that is of the wrong type is malformed.
        if field.name == "conn_id" and type(field.value) is not str:
            return None
        if field.name == "close_code" and not _is_integer(field.value):
            return None
        if field.name in _FIELDS:
            last[field.name] = field
    # No integer of more digits may travel, and Python reads none of more than 4,300.
    code = int(last["close_code"].value[:20]) if "close_code" in last else 0
    if "close_code" in last and not may_travel(code):
        return None
    frame = last["frame"].verbatim.encode() if "frame" in last else b""
    if frame == b"null":
        frame = b""
    if "conn_id" not in last:
        wakes = "push_wake" in last and isinstance(last["push_wake"].value, dict)
        return ("", b"", 0) if wakes else None
    conn_id = last["conn_id"].value
    if not conn_id or not (frame or code):
        return None
    return conn_id, frame, code


def _is_integer(value: object) -> bool:
    return isinstance(value, _Number) and re.fullmatch("-?[0-9]{1,4300}", value) is not None
