"""What is fuzzed, by name."""

from collections.abc import Callable
from typing import Final

from attrs import frozen

from tests.fuzz import client_hello, envelope, forwarded, frames, head, proxy

__all__ = ["TARGETS", "Target"]


@frozen
class Target:
    """One reader of strangers' bytes, and what must hold for any of them."""

    check: Callable[[bytes], None]
    """Raises if it does not hold."""
    modules: tuple[str, ...]
    """Where new lines are looked for."""
    words: tuple[bytes, ...]
    """Pieces that chance alone would hardly make."""
    longest: int
    """Bytes of an input, at most."""
    seeds: tuple[bytes, ...] = ()
    """Inputs to begin with that lead through no line of their own, and so would not be kept."""


TARGETS: Final = {
    "client_hello": Target(
        client_hello.check, ("relayd.wire.client_hello",), client_hello.WORDS, client_hello.LONGEST
    ),
    "envelope": Target(
        envelope.check, ("relayd.wire.envelope",), envelope.WORDS, envelope.LONGEST, envelope.SEEDS
    ),
    "forwarded": Target(
        forwarded.check, ("relayd.wire.forwarded", "relayd.wire.address"), forwarded.WORDS, forwarded.LONGEST
    ),
    "frames": Target(frames.check, ("relayd.wire.frames",), frames.WORDS, frames.LONGEST, frames.SEEDS),
    "head": Target(head.check, ("relayd.wire.head", "relayd.wire.upgrade"), head.WORDS, head.LONGEST),
    "proxy": Target(proxy.check, ("relayd.wire.proxy",), proxy.WORDS, proxy.LONGEST),
}
