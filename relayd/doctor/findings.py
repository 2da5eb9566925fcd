"""What a check has to say."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final, TypeVar

import trio
from attrs import frozen

__all__ = ["BUFFERS", "Failed", "Finding", "Patience", "Status", "TooOften", "first", "within"]

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


F = TypeVar("F", bound=Failed)


class TooOften(Failed):
    """The relay lets this address dial only so often, so that there is no saying what else it would do."""

    def __init__(self, retry_after: str | None) -> None:
        """``retry_after`` is the header of that name (RFC 9110, section 10.2.3)."""
        #: Seconds until it wants to be asked again; None if it has not said so.
        self.seconds = None
        if retry_after is not None and re.fullmatch("[0-9]{1,9}", retry_after):
            self.seconds = max(1, int(retry_after))
        when = "" if self.seconds is None else f": again in {self.seconds} s"
        super().__init__(
            f"the relay limits upgrades per address (429){when}",
            "give a longer --timeout, or look from the relay's own machine, which relayd does not limit",
        )


class Patience:
    """How long somebody who is told to come back later will do so, in all."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    async def wait(self, refusal: TooOften) -> None:
        """Wait as long as the relay has asked for. Raises ``refusal`` if that is too long, or not said."""
        if refusal.seconds is None or refusal.seconds > self._left:
            raise refusal
        self._left -= refusal.seconds
        # Whoever watches would take it for hung.
        print(
            f"waiting {refusal.seconds} s: the relay limits upgrades from one address (429)",
            file=sys.stderr,
            flush=True,
        )
        await trio.sleep(refusal.seconds)


def first(failures: BaseExceptionGroup[F]) -> F:
    """The first of what nurseries have gathered."""
    failure: F | BaseExceptionGroup[F] = failures
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
