"""The routing headers of an upgrade (contract: "Endpoints"): who a connection says it is.

Header values come from strangers. What is kept of them is bounded and cannot disturb a log line;
the token is looked at for being there, and then it is gone: no field below has room for it.
"""

import unicodedata
from collections.abc import Iterable
from typing import Final

from attrs import frozen

__all__ = ["BadHeaders", "BinaryHello", "PhoneHello", "binary_hello", "phone_hello"]

MAX_SERVER_ID_BYTES: Final = 128
MAX_DISPLAY_CHARACTERS: Final = 128

_SERVER: Final = b"x-pyrycode-server"
_VERSION: Final = b"x-pyrycode-version"
_TOKEN: Final = b"x-pyrycode-token"
_DEVICE_NAME: Final = b"x-pyrycode-device-name"
_USER_AGENT: Final = b"user-agent"

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case, values without surrounding white space."""


class BadHeaders(ValueError):
    """A routing header is missing, empty, repeated or out of bounds: HTTP 400, and not a word more."""


@frozen
class BinaryHello:
    """What a binary says of itself; `version` is fit to be shown."""

    server_id: str
    version: str


@frozen
class PhoneHello:
    """What a phone says of itself; `device_name` is fit to be shown, and empty when it gave none."""

    server_id: str
    device_name: str


def binary_hello(headers: Headers) -> BinaryHello:
    """Read the headers of ``/v1/server``. Raises `BadHeaders`."""
    values = _routing_headers(headers)
    _required(values, _USER_AGENT)
    return BinaryHello(_server_id(values), _displayed(_required(values, _VERSION)))


def phone_hello(headers: Headers, *, require_token: bool) -> PhoneHello:
    """Read the headers of ``/v1/client``. Raises `BadHeaders`."""
    values = _routing_headers(headers)
    _required(values, _USER_AGENT)
    if require_token:
        _required(values, _TOKEN)
    return PhoneHello(_server_id(values), _displayed(values.get(_DEVICE_NAME, b"")))


def _routing_headers(headers: Headers) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    for name, value in headers:
        # Two different answers to "who are you" are an ambiguity that a proxy in front may have
        # resolved the other way, so neither is believed.
        if name in values and name.startswith(b"x-pyrycode-"):
            raise BadHeaders
        values[name] = value
    return values


def _required(values: dict[bytes, bytes], name: bytes) -> bytes:
    value = values.get(name, b"")
    if not value:
        raise BadHeaders
    return value


def _server_id(values: dict[bytes, bytes]) -> str:
    value = _required(values, _SERVER)
    if len(value) > MAX_SERVER_ID_BYTES or not all(0x20 <= byte <= 0x7E for byte in value):
        raise BadHeaders
    return value.decode("ascii")


def _displayed(value: bytes) -> str:
    """Cut to 128 characters, with whatever could steer a terminal or a log viewer escaped."""
    # Before it is cut to characters, of which each takes 4 bytes at most: what is not UTF-8 is slow to replace.
    text = value[: 4 * MAX_DISPLAY_CHARACTERS].decode("utf-8", "backslashreplace")[:MAX_DISPLAY_CHARACTERS]
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    # Cc: control characters. Cf: formatting, such as the overrides of writing direction that make
    # a name read backwards. Zl, Zp: line and paragraph separators.
    if unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape").decode("ascii")
