"""Why there is no certificate, as a closed set of names, each with what to do about it."""

from collections.abc import Mapping
from typing import Final

from attrs import frozen

__all__ = ["ADVICE", "Failed"]

_REACH: Final = (
    "have the domain's addresses lead here, and let everybody reach port 443, or port 80 with --http-listen"
)
_REFUSED: Final = "the CA does not issue for this domain; read its rules, or choose another: --acme-directory"
_WAIT: Final = "the CA is in trouble; relayd goes on trying"
_BUG: Final = "please report it"

ADVICE: Final[Mapping[str, str]] = {
    # The CA's own, by the names of RFC 8555, section 6.7.
    "accountDoesNotExist": "the CA has forgotten the account; a new one is opened at the next attempt",
    "badCSR": _BUG,
    "badNonce": _WAIT,
    "badPublicKey": _BUG,
    "badSignatureAlgorithm": _BUG,
    "caa": "the domain's CAA records forbid this CA; add it to them",
    "compound": _REFUSED,
    "connection": _REACH,
    "dns": "the CA finds no address of the domain: look at its DNS records",
    "dnssec": "the domain's DNSSEC is broken: mend it",
    "externalAccountRequired": "the CA wants an account of its own: name its key with --acme-eab-file",
    "incorrectResponse": _REACH,
    "invalidContact": "the CA does not accept --acme-email",
    "invalidEmail": "the CA does not accept --acme-email",
    "malformed": "the CA did not understand; is the key in --acme-eab-file the right one?",
    "orderNotReady": _WAIT,
    "rateLimited": "the CA was asked too often; relayd waits for as long as it says",
    "rejectedIdentifier": _REFUSED,
    "serverInternal": _WAIT,
    "tls": _REACH,
    "unauthorized": "something else than this relayd answers for the domain: look where its addresses lead",
    "unknownHost": "the CA finds no address of the domain: look at its DNS records",
    "unsupportedContact": "the CA does not accept --acme-email",
    "unsupportedIdentifier": _REFUSED,
    "userActionRequired": "the CA wants the account's owner to visit its site",
    # Ours.
    "caUnknown": "the name of the CA has no address here: look at DNS, or at --acme-directory",
    "caUnreachable": "the CA cannot be reached: look at the network, and under systemd at IPAddressAllow=",
    "caUntrusted": "no TLS with the CA that can be trusted: look at --acme-ca-file and at the clock",
    "caMalformed": "no ACME in the CA's answer: look at --acme-directory",
    "noChallenge": "the CA offers neither tls-alpn-01 nor http-01 for it; for the latter, set --http-listen",
    "timeout": _WAIT,
    "clock": "the certificate is due at once: look at this machine's clock",
    "internal": _BUG,
    "other": "look at the CA's documentation",
}
"""By problem. Texts of the CA's are shown nowhere: they may be long, unprintable, or a stranger's."""


@frozen
class Failed(Exception):
    """There is no certificate this time."""

    problem: str
    """A key of `ADVICE`."""
    retry_after: float = 0.0
    """Seconds for which the CA wants to be left alone."""
