"""What relayd asks of a CA. Every call blocks, so all are made in a thread, one at a time.

Each raises `relayd.acme.problems.Failed`.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

from attrs import frozen

__all__ = ["Authority", "Challenge", "Kind", "Order", "Session"]

Kind = Literal["http-01", "tls-alpn-01"]


@frozen
class Challenge:
    """What a CA wants to see before it believes that a domain is ours."""

    kind: Kind
    domain: str
    token: str
    """Under which http-01's answer is asked for."""
    authorization: str
    """The answer of http-01."""
    pem: bytes = b""
    """The answer of tls-alpn-01: a key, and the certificate to show (RFC 8737)."""


class Order(Protocol):
    """One certificate on its way."""

    @property
    def challenges(self) -> Mapping[Kind, Challenge]:
        """Any one of these is enough; none are left if the CA believes it already."""

    @property
    def wait(self) -> float:
        """How many seconds the CA's last answer asks to wait before the next question."""

    def answer(self, kind: Kind) -> None:
        """Say that the challenge may be looked at."""

    def proven(self) -> bool:
        """Ask whether the CA believes it by now. Raises `Failed` if it has looked, and does not."""

    def finalize(self) -> None:
        """Have the certificate made."""

    def chain(self) -> bytes | None:
        """Ask for the certificate and those above it, in PEM; None if they are not made yet."""


class Session(Protocol):
    """A CA, as spoken to by an account of ours."""

    @property
    def opened(self) -> bool:
        """Whether the account is a new one."""

    @property
    def terms(self) -> str:
        """The URL of the terms that it has agreed to; empty if there is none that can be shown."""

    def order(self, domain: str, key_pem: bytes) -> Order:
        """Ask for a certificate of ``domain`` for a private key."""

    def close(self) -> None:
        """Hang up."""


class Authority(Protocol):
    """One CA."""

    def sign_in(self) -> Session:
        """Speak to it, with the account of our key; open one if there is none."""
