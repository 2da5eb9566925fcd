"""A relay that says how many tasks it has, and what any relay holds, seen from outside.

``python -m tests.observed FILE …`` is relayd with the flags ``…``, which on SIGUSR1 writes to FILE how
many trio tasks there are.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio
from attrs import frozen

from tests.relay_process import RelayProcess, until


class ObservedRelay(RelayProcess):
    """A relay that tells how many tasks it has."""

    def __init__(
        self, log: Path, *flags: str, env: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> None:
        self._tasks = log.with_suffix(".tasks")
        program = ("-m", "tests.observed", str(self._tasks))
        super().__init__(log, *flags, env=env, wrapper=wrapper, program=program)

    def tasks(self) -> int:
        """The number of its trio tasks, now."""
        self._tasks.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        until(self._tasks.exists, "answer to SIGUSR1")
        return int(self._tasks.read_text())


@frozen
class Holdings:
    """What the daemon holds: of trio and of the system. Memory in bytes."""

    tasks: int
    descriptors: int
    threads: int
    memory: int

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.descriptors} descriptors, {self.threads} threads, "
            f"{self.memory / 2**20:.1f} MiB"
        )


def holdings(relay: ObservedRelay) -> Holdings:
    """Read `Holdings` from the daemon and from /proc."""
    status = status_of(relay.pid)
    return Holdings(relay.tasks(), descriptors(relay.pid), status["Threads"], status["VmRSS"] * 1024)


def status_of(pid: int) -> dict[str, int]:
    """The numbers of ``/proc/PID/status``, sizes in KiB."""
    fields = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in fields if len(words) > 1 and words[1].isdecimal()}


def peak_memory(pid: int) -> int:
    """The most bytes that were resident since a process began, or since 5 was written to its clear_refs."""
    return status_of(pid)["VmHWM"] * 1024


def descriptors(pid: int) -> int:
    """How many file descriptors a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def main() -> int:
    """Be the relay; return its exit status."""
    from relayd.cli import main as be_relayd

    target = Path(sys.argv[1])
    fresh = target.with_suffix(".new")

    def write_tasks(*_: object) -> None:
        fresh.write_text(str(trio.lowlevel.current_statistics().tasks_living))
        os.replace(fresh, target)

    signal.signal(signal.SIGUSR1, write_tasks)
    return be_relayd(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
