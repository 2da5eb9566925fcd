"""What goes wrong in relayd itself, and with its log."""

import traceback
from pathlib import PurePath
from typing import ClassVar

from attrs import frozen

from relayd.ops.events.event import FAULTS, Event, Level, Limit


@frozen
class InternalError(Event):
    """A fault of relayd's own cost one connection. Please report it."""

    level: ClassVar[Level] = "error"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "6ae6abe00bb46992c8a65c28972b1416"
    message: ClassVar[str] = "fault of relayd's own, please report it, on the connection from {remote}: {error}"
    remote: str
    error: str
    """The classes of the errors and where they were raised, never their texts."""

    @classmethod
    def of(cls, remote: str, error: BaseException) -> "InternalError":
        """The event for ``error``, which may be a group."""
        return cls(remote, _whereabouts(error))


def _whereabouts(error: BaseException) -> str:
    """The class of every error in a group and the line that raised it: where to look, and no more."""
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(_whereabouts(inner) for inner in error.exceptions)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


@frozen
class JournalUnavailable(Event):
    """`--log-format journal`, but no journald is there: entries go to standard error instead."""

    level: ClassVar[Level] = "warning"
    message_id: ClassVar[str] = "af02570f244e49a9af72e87544512ff1"
    message: ClassVar[str] = "no journal at {path}: logging to standard error"
    path: str
    """Where journald's socket would be."""


@frozen
class EntriesWithheld(Event):
    """So many entries of one event were not logged, because it came too often: see "Limits"."""

    level: ClassVar[Level] = "warning"
    message_id: ClassVar[str] = "747f2232e39c009958d21ca3d0657101"
    message: ClassVar[str] = "{count} entries {event_name} withheld: more came than are logged"
    event_name: str
    count: int


@frozen
class EntriesLost(Event):
    """So many entries could not be written: the disk, the pipe or the journal was full for long."""

    level: ClassVar[Level] = "error"
    message_id: ClassVar[str] = "dd6113f0de13733aaf41f7abb8f445c2"
    message: ClassVar[str] = "{count} entries lost here: they could not be written"
    count: int
