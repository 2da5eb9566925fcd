"""The task that has a certificate of each domain: from the cache at first, from the CA when it is time.

One certificate for each, so that a domain which cannot be proven keeps no other from its own.
"""

import errno
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NoReturn, Protocol, TypeVar

import trio

from relayd.acme.authority import Authority, Challenge, Kind, Order, Session
from relayd.acme.cache import Cache
from relayd.acme.certificate import BadCertificate, Certificate, checked_key, new_key
from relayd.acme.problems import ADVICE, Failed
from relayd.acme.schedule import challenge_for, renewal_due, retry_delay
from relayd.ops.events import (
    AcmeAccountOpened,
    CertificateAwaited,
    CertificateFailed,
    CertificateIssued,
    CertificateRenewed,
    CertificateRestored,
    Emit,
    InternalError,
    StateNotKept,
)

__all__ = ["Ask", "Keeper", "account_key", "one_thread"]

T = TypeVar("T")

_ACCOUNT: Final = "account.key"

_ATTEMPT: Final = 180.0
"""Seconds for all of one attempt. A CA may look from several places, one after the other."""

_LOOK_AGAIN: Final = 3600.0
"""Seconds after which the calendar is asked again: sleeping goes by a clock that nobody sets."""

_FIRST_POLL: Final = 0.25
_LAST_POLL: Final = 5.0
_LONGEST_POLL: Final = 60.0


def account_key(cache: Cache, emit: Emit) -> bytes:
    """The key of our account with the CA whose ``cache`` it is, in PEM; a new one if there is none."""
    try:
        found = cache.read(_ACCOUNT)
        if found is not None:
            return checked_key(found)
    except BadCertificate as error:
        emit(StateNotKept(_ACCOUNT, str(error)))
    except OSError as error:
        emit(StateNotKept(_ACCOUNT, _name_of(error)))
    made = new_key()
    _write(cache, emit, _ACCOUNT, made)
    return made


class Ask(Protocol):
    """Makes a call that blocks, and lets the loop go on meanwhile."""

    async def __call__(self, question: Callable[[], T], /) -> T:
        """What ``question`` returns, or raises."""


def one_thread() -> Ask:
    """Calls in a thread, one at a time.

    Cancelled, the thread is left alone with its call, and the next one waits until that has ended. Nobody
    else does: what it holds is a place here, and its own session with the CA.
    """
    limiter = trio.CapacityLimiter(1)

    async def ask(question: Callable[[], T], /) -> T:
        return await trio.to_thread.run_sync(question, abandon_on_cancel=True, limiter=limiter)

    return ask


class Keeper:
    """Keeps certificates of some domains: `restore` what is in the cache, then `run`."""

    def __init__(
        self,
        domains: Sequence[str],
        kinds: Sequence[Kind],
        *,
        name: str,
        authority: Authority,
        cache: Cache,
        offering: Callable[[Challenge], AbstractContextManager[None]],
        install: Callable[[Certificate], None],
        emit: Emit,
        ask: Ask,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        draw: Callable[[], float] = random.random,
    ) -> None:
        """``kinds`` are the challenges that can be met, the preferred one first; ``name`` is the CA's.

        ``offering`` shows a challenge to whoever looks, for the length of a body. ``install`` is given each
        certificate that is to be used from then on, and may raise `BadCertificate`. ``ask`` makes calls
        that block. ``now`` tells the date, and ``draw`` a random number from 0 up to 1.
        """
        self._domains = domains
        self._kinds = kinds
        self._name = name
        self._authority = authority
        self._cache = cache
        self._offering = offering
        self._install = install
        self._emit = emit
        self._now = now
        self._draw = draw
        self._held: dict[str, Certificate] = {}
        self._ask = ask
        # No two are to open an account at once.
        self._signing_in = trio.Lock()

    @property
    def complete(self) -> bool:
        """Whether every domain has a certificate."""
        return len(self._held) == len(self._domains)

    def restore(self) -> None:
        """Install what is in the cache, also if it has ended: whose clock is right is not known."""
        for domain in self._domains:
            certificate = self._cached(domain)
            if certificate is None:
                self._emit(CertificateAwaited(domain, self._name))
            else:
                self._held[domain] = certificate
                self._emit(CertificateRestored(domain, _written(certificate.ends)))

    async def run(self) -> NoReturn:
        """Have certificates issued and renewed until cancelled. No failure of the CA's ends it."""
        async with trio.open_nursery() as nursery:
            for domain in self._domains:
                nursery.start_soon(self._keep, domain)
        raise AssertionError("a domain is kept for ever")

    def _cached(self, domain: str) -> Certificate | None:
        """Install what is in the cache for ``domain``, if it is of use."""
        file = _file_of(domain)
        try:
            found = self._cache.read(file)
            if found is None:
                return None
            certificate = Certificate.from_pem(domain, found)
            self._install(certificate)
            return certificate
        except BadCertificate as error:
            self._emit(StateNotKept(file, str(error)))
        except OSError as error:
            self._emit(StateNotKept(file, _name_of(error)))
        return None

    async def _keep(self, domain: str) -> NoReturn:
        failures = 0
        while True:
            if not failures and domain in self._held:
                await self._renewal_of(self._held[domain])
            kind = challenge_for(self._kinds, failures)
            try:
                certificate = await self._attempt(domain, kind)
                await self._keep_for_later(certificate)
                if self._now() < renewal_due(certificate.begins, certificate.ends, 0.0):
                    failures = 0
                    continue
                # Without this, a clock that is wrong would have certificates made in a circle.
                failure = Failed("clock")
            except Failed as failed:
                failure = failed
            except Exception as error:  # noqa: BLE001 (no fault in here may cost the relay)
                self._emit(InternalError.of("acme", error))
                failure = Failed("internal")
            failures += 1
            delay = retry_delay(failures, self._draw(), failure.retry_after)
            advice = ADVICE[failure.problem]
            self._emit(CertificateFailed(domain, kind, failure.problem, advice, round(delay)))
            await trio.sleep(delay)

    async def _renewal_of(self, certificate: Certificate) -> None:
        """Wait until it is time for the next one."""
        due = renewal_due(certificate.begins, certificate.ends, self._draw())
        while True:
            left = (due - self._now()) / timedelta(seconds=1)
            if left <= 0:
                return
            await trio.sleep(min(left, _LOOK_AGAIN))

    async def _keep_for_later(self, certificate: Certificate) -> None:
        domain, expires = certificate.domain, _written(certificate.ends)
        renewed = domain in self._held
        self._held[domain] = certificate
        self._emit(CertificateRenewed(domain, expires) if renewed else CertificateIssued(domain, expires))
        file = _file_of(domain)
        try:
            await self._ask(partial(self._cache.write, file, certificate.pem))
        except OSError as error:
            self._emit(StateNotKept(file, _name_of(error)))

    async def _attempt(self, domain: str, kind: Kind) -> Certificate:
        """Have a certificate of ``domain`` issued and installed, by a challenge of this ``kind`` if offered.

        Raises `Failed`.
        """
        try:
            with trio.fail_after(_ATTEMPT):
                session = await self._sign_in()
                try:
                    key_pem = new_key()
                    order = await self._ask(partial(session.order, domain, key_pem))
                    await self._prove(order, kind)
                    await self._ask(order.finalize)
                    chain = await self._poll(order, order.chain)
                finally:
                    session.close()
            certificate = Certificate.of(domain, chain, key_pem)
            self._install(certificate)
            return certificate
        except trio.TooSlowError:
            raise Failed("timeout") from None
        except BadCertificate:
            raise Failed("caMalformed") from None

    async def _sign_in(self) -> Session:
        async with self._signing_in:
            session = await self._ask(self._authority.sign_in)
        if session.opened:
            self._emit(AcmeAccountOpened(self._name, session.terms))
        return session

    async def _prove(self, order: Order, kind: Kind) -> None:
        """Meet a challenge of the ``order``, if there still is one. Raises `Failed`."""
        if not order.challenges:
            return
        offered = [each for each in (kind, *self._kinds) if each in order.challenges]
        if not offered:
            raise Failed("noChallenge")
        with self._offering(order.challenges[offered[0]]):
            await self._ask(partial(order.answer, offered[0]))
            await self._poll(order, lambda: order.proven() or None)

    async def _poll(self, order: Order, question: Callable[[], T | None]) -> T:
        """Ask the CA until the answer is not None, ever more rarely, or as it wishes."""
        pause = _FIRST_POLL
        while (answer := await self._ask(question)) is None:
            await trio.sleep(max(pause, min(order.wait, _LONGEST_POLL)))
            pause = min(2 * pause, _LAST_POLL)
        return answer


def _write(cache: Cache, emit: Emit, file: str, data: bytes) -> None:
    try:
        cache.write(file, data)
    except OSError as error:
        emit(StateNotKept(file, _name_of(error)))


def _name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown")


def _file_of(domain: str) -> str:
    return f"{domain}.pem"


def _written(date: datetime) -> str:
    return date.strftime("%Y-%m-%dT%H:%M:%SZ")
