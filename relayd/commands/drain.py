"""``relayd drain``: end a running relayd as SIGTERM does."""

import argparse

from relayd.commands.admin_client import ask, configure_socket, socket_path

__all__ = ["configure", "run"]


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
