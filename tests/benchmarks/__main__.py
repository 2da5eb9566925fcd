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
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from statistics import median
from typing import Final

from attrs import frozen

from tests.benchmarks.report import Results, write_report

HERE: Final = Path(__file__).parent
TOOLS: Final = HERE.parent / ".tools"
PEERS: Final = HERE / "peers"
HAPROXY: Final = which("haproxy") or which("haproxy", path="/usr/sbin") or ""

BEGAN: Final = time.monotonic()

IDLE_WINDOW: Final = 30.0
"""Seconds: as long as from one heartbeat to the next, so that each phone has exactly one."""

PATIENCE: Final = 240.0

DESCRIPTORS: Final = 20_000
"""What the largest crowd needs, at either end. Many systems allow no more to a process."""


@frozen
class Peer:
    """A program to measure; ``{port}`` and ``{backend}`` are filled in."""

    command: tuple[str, ...]
    floor: bool = False
    directory: Path = HERE.parent.parent
    """Where to start it: Python finds relayd there."""


# As many as there are descriptors: left to itself, relayd keeps some for others than the load.
RELAYD: Final = (
    *(sys.executable, "-m", "relayd", "--listen", "127.0.0.1:{port}"),
    *("--max-connections", str(DESCRIPTORS)),
)
COMPILED: Final = HERE.parent.parent / "build/compiled"

RELAYS: Final = {
    "relayd": Peer(RELAYD),
    "relayd, compiled": Peer(RELAYD, directory=COMPILED),
    "Go, coder/websocket": Peer((str(TOOLS / "bench-go"), "127.0.0.1:{port}")),
    "Node, ws": Peer(("node", str(PEERS / "ws/relay.js"), "{port}")),
    "websockets, uvloop": Peer((sys.executable, str(PEERS / "websockets_relay.py"), "{port}")),
    "trio-websocket": Peer((sys.executable, str(PEERS / "trio_websocket_relay.py"), "{port}")),
    "floor: trio forwarder": Peer(
        (sys.executable, str(PEERS / "trio_forwarder.py"), "{port}", "{backend}"), floor=True
    ),
    "floor: HAProxy, TCP": Peer((HAPROXY, "-db", "-f", str(PEERS / "haproxy.cfg")), floor=True),
}


@frozen
class Work:
    """What the load is to do, and with whom."""

    flags: tuple[str, ...]
    floors: bool = False
    times: float = 1.0
    """How much longer than others it is measured."""
    only: tuple[str, ...] = ()
    """These relays alone: the others would take minutes, or the question is not about them."""

    def suits(self, name: str) -> bool:
        """Whether the relay called ``name`` is to do this."""
        return name in self.only if self.only else self.floors or not RELAYS[name].floor


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


@frozen
class Running:
    """A relay that listens."""

    process: subprocess.Popen[bytes]
    port: int
    backend: int

    def load(self, flags: tuple[str, ...], seconds: float, seed: int) -> subprocess.Popen[str]:
        """Start the load against this relay."""
        command = [str(TOOLS / "bench-load"), *flags, "-target", f"127.0.0.1:{self.port}"]
        command += ["-pid", str(self.process.pid), "-seconds", str(seconds), "-seed", str(seed)]
        if self.backend:
            command += ["-backend", f"127.0.0.1:{self.backend}"]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    @contextlib.contextmanager
    def crowded(self, phones: int) -> Iterator[None]:
        """Have that many idle phones on this relay. Raises `LoadFailed`."""
        load = self.load(("-work", "crowd", "-phones", str(phones)), 0.0, 0)
        assert load.stdout is not None
        try:
            if load.stdout.readline() != "here\n":
                finish(load)
            yield
        finally:
            load.communicate(timeout=PATIENCE)


class LoadFailed(Exception):
    """The load saw something wrong; the text says what."""


def finish(load: subprocess.Popen[str]) -> dict[str, float]:
    """What the load measured. Raises `LoadFailed`."""
    out, errors = load.communicate(timeout=PATIENCE)
    if load.returncode:
        raise LoadFailed(errors.strip())
    report: dict[str, float] = json.loads(out)
    return report


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(name: str) -> Iterator[Running]:
    """Start the relay called ``name`` with its default settings, its output in a file; stop it in the end."""
    peer, port = RELAYS[name], free_port()
    backend = free_port() if peer.floor else 0
    command = [part.format(port=port, backend=backend) for part in peer.command]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RELAYD_")}
    log = TOOLS / f"bench-{list(RELAYS).index(name)}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=peer.directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**clean, "PORT": str(port), "BACKEND": str(backend)},
        )
    try:
        for _ in range(400):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None:
                sys.exit(f"{name} did not start: see {log}")
            time.sleep(0.05)
        yield Running(process, port, backend)
    finally:
        process.kill()
        process.wait()


def settle(relay: Running) -> None:
    """Wait until the relay has put away what the last work left, at most 10 s."""
    before = ""
    for _ in range(100):
        stat = Path(f"/proc/{relay.process.pid}/stat").read_text()
        used = " ".join(stat.rsplit(")", 1)[1].split()[11:13])
        if used == before:
            return
        before = used
        time.sleep(0.05)


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
    TOOLS.mkdir(exist_ok=True)
    for source, program in ((HERE / "load", "bench-load"), (PEERS / "go", "bench-go")):
        subprocess.run(["go", "build", "-o", str(TOOLS / program), "."], cwd=source, check=True)
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


def measure_idle(results: Results, names: list[str], repeats: int) -> None:
    """5,000 idle phones on each relay, and 18,800 on one, all at once, since there is little to do but wait.

    With their binaries those are 19,975 connections: as near to 20,000 as 20,000 descriptors allow.

    CPU needs a whole heartbeat's time, and is taken in the first repeat alone; memory does not.
    """
    crowds = {name: ("idle", 5_000) for name in names if not RELAYS[name].floor}
    for repeat in range(repeats):
        found: Results = {}
        with contextlib.ExitStack() as stack:
            loads = []
            for name, (work, phones) in [
                *crowds.items(),
                *([] if repeat else [("relayd", ("idle 18800", 18_800))]),
            ]:
                relay = stack.enter_context(running(name))
                flags = ("-work", "idle", "-phones", str(phones))
                loads.append((work, name, relay.load(flags, 1.0 if repeat else IDLE_WINDOW, repeat)))
            for work, name, load in loads:
                record(found, work, name, load)
        for work, by_name in found.items():
            for name, runs in by_name.items():
                before = results.setdefault(work, {}).setdefault(name, [])
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
        "--only", default="", help="works that begin so, such as down, 'up 336', idle or beside"
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
    if "idle".startswith(options.only):
        measure_idle(results, names, options.repeats)
    if "beside".startswith(options.only):
        measure_beside(results, options.seconds, options.repeats)
    works = {key: work for key, work in WORKS.items() if key.startswith(options.only)}
    for repeat in range(options.repeats if works else 0):
        with contextlib.ExitStack() as stack:
            relays = {name: stack.enter_context(running(name)) for name in names}
            for key, work in works.items():
                for name, relay in relays.items():
                    if work.suits(name):
                        settle(relay)
                        record(results, key, name, relay.load(work.flags, work.times * options.seconds, repeat))

    options.json.write_text(json.dumps(results, indent=1))
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    if not options.only:
        write_report(medians(results), names, f"{machine}; medians of {options.repeats}.")
    return int(any("failed" in run for by in results.values() for runs in by.values() for run in runs))


if __name__ == "__main__":
    sys.exit(main())
