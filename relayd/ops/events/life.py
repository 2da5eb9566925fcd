"""The life of the relay: its start, its listeners, its settings, its end."""

from typing import ClassVar

from attrs import frozen

from relayd.ops.events.event import Event, Level


@frozen
class Capacity(Event):
    """How many may come, at the start and whenever SIGHUP has changed it."""

    message_id: ClassVar[str] = "5d9ecda1b70b4c24852f55e1748c52af"
    message: ClassVar[str] = (
        "room for {connections} connections and {handshakes} in a handshake, with {descriptors} file "
        "descriptors and {memory_bytes} bytes of memory"
    )
    connections: int
    """As `--max-connections` says, or computed."""
    handshakes: int
    """As `--max-handshakes` says, or computed."""
    descriptors: int
    """The limit of open files."""
    memory_bytes: int
    """The machine's memory, or what a control group leaves of it."""


@frozen
class DescriptorsMissing(Event):
    """More connections are allowed than there are file descriptors for: at the last, nobody gets in."""

    level: ClassVar[Level] = "warning"
    message_id: ClassVar[str] = "62574258ca4c45b6b32b4a428e7c5d32"
    message: ClassVar[str] = (
        "{missing} file descriptors too few for max-connections and max-handshakes: raise the limit of open "
        "files (LimitNOFILE=), or lower these"
    )
    missing: int


@frozen
class MemoryMissing(Event):
    """A limit is beyond the memory that there is: at the last, the system ends relayd before it is met."""

    level: ClassVar[Level] = "warning"
    message_id: ClassVar[str] = "9699a746f026419aafcd80f570c2bca8"
    message: ClassVar[str] = (
        "too little memory for a {setting} of {value}: set it to at most {most}, or do not set it"
    )
    setting: str
    value: int
    most: int


@frozen
class BuffersBounded(Event):
    """At the start: how much may wait in all buffers together."""

    message_id: ClassVar[str] = "7d25440588f447c7b27f1048f718c7c8"
    message: ClassVar[str] = "buffers may hold {bytes} bytes in all"
    bytes: int
    """What `--max-buffered-bytes` says, or what auto stands for here."""


@frozen
class Listening(Event):
    """A listener is open and connections are accepted."""

    message_id: ClassVar[str] = "7b8638343a969f6a7a6e36a1a7b187dd"
    message: ClassVar[str] = "listening on {address}"
    address: str
    """As for `--listen`, with the port that was really bound."""
    passed_as: str = ""
    """The name or number under which the socket was passed on; empty if relayd opened it."""


@frozen
class MetricsListening(Event):
    """Metrics are served on a listener of their own."""

    message_id: ClassVar[str] = "6b76d3148b09c4ca0924928d10e64cc5"
    message: ClassVar[str] = "metrics on {address}"
    address: str
    """As for `--metrics-listen`, with the port that was really bound."""


@frozen
class Reloaded(Event):
    """SIGHUP: the settings were read again."""

    message_id: ClassVar[str] = "1b65cba234354439f04dda9ee3492f9c"
    message: ClassVar[str] = "settings read again; changed: {changed}; for a restart: {needs_restart}"
    changed: str
    """The settings that changed, separated by commas, or none."""
    needs_restart: str
    """Those that are different in what was read, and will change with a restart only."""


@frozen
class ReloadRefused(Event):
    """SIGHUP: the settings were read again and one was refused, so that all stay as they were."""

    level: ClassVar[Level] = "error"
    message_id: ClassVar[str] = "ef69f6a7231437b1e3aad1ea6a4d97ce"
    message: ClassVar[str] = "settings read again and refused, so all stay as they were: {error}"
    error: str
    """The line that a start would have ended with."""


@frozen
class Draining(Event):
    """A signal arrived, or an operator asked: upgrades are refused, every connection is closed with 1001."""

    message_id: ClassVar[str] = "e89b333501ecdfdc48dc8071c91273a6"
    message: ClassVar[str] = "draining after {cause}: closing {connections} connections with 1001"
    cause: str
    """The signal's name, or "admin"."""
    connections: int
    """WebSocket connections that are being closed."""


@frozen
class Stopped(Event):
    """The drain is over and the process ends."""

    message_id: ClassVar[str] = "4f3b64db9be94af0ad67460f1ff7aa77"
    message: ClassVar[str] = "stopped, {unfinished} connections cut off"
    unfinished: int
    """Connections cut off because they had not finished closing in time."""
