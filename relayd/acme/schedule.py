"""When to renew, when to try again, and how: decisions without a clock or a die of their own.

``draw`` is a random number from 0 up to 1, other for each decision, so that many relays do not come at once.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from relayd.acme.authority import Kind

__all__ = ["LONGEST_WAIT", "challenge_for", "renewal_due", "retry_after", "retry_delay"]

_FIRST_RETRY: Final = 60.0
_LAST_RETRY: Final = 4 * 3600.0
LONGEST_WAIT: Final = 7 * 86400.0
"""Seconds that we let a CA send us away for. The longest limit of Let's Encrypt counts a week."""


def renewal_due(begins: datetime, ends: datetime, draw: float) -> datetime:
    """When to renew a certificate: when two thirds of its life are over, or up to a thirtieth of it later."""
    return begins + (ends - begins) * (2 / 3 + draw / 30)


def retry_delay(failures: int, draw: float, asked: float = 0.0) -> float:
    """Seconds to wait after so many ``failures`` in a row, the CA having ``asked`` for as many.

    A minute, doubling up to four hours, and up to a quarter more of that.
    """
    doubled: float = _FIRST_RETRY * 2 ** min(failures - 1, 16)
    return max(min(doubled, _LAST_RETRY), min(asked, LONGEST_WAIT)) * (1 + draw / 4)


def retry_after(header: str | None, now: datetime) -> float:
    """Seconds that a ``Retry-After`` header asks for, by a number or a date; 0 for anything else."""
    if header is None or len(header) > 64:
        return 0.0
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except (ValueError, OverflowError):  # the latter of a year that no C integer holds
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max((when - now) / timedelta(seconds=1), 0.0)


def challenge_for(possible: Sequence[Kind], failures: int) -> Kind:
    """Which of the ``possible`` challenges to take after so many ``failures`` in a row: each in its turn."""
    return possible[failures % len(possible)]
