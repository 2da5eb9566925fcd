"""A CA in memory that does what a test says, and certificates of any age."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import trio
from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from relayd.acme.authority import Challenge, Kind
from relayd.acme.certificate import Certificate, new_key

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
"""The date at which a trio clock of 0 is taken to be."""

DAY = timedelta(days=1)


def date() -> datetime:
    """The date, by trio's clock."""
    return START + timedelta(seconds=trio.current_time())


ON_A_SMALL_DISK: Final = (
    *("unshare", "--mount", "--map-root-user", "sh", "-c"),
    'mount -t tmpfs -o size=64k,mode=0700 none "$0" && exec "$@"',
)
"""Before a directory and a command: has the command find a disk of 64 KiB in the directory's place."""


def made_certificate(
    domain: str, begins: datetime | None = None, ends: datetime | None = None, key_pem: bytes | None = None
) -> Certificate:
    """A certificate that lives from ``begins`` until ``ends``, of a CA of its own."""
    key_pem = key_pem or new_key()
    key = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins or datetime.now(UTC) - DAY)
        .not_valid_after(ends or datetime.now(UTC) + 90 * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain_pem = certificate.public_bytes(serialization.Encoding.PEM)
    return Certificate.of(domain, chain_pem, key_pem)


@define
class FakeCA:
    """An authority, its sessions and its orders, all in one, and in memory.

    Whatever is in ``faults`` happens instead, once each, when the step of its name comes.
    """

    ends: timedelta = 90 * DAY
    """How long what it issues lives."""
    faults: dict[str, list[Exception]] = field(factory=dict)
    offers: tuple[Kind, ...] = ("http-01", "tls-alpn-01")
    polls: int = 1
    """How often it has to be asked before it has looked, and again before there is a certificate."""
    wait: float = 0.0
    opened: bool = False
    terms: str = "https://ca.example.org/terms"
    steps: list[str] = field(factory=list)
    on_step: Callable[[str], object] = field(default=lambda name: None)
    sessions: int = 0
    """Those open now."""
    domain: str = ""
    answered: list[tuple[str, Kind]] = field(factory=list)
    issued: list[Certificate] = field(factory=list)
    _key_pem: bytes = b""
    _left: int = 0

    def _step(self, name: str) -> None:
        self.steps.append(name)
        self.on_step(name)
        if self.faults.get(name):
            raise self.faults[name].pop(0)

    def sign_in(self) -> "FakeCA":
        self._step("sign_in")
        self.sessions += 1
        return self

    def close(self) -> None:
        self.sessions -= 1

    def order(self, domain: str, key_pem: bytes) -> "FakeCA":
        self._step("order")
        self.domain, self._key_pem = domain, key_pem
        return self

    @property
    def challenges(self) -> Mapping[Kind, Challenge]:
        return {kind: Challenge(kind, self.domain, "token", "token.thumb") for kind in self.offers}

    def answer(self, kind: Kind) -> None:
        self._step("answer")
        self.answered.append((self.domain, kind))
        self._left = self.polls

    def proven(self) -> bool:
        self._step("proven")
        self._left -= 1
        return self._left <= 0

    def finalize(self) -> None:
        self._step("finalize")
        self._left = self.polls

    def chain(self) -> bytes | None:
        self._step("chain")
        self._left -= 1
        if self._left > 0:
            return None
        now = date()
        self.issued.append(made_certificate(self.domain, now, now + self.ends, self._key_pem))
        return self.issued[-1].chain_pem


@define
class Stage:
    """Where challenges are shown and certificates are used."""

    shown: list[Challenge] = field(factory=list)
    """Now."""
    ever_shown: list[Challenge] = field(factory=list)
    installed: list[Certificate] = field(factory=list)

    @contextmanager
    def offering(self, challenge: Challenge) -> Iterator[None]:
        self.shown.append(challenge)
        self.ever_shown.append(challenge)
        try:
            yield
        finally:
            self.shown.remove(challenge)
