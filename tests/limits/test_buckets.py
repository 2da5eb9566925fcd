"""Token buckets against exact ones, and a table that is scanned."""

import tracemalloc
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.edge.buckets import TokenBuckets

STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 160)), max_size=60)
"""Whose bucket, and how many eighths of a second after the one before."""


class Exact:
    """A bucket by the book."""

    def __init__(self, per_minute: int, burst: int) -> None:
        self._per_second = Fraction(per_minute, 60)
        self._burst = burst
        self._since = Fraction(0)
        self.tokens = Fraction(burst)

    def at(self, now: Fraction) -> Fraction:
        """Tokens that are there now."""
        self.tokens = min(Fraction(self._burst), self.tokens + (now - self._since) * self._per_second)
        self._since = now
        return self.tokens

    def wait(self) -> Fraction:
        """Seconds until there is one; 0 if there is."""
        return max(Fraction(0), (1 - self.tokens) / self._per_second)


@given(STEPS, st.integers(1, 120), st.integers(1, 12))
def test_each_key_has_a_bucket_of_its_own_that_is_exact(
    steps: list[tuple[int, int]], per_minute: int, burst: int
) -> None:
    buckets = TokenBuckets(per_minute, burst)
    exact = [Exact(per_minute, burst) for _ in range(6)]
    now = Fraction(1000)
    for key, eighths in steps:
        now += Fraction(eighths, 8)
        model = exact[key]
        model.at(now)
        wait = buckets.take(key, float(now))
        assert wait == pytest.approx(float(model.wait()), abs=1e-5)
        assert bool(wait) == (model.tokens < 1)
        if not wait:
            model.tokens -= 1


@given(STEPS, st.integers(1, 120), st.integers(1, 12))
def test_who_comes_back_after_the_whole_seconds_that_he_was_told_gets_his_token_and_not_a_second_sooner(
    steps: list[tuple[int, int]], per_minute: int, burst: int
) -> None:
    buckets = TokenBuckets(per_minute, burst)
    now = 1000.0
    for key, eighths in steps:
        now += eighths / 8
        wait = buckets.take(key, now)
        if wait:
            told = ceil(wait)
            assert told == 1 or buckets.take(key, now + told - 1) > 0
            now += told
            assert buckets.take(key, now) == 0


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 24)), max_size=120),
    st.integers(1, 120),
    st.integers(1, 6),
    st.integers(1, 5),
)
def test_a_full_table_forgets_whose_bucket_is_nearest_to_full_and_never_refuses_more(
    steps: list[tuple[int, int]], per_minute: int, burst: int, most: int
) -> None:
    buckets = TokenBuckets(per_minute, burst, most)
    # Without a lower end: what the table has given away after it had forgotten counts all the same.
    exact: dict[int, Exact] = {}
    now = Fraction(1000)
    for key, eighths in steps:
        now += Fraction(eighths, 8)
        model = exact.setdefault(key, Exact(per_minute, burst))
        before = set(buckets._full_at)
        missing = {known: burst - exact[known].at(now) for known in before | {key}}
        wait = buckets.take(key, float(now))
        assert len(buckets) <= most
        if wait:
            assert model.tokens < 1
            continue
        model.tokens -= 1
        for victim in before - set(buckets._full_at):
            kept = before & set(buckets._full_at) - {key}
            assert all(missing[victim] <= missing[other] + 1 for other in kept)
            # From now on its bucket is full.
            exact[victim].tokens = Fraction(burst)


def test_a_scan_of_the_address_space_makes_nobody_wait_and_leaves_those_who_spend_much_where_they_are() -> None:
    buckets = TokenBuckets(10, 20, most=1000)
    abusers = range(1, 11)
    now = 0.0
    for abuser in abusers:
        while not buckets.take(abuser, now):
            pass
    # 2,000 new addresses a second, until just before the abusers' next token comes.
    for scanned in range(12_000):
        now = scanned / 2000
        assert buckets.take(1000 + scanned, now) == 0
        if scanned % 500 == 0:
            assert [buckets.take(abuser, now) for abuser in abusers] == pytest.approx([6 - now] * 10)
    assert len(buckets) == 1000
    assert [buckets.take(abuser, 6.0) for abuser in abusers] == [0.0] * 10


def test_memory_of_a_table_that_is_full_and_scanned_on_is_bounded_and_comes_back() -> None:
    tracemalloc.start()
    try:
        buckets = TokenBuckets(10, 20)
        for key in range(150_000):
            buckets.take((1 << 64) + key, key / 100_000)
        size, _ = tracemalloc.get_traced_memory()
        assert len(buckets) == 65_536
        assert size < 16 * 1024 * 1024, size
        # An hour later all are full. Two go with each token that is asked for.
        for number in range(40_000):
            buckets.take(7, 3600.0 + 6 * number)
        assert len(buckets) == 1
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("per_minute", [1, 10, 60_000])
def test_one_key_that_comes_for_ever_leaves_nothing_behind(per_minute: int) -> None:
    buckets = TokenBuckets(per_minute, 20)
    for number in range(10_000):
        assert buckets.take(7, number * 60 / per_minute) == 0
    assert len(buckets) == 1
    assert len(buckets._steps) == len(buckets._due) <= 2
