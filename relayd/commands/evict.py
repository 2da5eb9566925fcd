"""``relayd evict``: free a server-id."""

import argparse

from relayd.commands.admin_client import ask, configure_socket, socket_path

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Take the server-id and the way to the admin socket."""
    parser.add_argument(
        "server_id",
        metavar="SERVER_ID",
        help="as `relayd top` shows it (write -- before one that begins with -)",
    )
    configure_socket(parser)


def run(options: argparse.Namespace) -> int:
    """Free it. Raises `relayd.commands.admin_client.Unanswered`, `relayd.configuration.BadSetting`."""
    evicted = ask(socket_path(options), "POST", "servers", options.server_id, "evict")
    print(f"{options.server_id} is free; phones closed with 4404: {evicted['phones']}")
    return 0
