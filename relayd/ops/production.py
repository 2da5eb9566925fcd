"""What a relay on the internet must not be: with ``--production`` it does not start as such.

Each objection is one line, the reason and the fix. Limits that are too weak are objected to by
`relayd.settings.Settings.contradiction`, since SIGHUP could set them as well; a secret that others can read is
refused by whoever reads it, with or without ``--production``.
"""

import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal

from relayd.settings import Settings
from relayd.values import Address

__all__ = [
    "NotForProduction",
    "process_objections",
    "refuse_listener",
    "refuse_metrics_listener",
    "refuse_process",
]

_CAP_NET_BIND_SERVICE: Final = 1 << 10
"""Its number in capability.h. It is what a port below 1024 takes, and opens nothing else."""

_CAPABILITY_SETS: Final = ("CapPrm", "CapEff", "CapInh", "CapAmb")


class NotForProduction(Exception):
    """It would be no relay for the internet; the text is the one line to show."""


def refuse_process() -> None:
    """Raises `NotForProduction` if this process may do more than a relay has use for."""
    for objection in process_objections(os.geteuid(), Path("/proc/self/status").read_text("utf-8", "replace")):
        raise NotForProduction(objection)


def process_objections(uid: int, status: str) -> Iterator[str]:
    """What a process of user ``uid`` has too much of; ``status`` is what its ``/proc/PID/status`` says."""
    if uid == 0:
        yield (
            "production: relayd would run as root; give it a user of its own, as `relayd systemd install` "
            "does, or User= in a unit, or `setpriv --reuid=nobody --clear-groups relayd ...`"
        )
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name in _CAPABILITY_SETS and int(value, 16) & ~_CAP_NET_BIND_SERVICE:
            yield (
                "production: relayd would have capabilities that it has no use for "
                f"({name} is {value.strip()}); start it without them: "
                "CapabilityBoundingSet=CAP_NET_BIND_SERVICE in a unit, or "
                "`setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all relayd ...`"
            )


def refuse_listener(address: Address, settings: Settings) -> None:
    """Raises `NotForProduction` if ``settings`` are for production and nobody should listen on ``address``."""
    # Who comes by way of TCP is none of those who may open unix sockets.
    proxies = [proxy for proxy in settings.trusted_proxies if proxy != "unix"]
    if settings.production and not (address.tls or address.proxy or proxies or _reach(address) == "machine"):
        raise NotForProduction(
            f"production: {address} would take anybody's connections without TLS; set tls-cert and tls-key, or "
            "domain; or trusted-proxies, if a proxy in front does TLS; or listen on 127.0.0.1 or unix:/path"
        )


def refuse_metrics_listener(address: Address, settings: Settings) -> None:
    """Raises `NotForProduction` if metrics would be for everybody to read.

    A private network is an operator's own.
    """
    if settings.production and _reach(address) == "world":
        raise NotForProduction(
            f"production: everybody could read the metrics at {address}; set metrics-listen to a port alone, "
            "to an address of a private network, or to unix:/path"
        )


def _reach(address: Address) -> Literal["machine", "network", "world"]:
    """Who gets to a listener on ``address``: this machine, a private network beside it, or everybody."""
    if address.path or address.host == "localhost":
        return "machine"
    try:
        host = ip_address(address.host.partition("%")[0])
    except ValueError:
        # A name, or no host at all, which is every address.
        return "world"
    if host.is_loopback:
        return "machine"
    return "network" if host.is_private and not host.is_unspecified else "world"
