"""What a relay on the internet must not be: with ``--production`` it does not start as such.

Each objection is one line, the reason and the fix. Limits that are too weak anywhere are objected to by
`relayd.settings.Settings.contradiction`; a secret that others can read is refused by whoever reads it, with or
without ``--production``.
"""

import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal

from relayd.ops.capacity import System, beyond_memory
from relayd.settings import Settings
from relayd.values import Address, TrustedProxy

__all__ = [
    "NotForProduction",
    "process_objections",
    "refuse_addresses",
    "refuse_limits",
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


def refuse_limits(settings: Settings, system: System) -> None:
    """Raises `NotForProduction` if ``settings`` are for production and have a limit that bounds nothing here.

    Descriptors are not looked at: without one left relayd goes on, but without memory it is ended.
    """
    for beyond in beyond_memory(settings, system) if settings.production else ():
        raise NotForProduction(
            f"{beyond.setting}: {beyond.value} is too weak a limit for production where there are "
            f"{system.memory} bytes of memory, the machine's or a control group's; "
            f"set it to at most {beyond.most}, or do not set it"
        )


def refuse_addresses(settings: Settings) -> None:
    """Raises `NotForProduction` for the first address that relayd would open for ``settings`` and should not.

    What is passed on shows its address once it is ours: it is for `refuse_listener` and
    `refuse_metrics_listener` then.
    """
    for address in settings.listen:
        if not address.fd:
            refuse_listener(settings.resolved(address), settings)
    for address in settings.metrics_listen:
        if not address.fd:
            refuse_metrics_listener(address, settings)


def refuse_listener(address: Address, settings: Settings) -> None:
    """Raises `NotForProduction` if ``settings`` are for production and nobody should listen on ``address``.

    That is `relayd.settings.Settings.resolved`.
    """
    # Who sends no PROXY header where one is a must gets no further, and only trusted proxies may send it.
    if not settings.production or address.tls or address.proxy or _reach(address) == "machine":
        return
    if settings.certified and address.tls is False and address.proxy is False:
        raise NotForProduction(
            f"production: {address} would take anybody's connections without TLS, in spite of the certificate; "
            "remove +plain; or +direct, if a proxy does TLS there; or listen on 127.0.0.1 or unix:/path"
        )
    if not any(_comes_from_elsewhere(proxy) for proxy in settings.trusted_proxies):
        raise NotForProduction(
            f"production: {address} would take anybody's connections without TLS; set tls-cert and tls-key, or "
            "domain; or listen on 127.0.0.1 or unix:/path, for a proxy on this machine; or name in "
            "trusted-proxies the one on another that does TLS"
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


def _comes_from_elsewhere(proxy: TrustedProxy) -> bool:
    """Whether ``proxy`` may be on another machine, and so has use for a listener that is not local."""
    return proxy != "unix" and not proxy.is_loopback


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
