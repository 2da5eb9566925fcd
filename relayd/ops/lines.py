"""Events as lines: text for people, JSON for machines."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from attrs import fields

from relayd.ops.events import Event, Level

__all__ = ["as_json", "as_text", "quoted", "values_of"]

_BARE: Final = re.compile(r"[\w.:/\[\]@+*-]+", re.ASCII)

# Select Graphic Rendition of ECMA-48.
_DIM: Final = "2"
_BOLD: Final = "1"
_COLOURS: Final[dict[Level, str]] = {"debug": _DIM, "info": "36", "warning": "33", "error": "1;31"}


def as_json(event: Event) -> bytes:
    """One JSON object and a line feed: ``time``, ``level``, ``event``, and the event's fields."""
    document = {"time": _now(), "level": event.level, "event": event.name, **values_of(event)}
    try:
        return msgspec.json.encode(document) + b"\n"
    except UnicodeEncodeError:  # Bytes of a file's name that are not UTF-8.
        return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def as_text(*, colour: bool) -> Callable[[Event], bytes]:
    """What makes one line of text, ``time level name key=value …``, empty values left out.

    A terminal can show it whatever the values are: what cannot be printed is escaped.
    """

    def painted(text: str, rendition: str) -> str:
        return f"\x1b[{rendition}m{text}\x1b[0m" if colour else text

    def line(event: Event) -> bytes:
        parts = [
            painted(_now(), _DIM),
            painted(f"{event.level:<7}", _COLOURS[event.level]),
            painted(event.name, _BOLD),
        ]
        for name, value in values_of(event).items():
            if value != "":
                parts.append(f"{painted(name, _DIM)}={quoted(value)}")
        return " ".join(parts).encode() + b"\n"

    return line


def values_of(event: Event) -> dict[str, Any]:
    """The fields of ``event`` by name."""
    # Events are flat, and `attrs.asdict` looks into each value to see whether this one is.
    return {attribute.name: getattr(event, attribute.name) for attribute in fields(type(event))}


def quoted(value: object) -> str:
    """``value`` as it is if it is one plain word, else between quotes, with what cannot be printed escaped."""
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=not text.isprintable())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
