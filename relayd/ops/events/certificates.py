"""Certificates: from files, and from a CA."""

from typing import ClassVar

from attrs import frozen

from relayd.ops.events.event import Event, Level


@frozen
class CertificateLoaded(Event):
    """A certificate was read from its file: at the start, on SIGHUP, or because the file had changed."""

    message_id: ClassVar[str] = "e1b3ebe7753c7581f37bbb9f0c31099a"
    message: ClassVar[str] = "certificate {file} loaded, until {expires}, for {names}"
    file: str
    expires: str
    """The end of its life, such as 2027-01-31T12:00:00Z, or "has expired"."""
    names: str
    """What it is for, separated by commas."""


@frozen
class CertificateRefused(Event):
    """A certificate that was read again is of no use: the one before it stays in force."""

    level: ClassVar[Level] = "error"
    message_id: ClassVar[str] = "50156ad38482ff5974e9682a5bbef101"
    message: ClassVar[str] = "certificate refused, so the one before stays: {error}"
    error: str
    """The line that a start would have ended with."""


@frozen
class ChallengesListening(Event):
    """A listener is open on which a CA can look whether a domain leads here."""

    message_id: ClassVar[str] = "88a17cdf180b4aa6a591f86a34d08a33"
    message: ClassVar[str] = "challenges of CAs answered on {address}"
    address: str
    """As for `--http-listen`, with the port that was really bound."""
    passed_as: str = ""
    """The name or number under which the socket was passed on; empty if relayd opened it."""


@frozen
class CertificateAwaited(Event):
    """There is no certificate of a domain yet: TLS handshakes for it fail until there is one."""

    level: ClassVar[Level] = "warning"
    message_id: ClassVar[str] = "06ac8ad642fc408495dfaea1893388aa"
    message: ClassVar[str] = "no certificate of {domain} yet, so TLS for it fails; asking {authority}"
    domain: str
    authority: str
    """The directory's URL, as set."""


@frozen
class CertificateRestored(Event):
    """A certificate of an earlier run was found in the state directory, and is in use."""

    message_id: ClassVar[str] = "62669fafe3384f139df31f9cbe571bc9"
    message: ClassVar[str] = "certificate of {domain} from the state directory, until {expires}"
    domain: str
    expires: str
    """When it ends, in UTC, by ISO 8601."""


@frozen
class AcmeAccountOpened(Event):
    """An account was opened with a CA, whose terms of service `--domain` agrees to."""

    message_id: ClassVar[str] = "b9f88f92fa834bc4a468d28ea5eb4aa1"
    message: ClassVar[str] = "account opened with {authority}, and its terms agreed to: {terms}"
    authority: str
    """The directory's URL, as set."""
    terms: str
    """Their URL, as the CA names it; empty if it names none that can be shown."""


@frozen
class CertificateIssued(Event):
    """The first certificate of a domain was issued, and is in use."""

    message_id: ClassVar[str] = "c8266b483c704fd09d74b5d8538ef196"
    message: ClassVar[str] = "certificate of {domain} issued, until {expires}"
    domain: str
    expires: str
    """When it ends, in UTC, by ISO 8601."""


@frozen
class CertificateRenewed(Event):
    """A certificate was replaced by a new one. Connections go on with the old one until they end."""

    message_id: ClassVar[str] = "bc4673af891e4f6db7fdf8aacaecdb94"
    message: ClassVar[str] = "certificate of {domain} renewed, until {expires}"
    domain: str
    expires: str
    """When it ends, in UTC, by ISO 8601."""


@frozen
class CertificateFailed(Event):
    """A certificate was not issued this time; the one in use stays, if there is one."""

    level: ClassVar[Level] = "error"
    message_id: ClassVar[str] = "6a25c397831d423b84dce7b0bfaed2d2"
    message: ClassVar[str] = (
        "no new certificate of {domain} by {challenge}: {problem}: {advice}; trying again in {retry_in} s"
    )
    domain: str
    challenge: str
    """The kind of challenge that was to be used."""
    problem: str
    """A name of RFC 8555, section 6.7, or one of relayd's for what that has not; never a text of the CA's."""
    advice: str
    retry_in: int
    """Seconds until the next attempt."""


@frozen
class StateNotKept(Event):
    """A file in the state directory could not be written or used; relayd goes on with what it has in memory."""

    level: ClassVar[Level] = "error"
    message_id: ClassVar[str] = "9ca80128e57640c192ae824f21fce437"
    message: ClassVar[str] = "state directory, {file}: {error}; a restart has to ask the CA for a new one"
    file: str
    error: str
    """The name of the errno, or why the file is of no use."""
