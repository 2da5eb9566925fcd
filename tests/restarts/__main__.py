"""``python -m tests.restarts``: how long until all are back after a restart, and what it costs.

The clients are a Go program (`go/main.go`) that shares no code with relayd. This program is what
systemd is elsewhere: it holds the listening socket, passes it on, and starts the next relay when the
last one has ended. Exit status 1 if a dial was refused, or if somebody did not come back.
"""

import argparse
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import IO, Any, Final

from attrs import define, field

HERE: Final = Path(__file__).parent
PROGRAM: Final = HERE.parent / ".tools" / "restarts"

PATIENCE: Final = 120.0
"""Seconds that a restart may take before what is missing counts as lost."""

SAMPLE: Final = 0.1
"""Seconds between two looks at /proc."""

WINDOW: Final = 1.0
"""Seconds over which the busiest CPU is taken: the kernel counts in hundredths."""

TICKS: Final = os.sysconf("SC_CLK_TCK")

# LISTEN_PID names the process that the socket is for, so it can only be set by that process.
PASS_ON: Final = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "relayd", *sys.argv[2:]])
"""


@define
class Usage:
    """What the relays have used of the CPU, in samples of (when, seconds so far)."""

    samples: list[tuple[float, float]] = field(factory=list)
    _ended: float = 0.0

    def look(self, pid: int) -> None:
        """Take a sample."""
        self.samples.append((time.monotonic(), self._ended + _cpu_seconds(pid)))

    def succeed(self) -> None:
        """Count on, from here, with another process."""
        self._ended = self.samples[-1][1]

    @property
    def used(self) -> float:
        """CPU seconds from the first sample to the last."""
        return self.samples[-1][1] - self.samples[0][1]

    @property
    def peak(self) -> float:
        """The busiest `WINDOW`, as a share of one core."""
        busiest = 0.0
        for start, before in self.samples:
            inside = [(when, after) for when, after in self.samples if start < when <= start + WINDOW]
            if inside and inside[-1][0] - start > WINDOW / 2:
                when, after = inside[-1]
                busiest = max(busiest, (after - before) / (when - start))
        return busiest


def _cpu_seconds(pid: int) -> float:
    # The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def start_relay(listener: socket.socket, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """The next relay, on a socket that it did not open."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
    return subprocess.Popen(
        [sys.executable, "-c", PASS_ON, str(listener.fileno()), "--log-format", "json"],
        stdin=subprocess.DEVNULL,
        stderr=log,
        env={**clean, "RELAYD_CONFIG": "/dev/null"},
        pass_fds=[listener.fileno()],
    )


@contextmanager
def clients(port: int, options: argparse.Namespace) -> Iterator[subprocess.Popen[bytes]]:
    """All binaries and phones, for the body."""
    command = [
        str(PROGRAM),
        f"-url=ws://127.0.0.1:{port}",
        f"-binaries={options.binaries}",
        f"-phones={options.phones_per_binary}",
        f"-patience={PATIENCE}s",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def report_of(process: subprocess.Popen[bytes], usage: Usage, pid: int) -> dict[str, Any]:
    """Wait for the clients' next report, and look at the relay ``pid`` meanwhile."""
    assert process.stdout is not None
    deadline = time.monotonic() + PATIENCE + 10
    while not select.select([process.stdout], [], [], SAMPLE)[0]:
        usage.look(pid)
        if time.monotonic() > deadline:
            raise AssertionError("the clients say nothing any more")
    usage.look(pid)
    line = process.stdout.readline()
    assert line, "the clients have ended: see what they said above"
    report: dict[str, Any] = json.loads(line)
    return report


def restart(
    process: subprocess.Popen[bytes], relay: subprocess.Popen[bytes], listener: socket.socket, log: IO[bytes]
) -> tuple[subprocess.Popen[bytes], dict[str, Any], Usage, float]:
    """SIGTERM, then the next relay; the clients' report, and how long no relay was there."""
    assert process.stdin is not None
    usage = Usage()
    usage.look(relay.pid)
    process.stdin.write(b"restart\n")
    relay.send_signal(signal.SIGTERM)
    start = time.monotonic()
    # Without reaping it, so that its last use of the CPU can still be read.
    while os.waitid(os.P_PID, relay.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        usage.look(relay.pid)
        time.sleep(0.01)
        if time.monotonic() > start + PATIENCE:
            raise AssertionError("the relay does not end")
    usage.look(relay.pid)
    usage.succeed()
    status = relay.wait()
    assert status == 0, f"the relay ended with {status}"
    ended = time.monotonic() - start
    following = start_relay(listener, log)
    try:
        return following, report_of(process, usage, following.pid), usage, ended
    except BaseException:
        following.kill()
        following.wait()
        raise


def line_of(report: dict[str, Any], usage: Usage, ended: float) -> str:
    """One restart, in words."""
    backs = ", ".join(
        f"{role}s: half in {report[role]['median']:.1f} s, nine tenths in {report[role]['p90']:.1f} s, "
        f"all in {report[role]['last']:.1f} s"
        for role in ("binary", "phone")
        if role in report
    ).replace("binarys", "binaries")
    counts = ", ".join(f"{what} {count}" for what, count in sorted(report["counts"].items()))
    return (
        f"{backs}; the old relay ended in {ended:.2f} s; {report['dials']} dials, at most {report['longest']} "
        f"by one peer; {counts}; CPU: {usage.used:.1f} s, in the busiest second {usage.peak:.0%} of a core"
    )


def measure(options: argparse.Namespace, log: IO[bytes]) -> list[str]:
    """Restart as often as asked, and print what happened; what was wrong with it."""
    faults: list[str] = []
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        relay = start_relay(listener, log)
        try:
            with clients(listener.getsockname()[1], options) as process:
                report = report_of(process, Usage(), relay.pid)
                print(f"start: {report['dials']} dials, {report['missing']} peers missing", flush=True)
                if report["missing"]:
                    return [f"{report['missing']} peers could not be connected at all: {report['counts']}"]
                for number in range(1, options.restarts + 1):
                    relay, report, usage, ended = restart(process, relay, listener, log)
                    print(f"restart {number}: {line_of(report, usage, ended)}", flush=True)
                    faults += [
                        f"restart {number}: {what} {count} times"
                        for what, count in report["counts"].items()
                        if what.startswith("dial ")
                    ]
                    if report["missing"]:
                        faults.append(f"restart {number}: {report['missing']} peers did not come back")
        finally:
            relay.kill()
            relay.wait()
    return faults


def main() -> int:
    """Build, measure, and say what was wrong."""
    parser = argparse.ArgumentParser(prog="tests.restarts", description=__doc__)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--binaries", type=int, default=200)
    parser.add_argument("--phones-per-binary", type=int, default=10)
    options = parser.parse_args()
    if which("go") is None:
        print("go is missing: install Go 1.24 or later, https://go.dev/dl", file=sys.stderr)
        return 1
    subprocess.run(["go", "build", "-o", str(PROGRAM), "."], cwd=HERE / "go", check=True)
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        faults = measure(options, log.file)
        if faults:
            print(Path(log.name).read_text()[-2000:], file=sys.stderr)
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
