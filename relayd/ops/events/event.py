"""What an event is: its level, its limit, its text, and who reports it."""

import re
from collections.abc import Callable
from typing import ClassVar, Literal, get_args

from attrs import frozen

Level = Literal["debug", "info", "warning", "error"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""From the most talkative to the quietest."""


@frozen
class Limit:
    """How many entries of one event are logged: ``burst`` at once, then ``per_second`` of them."""

    burst: int
    per_second: float


CHURN = Limit(burst=10_000, per_second=20)
"""For what each peer in good order does once a connection. A network that breaks and heals brings two
storms of 5,000 phones in a row, and all of it is wanted; 20 a second is 5,000 phones that come and go
once in 4 minutes."""

FAULTS = Limit(burst=1_000, per_second=5)
"""For what goes wrong. The first of them tell what it is; the rest are its volume."""


@frozen
class Event:
    """Something that happened, with what may be said of it."""

    level: ClassVar[Level] = "info"
    limit: ClassVar[Limit | None] = None
    """Set where strangers can cause the event as often as they like."""
    message_id: ClassVar[str]
    """The journal's MESSAGE_ID, for ever the same: 128 random bits, from ``systemd-id128 new``."""
    message: ClassVar[str]
    """What the journal shows people, fields in braces. Fields that may be empty come last."""

    name: ClassVar[str]
    """The event's name in logs: its class name in snake case."""

    def __init_subclass__(cls) -> None:
        cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


Emit = Callable[[Event], None]
"""Reports one event. Never raises and never waits."""
