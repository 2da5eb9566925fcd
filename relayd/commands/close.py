"""``relayd close``: end one phone's connection."""

import argparse

from relayd.commands.admin_client import ask, configure_socket, socket_path

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Take the connection's name and the way to the admin socket."""
    parser.add_argument("conn_id", metavar="CONN", help="the relay's name for the connection, such as c-Jx0…")
    configure_socket(parser)


def run(options: argparse.Namespace) -> int:
    """Close it. Raises `relayd.commands.admin_client.Unanswered`, `relayd.configuration.BadSetting`."""
    closed = ask(socket_path(options), "POST", "connections", options.conn_id, "close")
    print(f"closed with 1001: a phone of {closed['server_id']}, from {closed['remote']}")
    return 0
