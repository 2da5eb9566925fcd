"""``python -m tests.soak``: run the soak and say how it went; exit status 0 if nothing was wrong.

The load is a Go program (`go/main.go`) that shares no code with relayd and checks every frame; the
daemon is a real process, and what it holds is looked at from outside, before and after.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from shutil import which
from typing import Any, Final

from tests.observed import Holdings, ObservedRelay, holdings

HERE: Final = Path(__file__).parent
PROGRAM: Final = HERE.parent / ".tools" / "soak"

CYCLE: Final = 60.0
"""Seconds of killing in a cycle. Each cycle begins and ends with nobody connected, and the first is
the measure of the others: it fills arenas, caches and buffers, which the allocator keeps."""

MEMORY_SLACK: Final = 24 * 1024 * 1024
"""Bytes that the daemon may hold after the last cycle beyond what it held after the first. A storm
that is larger by chance leaves the heap more ragged; a leak of one connection in a hundred, with
its buffers and its last frames, would come to more."""

SPARE: Final = 240.0
"""Seconds that the load may take beyond its killing time: to settle, to check and to say goodbye."""

SETTLE: Final = 30.0
"""Seconds for the relay to let go of everything once the load has ended and the grace window passed."""


def settled_holdings(relay: ObservedRelay, start: Holdings) -> tuple[Holdings, list[str]]:
    """Wait until nobody is connected and all but memory is as it was; what is not, in words."""
    deadline = time.monotonic() + SETTLE
    while True:
        with urllib.request.urlopen(relay.url("/healthz", "http")) as answer:
            health = json.load(answer)
        now = holdings(relay)
        faults = [
            f"/healthz says {name} {health[name]} after the load"
            for name in ("connected_binaries", "connected_phones")
            if health[name]
        ]
        faults += [
            f"{getattr(now, name)} {name} after the load, {getattr(start, name)} before"
            for name in ("tasks", "descriptors", "threads")
            if getattr(now, name) > getattr(start, name)
        ]
        if not faults or time.monotonic() > deadline:
            return now, faults
        time.sleep(0.1)


def run_load(relay: ObservedRelay, options: argparse.Namespace, cycle: int, seconds: float) -> dict[str, Any]:
    """Run the Go program against ``relay``; return its report."""
    command = [
        str(PROGRAM),
        f"-url={relay.url('')}",
        f"-seconds={seconds}",
        f"-binaries={options.binaries}",
        f"-phones={options.phones_per_binary}",
        f"-seed={options.seed + cycle}",
        f"-rate={options.rate}",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=seconds + SPARE, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def soak(relay: ObservedRelay, options: argparse.Namespace) -> list[str]:
    """Run the cycles and compare; return all that was wrong."""
    relay.event("listening")
    start = holdings(relay)
    print(f"start:         {start}", flush=True)
    cycles = max(1, round(options.minutes * 60 / CYCLE))
    expected = options.binaries * options.phones_per_binary
    after: list[Holdings] = []
    counts: Counter[str] = Counter()
    faults: list[str] = []
    for number in range(1, cycles + 1):
        report = run_load(relay, options, number, options.minutes * 60 / cycles)
        held, unsettled = settled_holdings(relay, start)
        print(f"after cycle {number}: {held}", flush=True)
        after.append(held)
        counts.update(report["counts"])
        faults += [*report["faults"], *unsettled]
        for kind, count in sorted(report["fault_counts"].items()):
            print(f"  {count} times: {kind}")
        live = report["counts"].get("live pairs at the end", 0)
        if live != expected:
            faults.append(f"{live} live pairs at the end of cycle {number}, not {expected}")
        if faults:
            break
    for name, count in sorted(counts.items()):
        print(f"  {name:28} {count:>10}")
    if after[-1].memory > after[0].memory + MEMORY_SLACK:
        faults.append(f"{after[-1]} after the last cycle, {after[0]} after the first")
    return faults


def faults_in_log(relay: ObservedRelay) -> list[str]:
    """What the daemon itself found wrong."""
    events = relay.events()
    print("  log:", ", ".join(f"{name} {n}" for name, n in sorted(Counter(e["event"] for e in events).items())))
    faults = [f"internal_error: {e['error']}" for e in events if e["event"] == "internal_error"]
    if "Traceback" in relay.log_text():
        faults.append("a traceback in the log")
    return faults


def main() -> int:
    """Parse the options, build the load, run everything, and sum up."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to kill (default: 5)")
    parser.add_argument("--binaries", type=int, default=200, help="server-ids (default: 200)")
    parser.add_argument("--phones-per-binary", type=int, default=10, help="1 to 16 (default: 10)")
    parser.add_argument("--rate", type=float, default=1500.0, help="frames a second in all (default: 1500)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (default: 1)")
    options = parser.parse_args()
    if which("go") is None:
        print("soak: needs Go 1.24 or later to build its load: install it from https://go.dev/dl/")
        return 1
    subprocess.run(["go", "build", "-o", str(PROGRAM), "."], cwd=HERE / "go", check=True)
    with tempfile.TemporaryDirectory() as directory:
        relay = ObservedRelay(Path(directory) / "relay.log", "--grace", "1")
        try:
            faults = soak(relay, options)
            status = relay.stop()
            if status:
                faults.append(f"the daemon's exit status was {status}")
            faults += faults_in_log(relay)
        finally:
            relay.process.kill()
            relay.process.wait()
    for fault in faults:
        print(f"FAULT: {fault}")
    print("soak failed" if faults else "soak passed: every frame between live pairs once, in order, unchanged")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
