"""``python -m tests.benchmarks.metrics``: what metrics cost, as a ratio with and without them.

Two relays run side by side, one of them with ``--metrics-listen`` and a scrape a second. The load goes to
one and then to the other, and in the next pair the other way round, so that a machine that is busy with
something else is so for both. Pairs are compared, and the median of their ratios is shown.
"""

import argparse
import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from statistics import median
from typing import Final

from tests.benchmarks.__main__ import (
    HERE,
    RELAYS,
    TOOLS,
    Peer,
    Running,
    finish,
    free_port,
    running,
    settle,
)

WORKS: Final = ("down", "up")


@contextlib.contextmanager
def pair(metrics_port: int) -> Iterator[dict[str, Running]]:
    """A relay without metrics, and one with them on ``metrics_port``."""
    plain = RELAYS["relayd"]
    RELAYS["relayd, metrics"] = Peer((*plain.command, "--metrics-listen", str(metrics_port)))
    with running("relayd") as without, running("relayd, metrics") as with_metrics:
        yield {"without": without, "with": with_metrics}


def measure(relay: Running, work: str, seconds: float, seed: int, metrics_port: int) -> dict[str, float]:
    """What the load says, with a scrape a second of whatever answers on ``metrics_port``."""
    settle(relay)
    load = relay.load(("-work", work, "-size", "336"), seconds, seed)
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as answer:
            answer.read()
        try:
            load.wait(1.0)
        except subprocess.TimeoutExpired:
            continue
        return finish(load)


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.metrics", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a measurement (default 3)")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of each work (default 9)")
    options = parser.parse_args()
    TOOLS.mkdir(exist_ok=True)
    subprocess.run(["go", "build", "-o", str(TOOLS / "bench-load"), "."], cwd=HERE / "load", check=True)
    port = free_port()
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with pair(port) as relays:
        for number in range(options.pairs):
            for work in WORKS:
                for name in sorted(relays, reverse=bool(number % 2)):
                    figures = measure(relays[name], work, options.seconds, number, port)
                    found.setdefault((work, name), []).append(figures)
                    print(f"{time.strftime('%X')} {work:5} {name:8} {figures}", file=sys.stderr, flush=True)
    for work in WORKS:
        print(work, {key: _compared(found, work, key) for key in found[work, "with"][0]})
    return 0


def _compared(found: dict[tuple[str, str], list[dict[str, float]]], work: str, key: str) -> str:
    without, with_metrics = ([run[key] for run in found[work, name]] for name in ("without", "with"))
    ratios = [b / a for a, b in zip(without, with_metrics, strict=True) if a]
    return f"{median(without):.4g} -> {median(with_metrics):.4g}, ratio {median(ratios):.4f}" if ratios else "0"


if __name__ == "__main__":
    sys.exit(main())
