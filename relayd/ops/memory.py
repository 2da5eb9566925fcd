"""How much memory there is for this process."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

__all__ = ["memory_limit", "quarter_of_memory"]


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may have: what the machine has, or less if one of its cgroups says so.

    ``root`` is where ``proc`` and ``sys`` are. Both versions of cgroups are asked: see cgroups(7), and the
    kernel's ``admin-guide/cgroup-v2.rst`` for ``memory.max`` and ``memory.high``.
    """
    found = re.search(r"^MemTotal:\s+(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE)
    assert found is not None
    return min(int(found[1]) * 1024, *_limits(root))


def quarter_of_memory() -> int:
    """What ``--max-buffered-bytes auto`` stands for: at least 16 MiB.

    The rest is for connections themselves, some 30 KiB each, for what malloc does not give back at once,
    and for the kernel's own buffers of each socket, which count against a cgroup too.
    """
    return max(memory_limit() // 4, 16 * 1024 * 1024)


def _limits(root: Path) -> Iterator[int]:
    """Of every cgroup that this process is in, and of those around it, as far as they can be seen from here."""
    # Where there is none, the machine's memory is the limit: more than any.
    yield 1 << 62
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                mount, names = root / "sys/fs/cgroup", ["memory.max", "memory.high"]
            elif "memory" in controllers.split(","):
                mount, names = root / "sys/fs/cgroup/memory", ["memory.limit_in_bytes"]
            else:
                continue
            group = PurePosixPath(path)
            for directory in (group, *group.parents):
                for name in names:
                    # "max", where there is no limit; no such file, in the root or outside of our namespace.
                    with suppress(OSError, ValueError):
                        yield int((mount / directory.relative_to("/") / name).read_text())
