"""The inputs that are kept: one file for each target, an input a line, escaped as in a bytes literal."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.fuzz.targets import Target

__all__ = ["HERE", "covered", "load", "minimised", "save"]

HERE: Final = Path(__file__).parent / "corpus"

Step = tuple[str, int, int]
"""A module, and two lines of it of which the second came after the first."""


def load(name: str) -> list[bytes]:
    """The corpus of target ``name``; empty if it has none yet."""
    path = HERE / f"{name}.txt"
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [line.encode("ascii").decode("unicode_escape").encode("latin-1") for line in lines]


def save(name: str, inputs: Iterable[bytes]) -> None:
    """Keep ``inputs`` as the corpus of target ``name``."""
    lines = [data.decode("latin-1").encode("unicode_escape").decode("ascii") for data in inputs]
    (HERE / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), "ascii")


def minimised(target: Target, inputs: Iterable[bytes]) -> list[bytes]:
    """Those of ``inputs`` that go where no shorter one goes, or go there far more often; the shortest first."""
    kept = []
    seen: set[tuple[Step, int]] = set()
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        # How often, as its number of binary digits: a loop's first turns matter, its thousandth does not.
        new = {(step, min(times.bit_length(), 5)) for step, times in covered(target, data).items()} - seen
        if new:
            seen |= new
            kept.append(data)
    return kept


def covered(target: Target, data: bytes) -> dict[Step, int]:
    """Where ``data`` leads within the target's modules, and how often. Raises what the check raises."""
    steps: dict[Step, int] = {}

    def on_call(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        module = frame.f_globals.get("__name__", "")
        if module not in target.modules:
            return None
        before = 0

        def on_line(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
            nonlocal before
            step = (module, before, frame.f_lineno)
            steps[step] = steps.get(step, 0) + 1
            before = frame.f_lineno
            return on_line

        return on_line(frame, event, argument)

    _traced(on_call, target.check, data)
    return steps


def _traced(trace: Callable[..., Any], check: Callable[[bytes], None], data: bytes) -> None:
    # A debugger or a measure of coverage may have a trace of its own.
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        check(data)
    finally:
        sys.settrace(before)
