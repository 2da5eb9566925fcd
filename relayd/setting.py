"""What a setting is: a field that carries all that is to be known of it.

The flag, the environment variable, the key in the file, `--help`, ``relayd check`` and the message that refuses
a value are all made from that field, so they cannot disagree. The fields themselves are in `relayd.settings`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from attrs import Attribute, field, frozen

from relayd.values import LEAST_RATE, Auto, Rate, parse_rate, seconds, whole, whole_or_auto

__all__ = ["Setting", "count", "duration", "flag_of", "rate", "room", "setting", "setting_of", "shown"]

T = TypeVar("T")


@frozen
class Setting:
    """What the field of a setting carries beside its default."""

    parse: Callable[[str], Any]
    """Raises ValueError for a value that is not accepted."""
    accepted: str
    metavar: str
    help: str
    live: bool = False
    """Whether SIGHUP can change it while relayd runs."""
    weakest: float | None = None
    """Of a limit: the highest value with which ``--production`` takes it for one."""
    zero_is_none: bool = False
    """Whether 0 stands for no limit at all."""
    is_path: bool = False
    """Whether it is the path of a file, or a word in its place."""

    def from_flag(self, text: str, directory: str) -> str:
        """``text`` as it is for `parse`: a path that was typed in ``directory`` begins there."""
        try:
            self.parse(text)
        except ValueError:
            # No word, and not absolute; an address is left for what it is.
            if self.is_path and not text.startswith("unix:"):
                return str(Path(directory, text))
        return text


def setting_of(attribute: "Attribute[Any]") -> Setting:
    """The `Setting` of a field of `Settings`."""
    found = attribute.metadata["setting"]
    assert isinstance(found, Setting)
    return found


def flag_of(name: str) -> str:
    """The name of the field called ``name`` to those who set it, without dashes in front: ``max-phones``."""
    return name.replace("_", "-")


def shown(value: object) -> str:
    """A setting's value as one would write it."""
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value) or "off"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value) or "off"


def setting(
    default: T,
    parse: Callable[[str], T],
    *,
    accepted: str,
    metavar: str,
    help: str,  # noqa: A002
    live: bool = False,
    weakest: float | None = None,
    zero_is_none: bool = False,
    is_path: bool = False,
) -> T:
    """A field whose texts are all its own; the parameters are those of `Setting`."""
    carried = Setting(parse, accepted, metavar, help, live, weakest, zero_is_none, is_path)
    value: T = field(default=default, metadata={"setting": carried})
    return value


def duration(
    default: float,
    help: str,  # noqa: A002
    lowest: float = 0.001,
    *,
    live: bool = False,
    weakest: float | None = None,
) -> float:
    """A field of seconds, from ``lowest`` to a day."""
    return setting(
        default,
        seconds(lowest, 86400.0),
        accepted=f"a number of seconds from {lowest:g} to 86400, such as 30 or 0.5",
        metavar="SECONDS",
        help=help,
        live=live,
        weakest=weakest,
    )


def rate(sender: str) -> Rate:
    """A field of how fast a ``sender`` may send."""
    return setting(
        Rate(),
        parse_rate,
        accepted="off, or BYTES/FRAMES such as 1048576/500, either of them 0 for no bound, and otherwise "
        f"{LEAST_RATE} bytes or more,",
        metavar="BYTES/FRAMES",
        help=f"most that one {sender} may send in a second, such as 1048576/500, either of them 0 for no "
        "bound; beyond it relayd reads more slowly, and drops nothing",
        live=True,
    )


def count(
    default: int,
    help: str,  # noqa: A002
    lowest: int,
    highest: int,
    metavar: str,
    weakest: int | None = None,
) -> int:
    """A field of a whole number from ``lowest`` to ``highest``. If 0 is one of them it stands for no limit."""
    return setting(
        default,
        whole(lowest, highest),
        accepted=f"a whole number from {lowest} to {highest}",
        metavar=metavar,
        help=help,
        live=True,
        weakest=weakest,
        zero_is_none=not lowest,
    )


def room(help: str, weakest: int | None = None) -> int | Auto:  # noqa: A002
    """A field of how many there may be at a time."""
    return setting(
        "auto",
        whole_or_auto(1, 1_000_000),
        accepted="auto, or a whole number from 1 to 1000000",
        metavar="COUNT",
        help=f"{help}; auto is what there is room for: see `relayd check`",
        live=True,
        weakest=weakest,
    )
