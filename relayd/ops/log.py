"""Events as log lines on a stream: text for people, JSON lines for machines."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec
from attrs import fields

from relayd.ops.events import LEVELS, Emit, Event, Level

__all__ = ["logger"]

_BARE: Final = re.compile(r"[\w.:/\[\]@+*-]+", re.ASCII)


def logger(stream: TextIO, *, level: Level, log_format: str) -> Emit:
    """An `Emit` that writes to ``stream`` every event of ``level`` and above.

    ``log_format`` is "text", "json", or "auto": text if ``stream`` is a terminal, otherwise JSON.
    A stream that fails loses its lines and nothing else: the relay goes on.
    """
    if log_format == "auto":
        log_format = "text" if stream.isatty() else "json"
    line = _as_text if log_format == "text" else _as_json
    shown = LEVELS[LEVELS.index(level) :]

    def emit(event: Event) -> None:
        if event.level in shown:
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            try:
                stream.write(line(now, event.level, event.name, _values(event)) + "\n")
                stream.flush()
            except (OSError, ValueError):
                pass

    return emit


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
