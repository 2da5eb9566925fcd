"""``python -m tests.fuzz [TARGET…]``: look for bytes that a check does not stand; exit status 1 if there are.

Each target is a process of its own, as many at a time as there are cores. What has led somewhere new is
added to the corpus.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS

FINDINGS: Final = Path("build") / "fuzz"
"""Where the logs go, and the inputs that broke something."""


def main() -> int:
    """Fuzz; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    names = ", ".join(TARGETS)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{names}; all if none is named")
    time = parser.add_mutually_exclusive_group()
    time.add_argument("--minutes", type=float, default=10, help="for each target (default: 10)")
    time.add_argument("--seconds", type=float, help="the same")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target called {', '.join(sorted(unknown))}: there are {names}")
    seconds = round(options.minutes * 60 if options.seconds is None else options.seconds)
    FINDINGS.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda name: fuzz(name, seconds), options.targets or TARGETS))
    return 1 if any(found) else 0


def fuzz(name: str, seconds: int) -> bool:
    """Fuzz one target and keep what it has learnt; whether it found something wrong."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as directory:
        inputs, words = Path(directory) / "inputs", Path(directory) / "words"
        inputs.mkdir()
        for number, data in enumerate([*target.seeds, *corpus.load(name)]):
            (inputs / f"kept-{number}").write_bytes(data)
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
        log = FINDINGS / f"{name}.log"
        with log.open("wb") as output:
            status = subprocess.run(
                [
                    *(sys.executable, "-m", "tests.fuzz.engine", name),
                    f"-max_total_time={seconds}",
                    f"-max_len={target.longest}",
                    f"-dict={words}",
                    f"-artifact_prefix={FINDINGS / name}-",
                    "-timeout=10",
                    "-rss_limit_mb=1024",
                    "-print_final_stats=1",
                    str(inputs),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            ).returncode
        if not status:
            corpus.save(name, corpus.minimised(target, [path.read_bytes() for path in inputs.iterdir()]))
    text = log.read_text(errors="replace")
    runs = re.findall(r"number_of_executed_units: *([0-9]+)", text) or re.findall(r"^#([0-9]+)", text, re.M)
    edges = re.findall(r" cov: ([0-9]+)", text)
    print(
        f"{name}: {int(runs[-1]) if runs else 0:,} runs, {edges[-1] if edges else 0} edges covered,"
        f" {len(corpus.load(name))} inputs kept:",
        f"FOUND SOMETHING, see {log}" if status else "nothing found",
        flush=True,
    )
    return bool(status)


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main())
