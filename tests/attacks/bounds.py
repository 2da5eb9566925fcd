"""What an attack may cost: memory, sockets, tasks, and nothing of an honest pair's frames."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tests.attacks.peers import OVER_TLS
from tests.observed import Holdings, ObservedRelay, descriptors, holdings, peak_memory, status_of
from tests.relay_process import RelayProcess, until

MIB = 2**20

HONEST_BOUND = 5.0
"""Seconds that an honest frame may take there and back: so many that no machine is too slow."""

HONEST_MEDIAN = 0.25
"""Seconds that half of them may take at most in `make attacks`, which has a machine to itself: it is a few
milliseconds there."""

HONEST_MOST = 1.0
"""Seconds that all may take but one in twenty."""

TLS_MEMORY = 56 * 1024
"""Bytes that TLS takes for a connection: 17 KiB at rest, 22 for OpenSSL's buffers once they have grown, 17 for
a record that is not whole. In a handshake it is less."""

TASKS_PER_SOCKET = 4
"""Of a connection: its own, a writer's, and those of whoever answers its control frames."""

LARGE = os.environ.get("ATTACK_SIZE") == "large"
"""Whether attacks have the size of `make attacks`."""

RelayStarter = Callable[..., ObservedRelay]


def size(small: int, large: int, over_tls: int | None = None) -> int:
    """How many of something: ``small`` in tests that every change must pass, ``large`` in `make attacks`.

    ``over_tls`` is instead of ``large`` where each takes a handshake, which costs as much as three dials.
    """
    if not LARGE:
        return small
    return over_tls if OVER_TLS and over_tls is not None else large


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def speaks_tls(relay: RelayProcess) -> bool:
    """Whether a relay wants to be spoken to in TLS."""
    return "+tls" in relay.address


class Honest:
    """`tests.attacks.honest` as a process: it exchanges frames all the time."""

    def __init__(
        self,
        relay: RelayProcess,
        server_id: str = "honest",
        *,
        bound: float = HONEST_BOUND,
        wrapper: Sequence[str] = (),
    ) -> None:
        module = [sys.executable, "-S", "-m", "tests.attacks.honest"]
        command = [*wrapper, *module, str(relay.port), server_id, str(bound)]
        env = {**os.environ, "ATTACK_OVER": "tls" if speaks_tls(relay) else ""}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        #: Its phone's.
        self.conn_id = self._line()

    def exchange(self, count: int = 20) -> None:
        """Wait for so many round trips, all of them from now on."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"%d\n" % count)
        self.process.stdin.flush()
        answer = self._line()
        assert answer == "done", answer

    def finish(self) -> dict[str, Any]:
        """Its report; it hangs up."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        report: dict[str, Any] = json.loads(self._line())
        assert not report["fault"], report
        if LARGE:
            assert report["median"] <= HONEST_MEDIAN, report
            assert report["most"] <= HONEST_MOST, report
        return report

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        with self.process:
            pass

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()


class Attack:
    """An attack under way, and what the relay holds meanwhile."""

    def __init__(self, relay: ObservedRelay, honest: Honest, sockets: int) -> None:
        self.honest = honest
        self.before = holdings(relay)
        #: What it held when it held most sockets.
        self.height = self.before
        #: The memory that what it takes is counted from.
        self.memory_before = self.before.memory
        self._relay = relay
        self._sockets = sockets

    def count_memory_from_here(self) -> None:
        """Only what comes from now on is bounded: who attacks is connected, say."""
        self.memory_before = status_of(self._relay.pid)["VmRSS"] * 1024
        # proc(5): the peak begins anew at what is resident now.
        Path(f"/proc/{self._relay.pid}/clear_refs").write_text("5")

    def look(self) -> Holdings:
        """Take what the relay holds now for the height of the attack, and hold it to its bounds."""
        now = holdings(self._relay)
        if now.descriptors >= self.height.descriptors:
            self.height = now
        sockets = self._sockets
        assert now.descriptors - self.before.descriptors <= sockets, (now, self.before)
        assert now.tasks - self.before.tasks <= sockets * TASKS_PER_SOCKET, (now, self.before)
        assert now.threads == self.before.threads, (now, self.before)
        return now

    def over(self) -> bool:
        """Whether every descriptor and task of the attack is gone."""
        if descriptors(self._relay.pid) > self.before.descriptors:
            return False
        return self._relay.tasks() <= self.before.tasks


UnderAttack = Callable[..., AbstractContextManager[Attack]]


@contextmanager
def under_attack(
    note: Callable[[dict[str, Any]], None],
    relay: ObservedRelay,
    *,
    memory: int,
    sockets: int,
    bound: float = HONEST_BOUND,
    wrapper: Sequence[str] = (),
) -> Iterator[Attack]:
    """The body attacks. The relay may take ``memory`` bytes and ``sockets`` descriptors more meanwhile.

    Over TLS it may take `TLS_MEMORY` for each socket beside that.
    In the end descriptors and tasks are back, and an honest pair has had every frame within ``bound`` seconds
    all the time; in `make attacks`, most of them within `HONEST_MOST`, and half within `HONEST_MEDIAN`. Peak
    memory is the kernel's own figure, so no moment is missed. ``note`` is told what was measured.
    """
    if speaks_tls(relay):
        memory += sockets * TLS_MEMORY
    honest = Honest(relay, bound=bound, wrapper=wrapper)
    try:
        honest.exchange()
        attack = Attack(relay, honest, sockets)
        attack.count_memory_from_here()
        yield attack
        attack.look()
        until(attack.over, f"return to {attack.before}")
        honest.exchange()
        report = honest.finish()
    finally:
        honest.close()
    assert relay.process.poll() is None
    growth = peak_memory(relay.pid) - attack.memory_before
    assert growth <= memory, f"{growth / MIB:.1f} MiB more at the height, {memory / MIB:.1f} allowed"
    height, before = attack.height, attack.before
    note(
        {
            "memory": growth,
            "memory bound": memory,
            "sockets": height.descriptors - before.descriptors,
            "sockets bound": sockets,
            "tasks": height.tasks - before.tasks,
            **report,
        }
    )
