"""How many connections this machine has room for, where nobody has said how many there may be."""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import frozen

from relayd.edge.admission import Limits
from relayd.ops.events import MemoryMissing
from relayd.settings import Settings

__all__ = ["BYTES_EACH", "System", "beyond_memory", "buffer_limit", "limits_of", "too_few_descriptors"]

_OWN_DESCRIPTORS: Final = 128
"""File descriptors for whatever is no connection of a stranger's: listeners, the log, 64 visits of a CA, 32
operators, 8 scrapes, files that Python opens."""

BYTES_EACH: Final = 80 * 1024
"""Memory for a connection, as measured with TLS, once it has carried much at a time each way and pinged: 69 KiB
in relayd, and the kernel's part, 6 KiB. One that is idle has 27, or 11 without TLS."""

_LEAST_BYTES_EACH: Final = 12 * 1024
"""What it takes in relayd alone, idle and without TLS."""

_SHARE_OF_MEMORY: Final = 2
"""Half of the memory is for connections. The rest is for what waits in outboxes, and for others."""

_SHARE_FOR_BUFFERS: Final = 4
"""A quarter of the memory is for buffers."""

_MOST_FOR_BUFFERS: Final = 2
"""No more than half of it: what waits may take twice its bytes in a ragged heap (docs/security.md)."""

_LEAST_BUFFERS: Final = 16 * 1024 * 1024

_FEWEST: Final = 16

_HANDSHAKES_IN: Final = 8
"""One place in so many is for those in a handshake, who leave it within a second if they are honest."""

_MOST_HANDSHAKES: Final = 2048
"""More than a core can let in during a handshake's round trips, at some 1,000 in a second."""

_ADDRESSES_TO_FILL: Final = 16
"""How many addresses it takes at least to hold all places of a handshake, where these are not few."""

_OWN_CGROUPS: Final = Path("/proc/self/cgroup")
_CGROUPS: Final = Path("/sys/fs/cgroup")


@frozen
class System:
    """What the system gives to this process."""

    descriptors: int
    """File descriptors, once their limit is raised as far as it goes."""
    memory: int
    """Bytes that it may use: the machine's, or less if a control group says so."""

    @classmethod
    def here(cls, listed: Path = _OWN_CGROUPS, mounted: Path = _CGROUPS) -> "System":
        """What there is for this process; ``listed`` and ``mounted`` are as for `memory_limits`."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(
            resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            min([memory, *memory_limits(listed, mounted)]),
        )


def limits_of(settings: Settings, system: System) -> Limits:
    """The limits that ``settings`` ask for; what they leave to us is as much as ``system`` has room for."""
    places = min(
        system.descriptors - _OWN_DESCRIPTORS, system.memory // _SHARE_OF_MEMORY // BYTES_EACH, 1_000_000
    )
    handshakes = max(_FEWEST, min(places // _HANDSHAKES_IN, _MOST_HANDSHAKES))
    if isinstance(settings.max_handshakes, int):
        handshakes = settings.max_handshakes
    connections = max(_FEWEST, places - handshakes)
    if isinstance(settings.max_connections, int):
        connections = settings.max_connections
    return Limits(
        connections=connections,
        connections_per_address=settings.max_connections_per_address,
        handshakes=handshakes,
        handshakes_per_address=max(1, min(max(handshakes // _ADDRESSES_TO_FILL, _FEWEST), handshakes // 2)),
        upgrade_rate=settings.upgrade_rate,
        upgrade_burst=settings.upgrade_burst,
    )


def buffer_limit(settings: Settings, system: System) -> int:
    """Bytes that may wait in all buffers together."""
    if isinstance(settings.max_buffered_bytes, int):
        return settings.max_buffered_bytes
    return max(system.memory // _SHARE_FOR_BUFFERS, _LEAST_BUFFERS)


def too_few_descriptors(limits: Limits, system: System) -> int:
    """How many file descriptors are missing for ``limits`` to be met before the system's own."""
    return max(0, limits.connections + limits.handshakes + _OWN_DESCRIPTORS - system.descriptors)


def beyond_memory(settings: Settings, system: System) -> Iterator[MemoryMissing]:
    """The limits that somebody has set, and that ``system`` ends us before we meet.

    Connections that there are no descriptors for need no memory.
    """
    most = system.memory // _MOST_FOR_BUFFERS
    if isinstance(settings.max_buffered_bytes, int) and settings.max_buffered_bytes > most:
        yield MemoryMissing("max-buffered-bytes", settings.max_buffered_bytes, most)
    most = system.memory // _LEAST_BYTES_EACH
    for name, count in (
        ("max-connections", settings.max_connections),
        ("max-handshakes", settings.max_handshakes),
    ):
        if isinstance(count, int) and min(count, system.descriptors) > most:
            yield MemoryMissing(name, count, most)


def memory_limits(listed: Path, mounted: Path) -> Iterator[int]:
    """Bytes that control groups allow: cgroups(7), of both versions, and of each group around ours.

    ``listed`` is /proc/self/cgroup, and ``mounted`` is where the hierarchies are. What is not there, or
    cannot be read, allows all.
    """
    with suppress(OSError):
        for line in listed.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, names = mounted, ["memory.max", "memory.high"]
            elif "memory" in controllers.split(","):
                root, names = mounted / "memory", ["memory.limit_in_bytes"]
            else:
                continue
            group = root / path.lstrip("/")
            for directory in (group, *group.parents[: len(group.parts) - len(root.parts)]):
                for name in names:
                    # "max" is no number, and the root of a hierarchy has no such file.
                    with suppress(OSError, ValueError):
                        yield int((directory / name).read_text())
