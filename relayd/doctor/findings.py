"""What a check has to say."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

import trio
from attrs import frozen

__all__ = ["BUFFERS", "Failed", "Finding", "Status", "first", "within"]

BUFFERS: Final = (
    "something between here and the relay holds bytes back: turn its response buffering off for this path "
    "(nginx: proxy_buffering off) and let it upgrade, so that it passes bytes on as they come"
)


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIP = "skip"


@frozen
class Finding:
    """What was seen, in a few words, and what to do about it if it is not as it should be."""

    seen: str
    status: Status = Status.OK
    advice: str = ""


class Failed(Exception):
    """A check cannot succeed any more: ``seen`` and ``advice`` are those of its `Finding`."""

    def __init__(self, seen: str, advice: str) -> None:
        super().__init__(seen)
        self.seen = seen
        self.advice = advice


def first(failures: BaseExceptionGroup[Failed]) -> Failed:
    """The first of what nurseries have gathered."""
    failure: Failed | BaseExceptionGroup[Failed] = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


@contextmanager
def within(seconds: float, seen: str, advice: str) -> Iterator[None]:
    """Give the body ``seconds``; raise `Failed` with ``seen`` and how long that was when they are over."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise Failed(f"{seen} within {seconds:g} s", advice) from None
