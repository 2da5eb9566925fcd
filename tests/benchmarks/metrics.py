"""``python -m tests.benchmarks.metrics``: what metrics cost, as a ratio with and without them.

In each round three relays start anew, since no two processes of Python are equally fast: two without
metrics, and one with ``--metrics-listen`` and a scrape a second. The load goes to one after the other, some
times over and each time in another order, so that a machine that is busy with something else is so for all.
Ratios to the first are shown by their median; that of the second, which should be 1, says how far to trust
that of the third. On a busy machine CPU per frame is steadier than frames per second.
"""

import argparse
import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from itertools import product
from statistics import median
from typing import Final

from tests.benchmarks.relays import RELAYS, Peer, Running, build_load, finish, free_port, running, settle

WORKS: Final = ("down", "up")

WITHOUT, AGAIN, WITH = VARIANTS = ("without", "without again", "with metrics")


@contextlib.contextmanager
def relays() -> Iterator[tuple[dict[str, Running], int]]:
    """The three, and the port of the third's metrics."""
    plain, metrics_port = RELAYS["relayd"], free_port()
    # `running` has a log for each name, and the port is another each time.
    RELAYS[AGAIN] = plain
    RELAYS[WITH] = Peer((*plain.command, "--metrics-listen", str(metrics_port)))
    with running("relayd") as without, running(AGAIN) as again, running(WITH) as metered:
        yield {WITHOUT: without, AGAIN: again, WITH: metered}, metrics_port


def measure(relay: Running, work: str, seconds: float, seed: int, metrics_port: int) -> dict[str, float]:
    """What the load says, with a scrape a second of what answers on ``metrics_port``."""
    settle(relay)
    load = relay.load(("-work", work, "-size", "336"), seconds, seed)
    due = time.monotonic() + 0.5
    while True:
        try:
            load.wait(max(due - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            due += 1.0
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as answer:
                answer.read()
        else:
            return finish(load)


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.metrics", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measurement (default 1)")
    parser.add_argument("--rounds", type=int, default=10, help="how often to start anew (default 10)")
    parser.add_argument("--passes", type=int, default=4, help="measurements of each in a round (default 4)")
    options = parser.parse_args()
    build_load()
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(options.rounds):
        with relays() as (started, port):
            for turn, work in product(range(number, number + options.passes), WORKS):
                for name in (*VARIANTS[turn % 3 :], *VARIANTS[: turn % 3]):
                    figures = measure(started[name], work, options.seconds, number, port)
                    found.setdefault((work, name), []).append(figures)
                    print(f"{time.strftime('%X')} {work:5} {name:14} {figures}", file=sys.stderr, flush=True)
    for work in WORKS:
        for name in VARIANTS:
            print(f"{work:5} {name:14} {_compared(found, work, name)}")
    return 0


def _compared(found: dict[tuple[str, str], list[dict[str, float]]], work: str, name: str) -> str:
    parts = []
    for key in ("frames_per_s", "cpu_us"):
        base, these = ([run[key] for run in found[work, which]] for which in (WITHOUT, name))
        ratios = [this / that for that, this in zip(base, these, strict=True)]
        parts.append(f"{key}: median {median(these):.6g}, ratio {median(ratios):.4f}")
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
