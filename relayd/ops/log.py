"""Events as log lines on a stream: text for people, JSON lines for machines."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec
from attrs import fields

from relayd.ops.events import LEVELS, Event, Level

__all__ = ["Log"]

_BARE: Final = re.compile(r"[\w.:/\[\]@+*-]+", re.ASCII)


class Log:
    """Writes events of its level and above to a stream.

    A stream that fails loses its lines and nothing else: the relay goes on.
    """

    def __init__(self, stream: TextIO, *, level: Level, log_format: str) -> None:
        """``log_format`` is "text", "json", or "auto": text if ``stream`` is a terminal, otherwise JSON."""
        if log_format == "auto":
            log_format = "text" if stream.isatty() else "json"
        self._line = _as_text if log_format == "text" else _as_json
        self._stream = stream
        #: The least important level that is shown; it may be set at any time.
        self.level: Level = level

    def emit(self, event: Event) -> None:
        """Log ``event``, if it is important enough. Never raises."""
        if LEVELS.index(event.level) < LEVELS.index(self.level):
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            self._stream.write(self._line(now, event.level, event.name, _values(event)) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass


def _values(event: Event) -> Mapping[str, Any]:
    # Events are flat, and `attrs.asdict` looks into each value to see whether this one is.
    return {attribute.name: getattr(event, attribute.name) for attribute in fields(type(event))}


def _as_json(now: str, level: Level, name: str, values: Mapping[str, Any]) -> str:
    return msgspec.json.encode({"time": now, "level": level, "event": name, **values}).decode()


def _as_text(now: str, level: Level, name: str, values: Mapping[str, Any]) -> str:
    shown = " ".join(f"{key}={_text_value(value)}" for key, value in values.items() if value != "")
    return f"{now} {level:<7} {name} {shown}".rstrip()


def _text_value(value: object) -> str:
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
