"""``python -m tests.benchmarks``: measure relayd and its peers, and write ``docs/performance.md``.

The load (`load/`) is one Go process that plays the binaries and the phones, checks every byte, and
reads the relay's CPU time and memory from /proc. Within a repeat, every work is done by each relay in
turn before the next work, so that a machine that gets slower gets slower for all of them alike.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from shutil import which
from statistics import median
from typing import Final

from attrs import frozen

from tests.benchmarks.relays import (
    COMPILED,
    DESCRIPTORS,
    HAPROXY,
    PEERS,
    RELAYS,
    TOOLS,
    LoadFailed,
    Running,
    build_load,
    finish,
    running,
    settle,
)
from tests.benchmarks.report import Results, write_report

BEGAN: Final = time.monotonic()

IDLE_WINDOW: Final = 30.0
"""Seconds: as long as from one heartbeat to the next, so that each phone has exactly one."""


@frozen
class Work:
    """What the load is to do, and with whom."""

    flags: tuple[str, ...]
    floors: bool = False
    times: float = 1.0
    """How much longer than others it is measured."""
    only: tuple[str, ...] = ()
    """These relays alone: the others would take minutes, or the question is not about them."""
    tls: bool = False
    """By all that speak it."""

    def suits(self, name: str) -> bool:
        """Whether the relay called ``name`` is to do this."""
        if self.tls:
            return RELAYS[name].tls
        return name in self.only if self.only else self.floors or not RELAYS[name].floor

    def start(self, relay: Running, seconds: float, repeat: int) -> subprocess.Popen[str]:
        """Start the load, for as many seconds as measurements take otherwise."""
        return relay.load(self.flags, self.times * seconds, repeat, tls=self.tls)


WORKS: Final = {
    **{
        f"{direction} {size}": Work(("-work", direction, "-size", str(size)), floors=True)
        for size in (100, 336, 4096, 65536)
        for direction in ("down", "up")
    },
    "rtt": Work(("-work", "rtt"), floors=True, times=2.0),
    "rtt-busy": Work(
        ("-work", "rtt-busy"),
        times=4.0,
        only=("relayd", "relayd, compiled", "Go, coder/websocket", "trio-websocket"),
    ),
    "mixed": Work(("-work", "mixed"), only=("relayd", "relayd, compiled", "Go, coder/websocket")),
    "upgrades": Work(("-work", "upgrades", "-phones", "2000")),
    "storm": Work(("-work", "storm"), only=("relayd", "Go, coder/websocket")),
}

# Done by relays started anew, since a storm has made the others large.
TLS_WORKS: Final = {
    **{
        f"tls {direction} {size}": Work(("-work", direction, "-size", str(size)), tls=True)
        for size in (336, 4096, 65536)
        for direction in ("down", "up")
    },
    "tls rtt": Work(("-work", "rtt"), tls=True, times=2.0),
    "tls upgrades": Work(("-work", "upgrades", "-phones", "1000"), tls=True),
    "tls upgrades resumed": Work(("-work", "upgrades", "-phones", "1000", "-resume"), tls=True),
}

CROWDS: Final = {
    "idle": Work(("-work", "idle", "-phones", "5000")),
    # With their binaries 19,975 connections: as near to 20,000 as 20,000 descriptors allow.
    "idle 18800": Work(("-work", "idle", "-phones", "18800"), only=("relayd",)),
    "tls idle": Work(("-work", "idle", "-phones", "2000"), tls=True),
}


def missing_tools() -> str:
    """One line that says what to install, or nothing."""
    tools = {"go": which("go"), "nodejs": which("node"), "npm": which("npm"), "haproxy": HAPROXY}
    absent = [name for name, path in tools.items() if not path]
    if not list(COMPILED.glob("*.so")):
        absent.append("the compiled relayd (make compiled)")
    if importlib.util.find_spec("uvloop") is None:
        absent.append("uvloop (pip)")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < DESCRIPTORS:
        absent.append(f"a hard limit of {DESCRIPTORS} open files (ulimit -Hn)")
    return f"please install: {', '.join(absent)}" if absent else ""


def build() -> None:
    """Build what is compiled, and fetch what the peers stand on."""
    build_load()
    subprocess.run(["go", "build", "-o", str(TOOLS / "bench-go"), "."], cwd=PEERS / "go", check=True)
    subprocess.run(["npm", "ci", "--silent"], cwd=PEERS / "ws", check=True)


def record(results: Results, work: str, name: str, load: subprocess.Popen[str]) -> None:
    """Add a measurement to the results; a failure is one as well, and is shown as such."""
    try:
        figures = finish(load)
    except LoadFailed as failure:
        figures = {"failed": 1.0}
        print(f"{work:24} {name:24} FAILED: {failure}", file=sys.stderr, flush=True)
    else:
        print(f"{time.monotonic() - BEGAN:4.0f} s {work:24} {name:24} {json.dumps(figures)}", flush=True)
    results.setdefault(work, {}).setdefault(name, []).append(figures)


def measure_idle(results: Results, crowds: Mapping[str, Work], repeats: int) -> None:
    """Idle phones, each crowd on a relay of its own, all at once, since there is little to do but wait.

    CPU needs a whole heartbeat's time, and is taken in the first repeat alone; memory does not, but is
    hardly in doubt where there is one relay to measure.
    """
    for repeat in range(repeats):
        found: Results = {}
        with contextlib.ExitStack() as stack:
            loads = []
            for key, work in crowds.items():
                for name in RELAYS:
                    if work.suits(name) and not (repeat and work.only):
                        relay = stack.enter_context(running(name))
                        loads.append((key, name, work.start(relay, 1.0 if repeat else IDLE_WINDOW, repeat)))
            for key, name, load in loads:
                record(found, key, name, load)
        for key, by_name in found.items():
            for name, runs in by_name.items():
                before = results.setdefault(key, {}).setdefault(name, [])
                if before and "failed" not in runs[0]:
                    runs[0]["cpu_percent"] = before[0].get("cpu_percent", 0.0)
                before += runs


def measure_beside(results: Results, seconds: float, repeats: int) -> None:
    """The same work on two relays, of which one has 10,000 idle phones as well."""
    try:
        with running("relayd") as alone, running("relayd") as crowded, crowded.crowded(10_000):
            for repeat in range(repeats):
                for direction in ("down", "up"):
                    for idle, relay in ((0, alone), (10_000, crowded)):
                        settle(relay)
                        # What 15 in 100 are about needs a longer look than what is several times something.
                        load = relay.load(("-work", direction), 4 * seconds, repeat)
                        record(results, f"{direction} 336 beside {idle}", "relayd", load)
    except LoadFailed as failure:
        print(f"beside: the crowd did not come: {failure}", file=sys.stderr, flush=True)
        results["down 336 beside 10000"] = {"relayd": [{"failed": 1.0}]}


def medians(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """The median of each figure over the repeats; nothing for a relay that failed once."""
    return {
        work: {
            name: {key: median(run[key] for run in runs) for key in runs[0]}
            for name, runs in by_name.items()
            if not any("failed" in run for run in runs)
        }
        for work, by_name in results.items()
    }


def main() -> int:
    """Measure and write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a measurement (default 0.3)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each; the median counts")
    parser.add_argument(
        "--only", default="", help="works that begin so, such as down, 'up 336', idle, beside or tls"
    )
    parser.add_argument("--json", type=Path, default=TOOLS / "bench.json", help="where all results go")
    options = parser.parse_args()
    # So that the relays are stopped then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if missing := missing_tools():
        print(missing, file=sys.stderr)
        return 1
    build()

    results: Results = {}
    names = list(RELAYS)
    crowds, *groups = (
        {key: work for key, work in group.items() if key.startswith(options.only)}
        for group in (CROWDS, WORKS, TLS_WORKS)
    )
    if crowds:
        measure_idle(results, crowds, options.repeats)
    if "beside".startswith(options.only):
        measure_beside(results, options.seconds, options.repeats)
    for repeat, works in product(range(options.repeats), groups):
        with contextlib.ExitStack() as stack:
            wanted = [name for name in names if any(work.suits(name) for work in works.values())]
            relays = {name: stack.enter_context(running(name)) for name in wanted}
            for key, work in works.items():
                for name, relay in relays.items():
                    if work.suits(name):
                        settle(relay)
                        record(results, key, name, work.start(relay, options.seconds, repeat))

    options.json.write_text(json.dumps(results, indent=1))
    # Without what its builder has put behind the version.
    kernel = platform.release().partition("-")[0]
    machine = f"{os.cpu_count()} cores, Linux {kernel}, Python {platform.python_version()}"
    if not options.only:
        write_report(medians(results), names, f"{machine}; medians of {options.repeats}.")
    return int(any("failed" in run for by in results.values() for runs in by.values() for run in runs))


if __name__ == "__main__":
    sys.exit(main())
