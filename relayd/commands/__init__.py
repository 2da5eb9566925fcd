"""What ``relayd NAME`` does beside being the relay.

One module per command, imported when that command is asked for: ``configure`` adds its flags to a parser,
and ``run`` does it and returns the exit status.
"""

from collections.abc import Mapping
from typing import Final

__all__ = ["COMMANDS", "Unanswered"]


class Unanswered(Exception):
    """A request to the daemon came to nothing; the text says why and what to do about it."""


COMMANDS: Final[Mapping[str, str]] = {
    "check": "print every setting with its value and source; exit 2 on the first that is refused",
    "doctor": "look at a relay from outside, as a client: is all of the protocol there, "
    "and the way to it sound?",
    "status": "show what the running relayd is doing",
    "top": "watch the connections of the running relayd: rates, backlogs, ages, round trips",
    "close": "close one phone's connection (it may dial again); `relayd top` has the names",
    "evict": "free a server-id at once: close its binary and its phones (all of them may dial again)",
    "drain": "tell everybody 1001 and end the running relayd, as SIGTERM does",
    "systemd": "install relayd as a service of systemd, or remove it again",
}
"""Each module's name, and its line in the list of `relayd --help`."""
