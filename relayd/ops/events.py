"""Every event that relayd reports, as a type (contract: "Logs").

One class per event, with exactly the fields that may be seen. Log entries are made from these
fields and from nothing else, so what has no field here cannot leak: no event has room for a token,
for bytes of a frame or an envelope, or for the text of somebody else's error.

`docs/events.md` is this file as a table: run ``python -m relayd.ops.events`` to print it anew.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import ClassVar, Literal, get_args

from attrs import fields, frozen

__all__ = ["LEVELS", "Emit", "Event", "Level", "as_markdown"]

Level = Literal["debug", "info", "warning", "error"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""From the most talkative to the quietest."""

EndedBy = Literal["peer", "relay", "network"]
"""Who ended a connection: a Close frame of the peer, a decision of relayd, or neither (it vanished)."""


@frozen
class Event:
    """Something that happened, with what may be said of it."""

    level: ClassVar[Level] = "info"

    @property
    def name(self) -> str:
        """The event's name in logs: its class name in snake case."""
        return _snake_case(type(self).__name__)


Emit = Callable[[Event], None]
"""Reports one event. Never raises and never waits."""


@frozen
class Listening(Event):
    """A listener is open and connections are accepted."""

    address: str
    """As for `--listen`, with the port that was really bound."""


@frozen
class Reloaded(Event):
    """SIGHUP: the settings were read again."""

    changed: str
    """The settings that changed, separated by commas."""
    needs_restart: str
    """Those that are different in what was read, and will change with a restart only."""


@frozen
class ReloadRefused(Event):
    """SIGHUP: the settings were read again and one was refused, so that all stay as they were."""

    level: ClassVar[Level] = "error"
    error: str
    """The line that a start would have ended with."""


@frozen
class AdminListening(Event):
    """The admin socket is open, for root and for relayd's own user."""

    path: str


@frozen
class AdminUnavailable(Event):
    """The admin socket of the default path could not be opened; relayd goes on without one."""

    level: ClassVar[Level] = "warning"
    path: str
    error: str


@frozen
class OperatorClosed(Event):
    """Somebody at the admin socket closed a phone's connection, with 1001."""

    server_id: str
    conn_id: str
    uid: int
    """Whose process asked: the user's number, 0 for root."""


@frozen
class OperatorEvicted(Event):
    """Somebody at the admin socket freed a server-id: its binary was closed with 1001, its phones with 4404."""

    server_id: str
    phones: int
    uid: int
    """Whose process asked: the user's number, 0 for root."""


@frozen
class Draining(Event):
    """A signal arrived, or an operator asked: upgrades are refused, every connection is closed with 1001."""

    cause: str
    """The signal's name, or "admin"."""
    connections: int
    """WebSocket connections that are being closed."""


@frozen
class Stopped(Event):
    """The drain is over and the process ends."""

    unfinished: int
    """Connections cut off because they had not finished closing in time."""


@frozen
class BinaryClaimed(Event):
    """A binary claimed a server-id that nobody held."""

    server_id: str
    remote: str
    version: str


@frozen
class BinaryReclaimed(Event):
    """A binary claimed a server-id in its grace window; the phones of the old one were closed with 4404."""

    server_id: str
    remote: str
    version: str
    phones: int


@frozen
class BinaryTookOver(Event):
    """The holder of a server-id did not answer; it was closed with 1011, its phones with 4404."""

    level: ClassVar[Level] = "warning"
    server_id: str
    remote: str
    version: str
    phones: int


@frozen
class ClaimRefused(Event):
    """The server-id is held by a live binary, so the newcomer was closed with 4409."""

    level: ClassVar[Level] = "warning"
    server_id: str
    remote: str
    version: str


@frozen
class BinaryReleased(Event):
    """A binary's connection ended; its server-id entered the grace window."""

    server_id: str
    remote: str
    code: int
    """The close code; 1005 for a Close frame without one, 1006 where there was no Close frame."""
    by: EndedBy
    reason: str
    """relayd's reason, where relayd ended it."""
    phones: int
    """Phones that now wait for the binary to come back."""


@frozen
class GraceExpired(Event):
    """The grace window passed unclaimed; the phones were closed with 4404 and the server-id is free."""

    server_id: str
    phones: int


@frozen
class PhoneRegistered(Event):
    """A phone was admitted."""

    server_id: str
    conn_id: str
    remote: str
    device_name: str


@frozen
class PhoneRefused(Event):
    """A phone was turned away: 4404 for want of a binary, or 4429 because there were too many phones."""

    server_id: str
    remote: str
    device_name: str
    code: int
    reason: str


@frozen
class PhoneUnregistered(Event):
    """A phone's connection ended."""

    server_id: str
    conn_id: str
    remote: str
    code: int
    """The close code; 1005 for a Close frame without one, 1006 where there was no Close frame."""
    by: EndedBy
    reason: str
    """relayd's reason, where relayd ended it; empty for a close that the binary ordered."""


@frozen
class EnvelopesDropped(Event):
    """Messages of one binary, out of one read, went nowhere."""

    level: ClassVar[Level] = "warning"
    server_id: str
    malformed: int
    """Not UTF-8, not JSON, or not an envelope."""
    unknown_phone: int
    """Addressed to no phone of this server-id; usually one that has just left."""
    push_wake: int
    """Push requests, which this version does not serve."""


@frozen
class RequestRefused(Event):
    """An HTTP request was answered with an error (never one for a missing header: that leaves no trace)."""

    level: ClassVar[Level] = "debug"
    remote: str
    status: int


@frozen
class AcceptPaused(Event):
    """The system is out of file descriptors or memory: no connection is accepted until that has passed."""

    level: ClassVar[Level] = "error"
    address: str
    error: str
    """The name of the errno."""


@frozen
class InternalError(Event):
    """A fault of relayd's own cost one connection. Please report it."""

    level: ClassVar[Level] = "error"
    remote: str
    error: str
    """The classes of the errors and where they were raised, never their texts."""


@cache
def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def as_markdown() -> str:
    """The table of `docs/events.md`."""
    rows = ["| event | level | fields | when |", "|---|---|---|---|"]
    for event in list(globals().values()):
        if not (isinstance(event, type) and issubclass(event, Event)) or event is Event:
            continue
        names = ", ".join(f"`{attribute.name}`" for attribute in fields(event))
        rows.append(f"| `{_snake_case(event.__name__)}` | {event.level} | {names} | {event.__doc__} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(as_markdown())
