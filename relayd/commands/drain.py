"""``relayd drain``: end a running relayd as SIGTERM does."""

import argparse
from typing import Final

from relayd.commands.admin_client import ask, configure_socket, socket_path

__all__ = ["HELP", "configure", "run"]

HELP: Final = "tell everybody 1001 and end the running relayd, as SIGTERM does"


def configure(parser: argparse.ArgumentParser) -> None:
    """Take the way to the admin socket."""
    configure_socket(parser)


def run(options: argparse.Namespace) -> int:
    """Begin the drain. Raises `relayd.commands.admin_client.Unanswered`, `relayd.configuration.BadSetting`."""
    begun = ask(socket_path(options), "POST", "drain")
    begins = "is draining already" if begun["already_draining"] else "drains"
    print(
        f"relayd {begins}: {begun['connections']} connections to close; "
        f"it ends within {begun['drain_timeout_seconds']:g} s"
    )
    return 0
