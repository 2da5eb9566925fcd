"""``relayd status``: what a running relayd is doing, on one page."""

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from relayd.commands.admin_client import ask, configure_socket, socket_path
from relayd.commands.units import duration, size

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Take ``--json`` and the way to the admin socket."""
    parser.add_argument("--json", action="store_true", help="print the whole document, for programs")
    configure_socket(parser)


def run(options: argparse.Namespace) -> int:
    """Print a summary. Raises `relayd.commands.admin_client.Unanswered`, `relayd.configuration.BadSetting`."""
    status = ask(socket_path(options), "GET", "status")
    if options.json:
        print(json.dumps(status, indent=2))
        return 0
    print(
        f"relayd {status['version']}, {status['state']} for {duration(status['uptime_seconds'])}, "
        f"process {status['pid']}\n"
    )
    for name, text in _lines(status):
        print(f"{name:<10}  {text}")
    return 0


def _lines(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    connected, totals = status["connected"], status["totals"]
    binaries, phones = connected["binaries"], connected["phones"]
    yield "listening", ", ".join(status["listeners"])
    yield "connected", f"{_counted(binaries, 'binary', 'binaries')}, {_counted(phones, 'phone')}"
    if status["in_grace"]:
        yield "in grace", f"{_counted(status['in_grace'], 'server-id')}, waiting for the binary to come back"
    # The rest has no server-id: a claim that is being probed, or a closing handshake.
    if (others := connected["connections"] - binaries - phones) > 0:
        yield "others", f"{_counted(others, 'connection')} opening or closing"
    buffered = status["buffered"]
    yield (
        "buffered",
        f"{size(buffered['bytes'])} of {size(buffered['limit_bytes'])} that may be"
        + (
            f", {_counted(closed, 'connection')} closed for it"
            if (closed := buffered["connections_closed"])
            else ""
        ),
    )
    if paused := buffered["connections_paused"]:
        yield "held back", f"{_counted(paused, 'connection')} beyond a rate"
    yield from _limits(status["limits"])
    if turned_away := status["limits"]["turned_away"]:
        yield "refused", ", ".join(f"{name} {count:,}" for name, count in sorted(turned_away.items()))
    for name in ("in", "out"):
        yield (
            f"frames {name}",
            f"{totals[f'frames_{name}']:,}, {size(totals[f'bytes_{name}'])}"
            + (f", over {_counted(totals['connections'], 'connection')}" if name == "in" else ""),
        )
    opened, limit = status["descriptors"]["open"], status["descriptors"]["limit"]
    yield "open files", f"{'?' if opened is None else f'{opened:,}'} of {limit:,}"
    settings = ", ".join(f"{name} {value}" for name, value in status["settings"].items())
    yield "settings", settings or "the defaults"


def _limits(limits: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, heading in (("connections", "places"), ("handshakes", "handshakes")):
        now, each = limits[name], limits[f"{name}_per_address"]
        text = (
            f"{now['now']:,} of {now['limit']:,}, by one address at most {each['most']:,} of {each['limit']:,}"
        )
        yield heading, text
    rate = limits["upgrade_rate"]
    if rate["per_minute"]:
        addresses = _counted(rate["addresses"], "address", "addresses")
        yield (
            "upgrades",
            f"asked for by {addresses} of late; {rate['per_minute']:,} a minute after {rate['burst']:,}",
        )


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
