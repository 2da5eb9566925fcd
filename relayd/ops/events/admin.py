"""The admin socket, and what operators do with it."""

from typing import ClassVar

from attrs import frozen

from relayd.ops.events.event import Event, Level


@frozen
class AdminListening(Event):
    """The admin socket is open, for root and for relayd's own user."""

    message_id: ClassVar[str] = "3082d1dc3d1f310e2c12ab6923213832"
    message: ClassVar[str] = "admin socket open at {path}"
    path: str


@frozen
class AdminUnavailable(Event):
    """The admin socket of the default path could not be opened; relayd goes on without one."""

    level: ClassVar[Level] = "warning"
    message_id: ClassVar[str] = "5b8bbd81f0fc1ec86966dbcb44ff3058"
    message: ClassVar[str] = "no admin socket at {path}: {error}"
    path: str
    error: str


@frozen
class OperatorClosed(Event):
    """Somebody at the admin socket closed a phone's connection, with 1001."""

    message_id: ClassVar[str] = "ec5dcbe295ece3545547dd94f398c184"
    message: ClassVar[str] = "user {uid} closed phone {conn_id} of server {server_id}"
    server_id: str
    conn_id: str
    uid: int
    """Whose process asked: the user's number, 0 for root."""


@frozen
class OperatorEvicted(Event):
    """Somebody at the admin socket freed a server-id: its binary was closed with 1001, its phones with 4404."""

    message_id: ClassVar[str] = "ad2e94cd18219fb3993e3a75575e858d"
    message: ClassVar[str] = "user {uid} evicted server {server_id}, {phones} phones closed"
    server_id: str
    phones: int
    uid: int
    """Whose process asked: the user's number, 0 for root."""
