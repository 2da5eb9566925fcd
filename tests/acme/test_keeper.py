"""When certificates are asked for, used, kept and renewed; by a clock that jumps, and a CA in memory."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock

from relayd.acme.authority import Kind
from relayd.acme.cache import Cache, open_cache
from relayd.acme.certificate import BadCertificate, Certificate, new_key
from relayd.acme.keeper import Keeper, account_key
from relayd.acme.problems import ADVICE, Failed
from relayd.ops.events import (
    AcmeAccountOpened,
    CertificateAwaited,
    CertificateFailed,
    CertificateIssued,
    CertificateRenewed,
    CertificateRestored,
    Event,
    InternalError,
    StateNotKept,
)
from tests.acme.fakes import DAY, START, FakeCA, Stage, date, made_certificate

T = TypeVar("T")

DIRECTORY = "https://ca.example.org/dir"
BOTH: tuple[Kind, ...] = ("http-01", "tls-alpn-01")


async def at_once(question: Callable[[], T], /) -> T:
    """Ask without a thread: while one is at work, the clock would jump."""
    await trio.lowlevel.checkpoint()
    return question()


class Kept:
    """A keeper, and all that it has to do with."""

    def __init__(
        self,
        cache: Cache,
        ca: FakeCA,
        domains: tuple[str, ...],
        kinds: tuple[Kind, ...],
        draw: Callable[[], float] | None = lambda: 0.0,
    ) -> None:
        """``draw`` is None for what a keeper has by itself."""
        self.cache = cache
        self.ca = ca
        self.stage = Stage()
        self.events: list[Event] = []
        self._news = trio.lowlevel.ParkingLot()
        self.ahead = timedelta()
        """By how much this machine's calendar is wrong."""
        self.keeper = Keeper(
            domains,
            kinds,
            name=DIRECTORY,
            authority=ca,
            cache=cache,
            offering=self.stage.offering,
            install=self.stage.installed.append,
            emit=self._emit,
            ask=at_once,
            now=self.now,
        )
        if draw is not None:
            self.keeper._draw = draw

    def now(self) -> datetime:
        """The date, as this machine has it; the CA's is right."""
        return date() + self.ahead

    def seen(self, event_type: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, event_type)]

    async def until(self, event_type: type[Event], count: int = 1) -> Any:
        """Wait for the event's ``count``-th coming; return it."""
        with trio.fail_after((400 * DAY).total_seconds()):
            while len(self.seen(event_type)) < count:
                await self._news.park()
        return self.seen(event_type)[count - 1]

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self._news.unpark_all()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = open_cache(tmp_path / "state", DIRECTORY)
    yield cache
    cache.close()


@asynccontextmanager
async def keeping(
    cache: Cache,
    ca: FakeCA | None = None,
    *,
    domains: tuple[str, ...] = ("a.example",),
    kinds: tuple[Kind, ...] = BOTH,
    draw: Callable[[], float] | None = lambda: 0.0,
) -> AsyncIterator[Kept]:
    """A keeper that has restored what there is and runs beside the body."""
    kept = Kept(cache, ca or FakeCA(), domains, kinds, draw)
    kept.keeper.restore()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.keeper.run)
        yield kept
        nursery.cancel_scope.cancel()


def cached(cache: Cache, domain: str = "a.example") -> Certificate:
    found = cache.read(f"{domain}.pem")
    assert found is not None
    return Certificate.from_pem(domain, found)


async def test_a_first_certificate_is_awaited_issued_used_and_cached(
    cache: Cache, autojump_clock: MockClock
) -> None:
    async with keeping(cache) as kept:
        assert kept.events == [CertificateAwaited("a.example", DIRECTORY)]
        issued = await kept.until(CertificateIssued)
        assert issued.expires == "2027-02-22T12:00:00Z"
        await trio.sleep(1)
        assert kept.stage.installed == kept.ca.issued == [cached(cache)]
        assert (kept.stage.shown, kept.ca.sessions) == ([], 0)


async def test_a_challenge_is_shown_before_the_ca_is_told_and_until_it_has_looked(
    cache: Cache, autojump_clock: MockClock
) -> None:
    shown: list[tuple[str, int]] = []
    ca = FakeCA(polls=3)
    async with keeping(cache, ca) as kept:
        ca.on_step = lambda name: shown.append((name, len(kept.stage.shown)))
        await kept.until(CertificateIssued)
    assert shown == [
        *(("sign_in", 0), ("order", 0), ("answer", 1)),
        *[("proven", 1)] * 3,
        ("finalize", 0),
        *[("chain", 0)] * 3,
    ]


async def test_a_cached_certificate_is_used_at_once_and_the_ca_left_alone_until_two_thirds_of_its_life(
    cache: Cache, autojump_clock: MockClock
) -> None:
    old = made_certificate("a.example", START - 30 * DAY, START + 60 * DAY)
    cache.write("a.example.pem", old.pem)
    async with keeping(cache) as kept:
        assert kept.events == [CertificateRestored("a.example", "2027-01-23T12:00:00Z")]
        assert kept.stage.installed == [old]
        await trio.sleep((30 * DAY).total_seconds() - 1)
        assert kept.ca.steps == []
        renewed = await kept.until(CertificateRenewed)
        assert renewed.expires == "2027-03-24T12:00:00Z"
        await trio.sleep(1)
        assert kept.stage.installed == [old, cached(cache)]
        # And so on.
        await kept.until(CertificateRenewed, 2)
        assert abs(kept.now() - START - 90 * DAY) < timedelta(minutes=1)


async def test_each_renewal_and_each_pause_after_a_failure_is_drawn_anew(
    cache: Cache, autojump_clock: MockClock
) -> None:
    cache.write("a.example.pem", made_certificate("a.example", START, START + 90 * DAY).pem)
    drawn = iter([0.5, 0.8, 0.4, 0.9])
    ca = FakeCA(faults={"sign_in": [Failed("caUnreachable")] * 2})
    async with keeping(cache, ca, draw=lambda: next(drawn, 0.0)) as kept:
        await kept.until(CertificateFailed)
        assert abs(kept.now() - START - 61.5 * DAY) < timedelta(seconds=1)
        await kept.until(CertificateRenewed)
        # A minute, two, and up to a quarter more.
        assert [failure.retry_in for failure in kept.seen(CertificateFailed)] == [72, 132]
        first = kept.now()
        await kept.until(CertificateRenewed, 2)
        assert abs(kept.now() - first - (60 + 0.9 * 3) * DAY) < timedelta(seconds=1)
        assert next(drawn, None) is None


async def test_left_to_itself_it_renews_at_any_time_of_the_three_days_after_two_thirds_of_a_life(
    cache: Cache, autojump_clock: MockClock
) -> None:
    cache.write("a.example.pem", made_certificate("a.example", START, START + 90 * DAY).pem)
    times = [START]
    async with keeping(cache, draw=None) as kept:
        for count in range(1, 5):
            await kept.until(CertificateRenewed, count)
            times.append(kept.now())
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert all(60 * DAY <= wait <= 63 * DAY + timedelta(minutes=1) for wait in waits)
    # By chance all within five minutes: once in a hundred million runs.
    assert max(waits) - min(waits) > timedelta(minutes=5)


async def test_a_cached_certificate_that_has_ended_is_used_until_there_is_a_new_one(
    cache: Cache, autojump_clock: MockClock
) -> None:
    old = made_certificate("a.example", START - 90 * DAY, START - DAY)
    cache.write("a.example.pem", old.pem)
    async with keeping(cache) as kept:
        assert kept.stage.installed == [old]
        await kept.until(CertificateRenewed)
        assert trio.current_time() < 1


async def test_an_outage_is_waited_out_with_the_old_certificate_ever_more_patiently(
    cache: Cache, autojump_clock: MockClock
) -> None:
    cache.write("a.example.pem", made_certificate("a.example", START - 70 * DAY, START + 20 * DAY).pem)
    ca = FakeCA(faults={"sign_in": [Failed("caUnreachable")] * 11})
    async with keeping(cache, ca) as kept:
        await kept.until(CertificateRenewed)
        failures = kept.seen(CertificateFailed)
        assert [failure.problem for failure in failures] == ["caUnreachable"] * 11
        assert [failure.retry_in for failure in failures][:3] == [60, 120, 240]
        assert [failure.retry_in for failure in failures][-3:] == [14400] * 3
        assert failures[0].advice == ADVICE["caUnreachable"]
        assert len(kept.stage.installed) == 2
        # What failed is forgotten.
        ca.faults["order"] = [Failed("rateLimited")]
        failure = await kept.until(CertificateFailed, 12)
        assert failure.retry_in == 60


async def test_a_ca_that_wants_to_be_left_alone_is_left_alone(cache: Cache, autojump_clock: MockClock) -> None:
    ca = FakeCA(faults={"order": [Failed("rateLimited", retry_after=7200.0)]})
    async with keeping(cache, ca) as kept:
        assert (await kept.until(CertificateFailed)).retry_in == 7200
        await kept.until(CertificateIssued)
        assert 7200 <= trio.current_time() < 7210


async def test_between_two_questions_a_ca_is_given_the_time_that_it_asks_for(
    cache: Cache, autojump_clock: MockClock
) -> None:
    async with keeping(cache, FakeCA(polls=3, wait=30.0)) as kept:
        await kept.until(CertificateIssued)
        assert 120 <= trio.current_time() < 121


async def test_after_a_failure_the_other_challenge_has_its_turn(
    cache: Cache, autojump_clock: MockClock
) -> None:
    ca = FakeCA(faults={"proven": [Failed("connection"), Failed("unauthorized")]})
    async with keeping(cache, ca) as kept:
        await kept.until(CertificateIssued)
    kinds = [kind for _, kind in ca.answered]
    assert kinds == ["http-01", "tls-alpn-01", "http-01"]
    assert [(f.challenge, f.problem) for f in kept.seen(CertificateFailed)] == [
        ("http-01", "connection"),
        ("tls-alpn-01", "unauthorized"),
    ]


async def test_a_challenge_that_cannot_be_met_is_not_announced(cache: Cache, autojump_clock: MockClock) -> None:
    ca = FakeCA(offers=("http-01",))
    async with keeping(cache, ca, kinds=("tls-alpn-01",)) as kept:
        assert (await kept.until(CertificateFailed)).problem == "noChallenge"
        assert ca.answered == []
    async with keeping(cache, ca, kinds=("tls-alpn-01", "http-01")) as kept:
        await kept.until(CertificateIssued)
        assert ca.answered == [("a.example", "http-01")]


async def test_what_the_ca_believes_already_needs_no_challenge(cache: Cache, autojump_clock: MockClock) -> None:
    async with keeping(cache, FakeCA(offers=())) as kept:
        await kept.until(CertificateIssued)
        assert kept.stage.ever_shown == []


async def test_a_domain_that_cannot_be_proven_keeps_no_other_from_its_certificate(
    cache: Cache, autojump_clock: MockClock
) -> None:
    class Picky(FakeCA):
        def order(self, domain: str, key_pem: bytes) -> FakeCA:
            if domain == "bad.example":
                raise Failed("dns")
            return super().order(domain, key_pem)

    async with keeping(cache, Picky(), domains=("bad.example", "good.example")) as kept:
        assert (await kept.until(CertificateIssued)).domain == "good.example"
        assert (await kept.until(CertificateFailed, 5)).domain == "bad.example"
        assert len(kept.seen(CertificateIssued)) == 1


async def test_a_ca_that_never_comes_to_an_end_is_given_up_after_three_minutes(
    cache: Cache, autojump_clock: MockClock
) -> None:
    async with keeping(cache, FakeCA(polls=1_000_000)) as kept:
        assert (await kept.until(CertificateFailed)).problem == "timeout"
        assert 180 <= trio.current_time() < 181
        assert (kept.stage.shown, kept.ca.sessions) == ([], 0)


async def test_a_fault_of_ours_is_reported_and_costs_one_attempt(
    cache: Cache, autojump_clock: MockClock
) -> None:
    async with keeping(cache, FakeCA(faults={"finalize": [RuntimeError("a secret")]})) as kept:
        await kept.until(CertificateIssued)
        assert [failure.problem for failure in kept.seen(CertificateFailed)] == ["internal"]
        (fault,) = kept.seen(InternalError)
        assert "RuntimeError" in fault.error
        assert "secret" not in fault.error


async def test_a_certificate_of_another_domain_or_key_is_not_used(
    cache: Cache, autojump_clock: MockClock
) -> None:
    class Wrong(FakeCA):
        def chain(self) -> bytes | None:
            return made_certificate("a.example").chain_pem

    async with keeping(cache, Wrong()) as kept:
        assert (await kept.until(CertificateFailed)).problem == "caMalformed"
        assert kept.stage.installed == []


async def test_under_a_calendar_that_is_wrong_certificates_are_not_made_in_a_circle(
    cache: Cache, autojump_clock: MockClock
) -> None:
    async with keeping(cache) as kept:
        kept.ahead = 365 * DAY
        failures = [await kept.until(CertificateFailed, count + 1) for count in range(9)]
        assert [failure.problem for failure in failures] == ["clock"] * 9
        assert len(kept.ca.issued) == 9
        assert trio.current_time() > 4 * 3600
        # Set right, the next one is good for long.
        kept.ahead = timedelta()
        await kept.until(CertificateRenewed, 9)
        await trio.sleep((30 * DAY).total_seconds())
        assert len(kept.ca.issued) == 10


async def test_a_calendar_that_is_set_while_we_sleep_is_noticed_within_an_hour(
    cache: Cache, autojump_clock: MockClock
) -> None:
    cache.write("a.example.pem", made_certificate("a.example", START, START + 90 * DAY).pem)
    async with keeping(cache) as kept:
        await trio.sleep(10)
        kept.ahead = 60 * DAY
        await kept.until(CertificateRenewed)
        assert trio.current_time() <= 3601


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cannot be read"),
        (made_certificate("a.example").pem[:-200], "cannot be read"),
        (made_certificate("b.example").pem, "is of another domain"),
    ],
)
async def test_a_spoilt_cached_certificate_is_reported_and_replaced(
    cache: Cache, autojump_clock: MockClock, content: bytes, problem: str
) -> None:
    cache.write("a.example.pem", content)
    async with keeping(cache) as kept:
        assert kept.events == [
            StateNotKept("a.example.pem", problem),
            CertificateAwaited("a.example", DIRECTORY),
        ]
        await kept.until(CertificateIssued)
        await trio.sleep(1)
        assert cached(cache) == kept.ca.issued[0]


async def test_a_certificate_that_cannot_be_written_is_used_from_memory(
    cache: Cache, autojump_clock: MockClock, tmp_path: Path
) -> None:
    (inner,) = (tmp_path / "state").iterdir()
    inner.rmdir()
    async with keeping(cache) as kept:
        assert await kept.until(StateNotKept) == StateNotKept("a.example.pem", "ENOENT")
        assert kept.stage.installed == kept.ca.issued
        assert kept.seen(CertificateFailed) == []


async def test_a_certificate_that_tls_refuses_is_not_used(cache: Cache, autojump_clock: MockClock) -> None:
    cache.write("a.example.pem", made_certificate("a.example").pem)
    kept = Kept(cache, FakeCA(), ("a.example",), BOTH)

    def refuse(certificate: Certificate) -> None:
        raise BadCertificate("no")

    kept.keeper._install = refuse
    kept.keeper.restore()
    assert kept.events == [StateNotKept("a.example.pem", "no"), CertificateAwaited("a.example", DIRECTORY)]


async def test_a_new_account_is_reported_with_the_terms_that_it_agrees_to(
    cache: Cache, autojump_clock: MockClock
) -> None:
    async with keeping(cache, FakeCA(opened=True)) as kept:
        await kept.until(CertificateIssued)
        assert kept.seen(AcmeAccountOpened) == [AcmeAccountOpened(DIRECTORY, "https://ca.example.org/terms")]


def test_the_account_key_is_made_once_and_made_anew_if_it_is_spoilt(cache: Cache) -> None:
    events: list[Event] = []
    first = account_key(cache, events.append)
    assert account_key(cache, events.append) == first
    assert events == []
    for content, problem in ((b"no key", "cannot be read"), (new_key()[:-60], "cannot be read")):
        cache.write("account.key", content)
        made = account_key(cache, events.append)
        assert made not in (first, content)
        assert account_key(cache, events.append) == made
        assert events.pop() == StateNotKept("account.key", problem)
    assert events == []
