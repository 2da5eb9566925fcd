"""When a certificate is renewed, when a failed attempt is repeated, and by which challenge."""

from datetime import UTC, datetime, timedelta

import pytest

from relayd.acme.authority import Kind
from relayd.acme.schedule import LONGEST_WAIT, challenge_for, renewal_due, retry_after, retry_delay

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("life", "draw", "after"),
    [(90 * DAY, 0.0, 60 * DAY), (90 * DAY, 0.5, 61.5 * DAY), (6 * DAY, 0.0, 4 * DAY), (0 * DAY, 0.9, 0 * DAY)],
)
def test_renewal_is_due_at_two_thirds_of_a_life_or_a_little_later(
    life: timedelta, draw: float, after: timedelta
) -> None:
    due = renewal_due(NOW, NOW + life, draw)
    assert abs(due - NOW - after) < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("failures", "draw", "asked", "delay"),
    [
        (1, 0.0, 0.0, 60.0),
        (2, 0.0, 0.0, 120.0),
        (3, 0.5, 0.0, 270.0),
        (8, 0.0, 0.0, 7680.0),
        (9, 0.0, 0.0, 14400.0),
        (100_000, 1.0, 0.0, 18000.0),
        (1, 0.0, 30.0, 60.0),
        (1, 0.0, 7200.0, 7200.0),
        (9, 0.0, 1e12, LONGEST_WAIT),
    ],
)
def test_delays_double_from_a_minute_to_four_hours_and_are_never_shorter_than_the_ca_asks_for(
    failures: int, draw: float, asked: float, delay: float
) -> None:
    assert retry_delay(failures, draw, asked) == delay


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0.0),
        ("120", 120.0),
        ("Tue, 24 Nov 2026 12:01:00 GMT", 60.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("soon", 0.0),
        ("\u0663", 0.0),
        ("9" * 65, 0.0),
        ("Tue, 99 Nov 2026 12:01:00 GMT", 0.0),
        ("Tue, 24 Nov 99999999999999 12:01:00 GMT", 0.0),
    ],
)
def test_a_retry_after_header_is_a_number_or_a_date_and_anything_else_is_none(
    header: str | None, seconds: float
) -> None:
    assert retry_after(header, NOW) == seconds


def test_each_failure_gives_the_other_challenge_its_turn() -> None:
    both: tuple[Kind, ...] = ("http-01", "tls-alpn-01")
    assert [challenge_for(both, failures) for failures in range(3)] == ["http-01", "tls-alpn-01", "http-01"]
    assert challenge_for(both[1:], 5) == "tls-alpn-01"
