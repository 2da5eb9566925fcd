"""Close codes and their reasons (contract: "Close codes"; RFC 6455, section 7.4).

Every code that relayd itself closes a connection with stands here once, with the words that go
with it, so that a phone, a log line and a test all speak of the same thing.
"""

from typing import Final

from attrs import frozen

__all__ = [
    "BACKLOG_FULL",
    "BAD_JSON",
    "BINARY_GONE",
    "BINARY_RECLAIMED",
    "BUFFERS_FULL",
    "BY_OPERATOR",
    "CLAIM_TAKEN",
    "HEARTBEAT_TIMEOUT",
    "MESSAGE_TOO_BIG",
    "MESSAGE_TOO_SLOW",
    "NORMAL",
    "NO_SUCH_SERVER",
    "SHUTTING_DOWN",
    "TAKEN_OVER",
    "TOO_MANY_PHONES",
    "VANISHED",
    "WRITE_FAILED",
    "WRITE_STALLED",
    "Close",
    "may_travel",
    "protocol_error",
]


@frozen
class Close:
    """Why a connection ends: the status code that travels, and the reason beside it (may be empty)."""

    code: int
    reason: str = ""


NORMAL: Final = Close(1000)
SHUTTING_DOWN: Final = Close(1001, "shutting down")
BY_OPERATOR: Final = Close(1001, "closed by operator")
BAD_JSON: Final = Close(1007, "not one JSON document in UTF-8")
MESSAGE_TOO_SLOW: Final = Close(1008, "message too slow")
MESSAGE_TOO_BIG: Final = Close(1009, "message too big")
HEARTBEAT_TIMEOUT: Final = Close(1011, "heartbeat timeout")
BACKLOG_FULL: Final = Close(1011, "phone backlog full")
BUFFERS_FULL: Final = Close(1011, "relay buffers full")
WRITE_FAILED: Final = Close(1011, "write failed")
WRITE_STALLED: Final = Close(1011, "write stalled")
TAKEN_OVER: Final = Close(1011, "server-id taken over")
NO_SUCH_SERVER: Final = Close(4404, "no server with that id")
BINARY_GONE: Final = Close(4404, "binary is gone")
BINARY_RECLAIMED: Final = Close(4404, "binary reclaimed server-id")
CLAIM_TAKEN: Final = Close(4409, "server-id already claimed")
TOO_MANY_PHONES: Final = Close(4429, "too many phones")

VANISHED: Final = 1001
"""The code of a close notice for a phone that sent no Close frame of its own."""


def may_travel(code: int) -> bool:
    """Whether a Close frame may carry ``code``: 1000-1003, 1007-1014 or 3000-4999.

    The contract's "Routing envelope" names the set; RFC 6455, section 7.4.2, and the IANA registry
    are where it comes from. 1004, 1005, 1006 and 1015 exist, but never on the wire.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def protocol_error(what: str) -> Close:
    """A 1002 whose reason says which rule of RFC 6455 was broken: words of ours, never of the peer's."""
    return Close(1002, what)
