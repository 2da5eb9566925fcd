"""Every event that relayd reports, as a type (contract: "Logs").

One class per event, with exactly the fields that may be seen. Log entries are made from these
fields and from nothing else, so what has no field here cannot leak: no event has room for a token,
for bytes of a frame or an envelope, or for the text of somebody else's error.

`docs/events.md` is this file as a table: run ``python -m relayd.ops.events`` to print it anew.
"""

import re
import traceback
from collections.abc import Callable
from pathlib import PurePath
from typing import ClassVar, Literal, get_args

from attrs import fields, frozen

__all__ = [
    "CHURN",
    "FAULTS",
    "LEVELS",
    "Bound",
    "Emit",
    "Event",
    "Level",
    "Limit",
    "as_markdown",
    "event_types",
]

Level = Literal["debug", "info", "warning", "error"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""From the most talkative to the quietest."""


@frozen
class Limit:
    """How many entries of one event are logged: ``burst`` at once, then ``per_second`` of them."""

    burst: int
    per_second: float


CHURN = Limit(burst=10_000, per_second=20)
"""For what each peer in good order does once a connection. A network that breaks and heals brings two
storms of 5,000 phones in a row, and all of it is wanted; 20 a second is 5,000 phones that come and go
once in 4 minutes."""

FAULTS = Limit(burst=1_000, per_second=5)
"""For what goes wrong. The first of them tell what it is; the rest are its volume."""

EndedBy = Literal["peer", "relay", "network"]
"""Who ended a connection: a Close frame of the peer, a decision of relayd, or neither (it vanished)."""


Bound = Literal[
    "upgrade_rate",
    "connections",
    "connections_per_address",
    "handshakes",
    "handshakes_per_address",
    "dial_rate",
    "challenges",
]
"""A limit on who may come in."""


@frozen
class Event:
    """Something that happened, with what may be said of it."""

    level: ClassVar[Level] = "info"
    limit: ClassVar[Limit | None] = None
    """Set where strangers can cause the event as often as they like."""
    message_id: ClassVar[str]
    """The journal's MESSAGE_ID, for ever the same: 128 random bits, from ``systemd-id128 new``."""
    message: ClassVar[str]
    """What the journal shows people, fields in braces. Fields that may be empty come last."""

    name: ClassVar[str]
    """The event's name in logs: its class name in snake case."""

    def __init_subclass__(cls) -> None:
        cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


Emit = Callable[[Event], None]
"""Reports one event. Never raises and never waits."""


@frozen
class Listening(Event):
    """A listener is open and connections are accepted."""

    message_id: ClassVar[str] = "7b8638343a969f6a7a6e36a1a7b187dd"
    message: ClassVar[str] = "listening on {address}"
    address: str
    """As for `--listen`, with the port that was really bound."""
    passed_as: str = ""
    """The name or number under which the socket was passed on; empty if relayd opened it."""


@frozen
class Capacity(Event):
    """How many may come, at the start and whenever SIGHUP has changed it."""

    message_id: ClassVar[str] = "5d9ecda1b70b4c24852f55e1748c52af"
    message: ClassVar[str] = (
        "room for {connections} connections and {handshakes} in a handshake, with {descriptors} file "
        "descriptors and {memory_bytes} bytes of memory"
    )
    connections: int
    """As `--max-connections` says, or computed."""
    handshakes: int
    """As `--max-handshakes` says, or computed."""
    descriptors: int
    """The limit of open files."""
    memory_bytes: int
    """The machine's memory, or what a control group leaves of it."""


@frozen
class DescriptorsMissing(Event):
    """More connections are allowed than there are file descriptors for: at the last, nobody gets in."""

    level: ClassVar[Level] = "warning"
    message_id: ClassVar[str] = "62574258ca4c45b6b32b4a428e7c5d32"
    message: ClassVar[str] = (
        "{missing} file descriptors too few for max-connections and max-handshakes: raise the limit of open "
        "files (LimitNOFILE=), or lower these"
    )
    missing: int


@frozen
class MetricsListening(Event):
    """Metrics are served on a listener of their own."""

    message_id: ClassVar[str] = "6b76d3148b09c4ca0924928d10e64cc5"
    message: ClassVar[str] = "metrics on {address}"
    address: str
    """As for `--metrics-listen`, with the port that was really bound."""


@frozen
class Reloaded(Event):
    """SIGHUP: the settings were read again."""

    message_id: ClassVar[str] = "1b65cba234354439f04dda9ee3492f9c"
    message: ClassVar[str] = "settings read again; changed: {changed}; for a restart: {needs_restart}"
    changed: str
    """The settings that changed, separated by commas, or none."""
    needs_restart: str
    """Those that are different in what was read, and will change with a restart only."""


@frozen
class ReloadRefused(Event):
    """SIGHUP: the settings were read again and one was refused, so that all stay as they were."""

    level: ClassVar[Level] = "error"
    message_id: ClassVar[str] = "ef69f6a7231437b1e3aad1ea6a4d97ce"
    message: ClassVar[str] = "settings read again and refused, so all stay as they were: {error}"
    error: str
    """The line that a start would have ended with."""


@frozen
class AdminListening(Event):
    """The admin socket is open, for root and for relayd's own user."""

    message_id: ClassVar[str] = "3082d1dc3d1f310e2c12ab6923213832"
    message: ClassVar[str] = "admin socket open at {path}"
    path: str


@frozen
class AdminUnavailable(Event):
    """The admin socket of the default path could not be opened; relayd goes on without one."""

    level: ClassVar[Level] = "warning"
    message_id: ClassVar[str] = "5b8bbd81f0fc1ec86966dbcb44ff3058"
    message: ClassVar[str] = "no admin socket at {path}: {error}"
    path: str
    error: str


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
class TlsRefused(Event):
    """A TLS handshake failed: the client spoke no TLS, or none that is still safe, or took too long."""

    level: ClassVar[Level] = "debug"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "db90b291181ca8920e8e38fc4ec7714f"
    message: ClassVar[str] = "TLS handshake with {remote} failed: {reason}"
    remote: str
    reason: str
    """OpenSSL's name for it, or TIMEOUT."""


@frozen
class JournalUnavailable(Event):
    """`--log-format journal`, but no journald is there: entries go to standard error instead."""

    level: ClassVar[Level] = "warning"
    message_id: ClassVar[str] = "af02570f244e49a9af72e87544512ff1"
    message: ClassVar[str] = "no journal at {path}: logging to standard error"
    path: str
    """Where journald's socket would be."""


@frozen
class OperatorClosed(Event):
    """Somebody at the admin socket closed a phone's connection, with 1001."""

    message_id: ClassVar[str] = "ec5dcbe295ece3545547dd94f398c184"
    message: ClassVar[str] = "user {uid} closed phone {conn_id} of server {server_id}"
    server_id: str
    conn_id: str
    uid: int
    """Whose process asked: the user's number, 0 for root."""


@frozen
class OperatorEvicted(Event):
    """Somebody at the admin socket freed a server-id: its binary was closed with 1001, its phones with 4404."""

    message_id: ClassVar[str] = "ad2e94cd18219fb3993e3a75575e858d"
    message: ClassVar[str] = "user {uid} evicted server {server_id}, {phones} phones closed"
    server_id: str
    phones: int
    uid: int
    """Whose process asked: the user's number, 0 for root."""


@frozen
class Draining(Event):
    """A signal arrived, or an operator asked: upgrades are refused, every connection is closed with 1001."""

    message_id: ClassVar[str] = "e89b333501ecdfdc48dc8071c91273a6"
    message: ClassVar[str] = "draining after {cause}: closing {connections} connections with 1001"
    cause: str
    """The signal's name, or "admin"."""
    connections: int
    """WebSocket connections that are being closed."""


@frozen
class Stopped(Event):
    """The drain is over and the process ends."""

    message_id: ClassVar[str] = "4f3b64db9be94af0ad67460f1ff7aa77"
    message: ClassVar[str] = "stopped, {unfinished} connections cut off"
    unfinished: int
    """Connections cut off because they had not finished closing in time."""


@frozen
class BinaryClaimed(Event):
    """A binary claimed a server-id that nobody held."""

    limit: ClassVar[Limit | None] = CHURN
    message_id: ClassVar[str] = "d5f3caef2ab29cac5d43a467b654672b"
    message: ClassVar[str] = "binary from {remote} claimed server {server_id}, version {version}"
    server_id: str
    remote: str
    version: str


@frozen
class BinaryReclaimed(Event):
    """A binary claimed a server-id in its grace window; the phones of the old one were closed with 4404."""

    limit: ClassVar[Limit | None] = CHURN
    message_id: ClassVar[str] = "ae52fe0f92003708bc4b15d841a57147"
    message: ClassVar[str] = (
        "binary from {remote} reclaimed server {server_id}, {phones} phones of the old one closed, "
        "version {version}"
    )
    server_id: str
    remote: str
    version: str
    phones: int


@frozen
class BinaryTookOver(Event):
    """The holder of a server-id did not answer; it was closed with 1011, its phones with 4404."""

    level: ClassVar[Level] = "warning"
    limit: ClassVar[Limit | None] = CHURN
    message_id: ClassVar[str] = "22f71a4ef4ebc51f6dd8873dfd656606"
    message: ClassVar[str] = (
        "binary from {remote} took over server {server_id} from a dead one, {phones} phones "
        "closed, version {version}"
    )
    server_id: str
    remote: str
    version: str
    phones: int


@frozen
class ClaimRefused(Event):
    """The server-id is held by a live binary, so the newcomer was closed with 4409."""

    level: ClassVar[Level] = "warning"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "7a22311ce424dd978bf184a13687be1b"
    message: ClassVar[str] = (
        "binary from {remote} refused: server {server_id} has a live one, version {version}"
    )
    server_id: str
    remote: str
    version: str


@frozen
class BinaryReleased(Event):
    """A binary's connection ended; unless taken over or evicted, its server-id entered the grace window."""

    limit: ClassVar[Limit | None] = CHURN
    message_id: ClassVar[str] = "15d9d9dd6dfd7b3938eee0cbf9891c54"
    message: ClassVar[str] = (
        "binary from {remote} left server {server_id}, {phones} phones wait: ended by {by}, {code} {reason}"
    )
    server_id: str
    remote: str
    code: int
    """The close code; 1005 for a Close frame without one, 1006 where there was no Close frame."""
    by: EndedBy
    reason: str
    """relayd's reason, where relayd ended it."""
    phones: int
    """Phones that now wait for the binary to come back."""


@frozen
class GraceExpired(Event):
    """The grace window passed unclaimed; the phones were closed with 4404 and the server-id is free."""

    limit: ClassVar[Limit | None] = CHURN
    message_id: ClassVar[str] = "c0fc8f0c86d1ed454e719c7f3a1ac9e7"
    message: ClassVar[str] = "server {server_id} is free: its binary did not return, {phones} phones closed"
    server_id: str
    phones: int


@frozen
class PhoneRegistered(Event):
    """A phone was admitted."""

    limit: ClassVar[Limit | None] = CHURN
    message_id: ClassVar[str] = "171cbdebdbb9da6c47bb7f00669d2cdc"
    message: ClassVar[str] = "phone {conn_id} registered for server {server_id} from {remote} {device_name}"
    server_id: str
    conn_id: str
    remote: str
    device_name: str


@frozen
class PhoneRefused(Event):
    """A phone was turned away: 4404 for want of a binary, or 4429 because there were too many phones."""

    limit: ClassVar[Limit | None] = CHURN
    message_id: ClassVar[str] = "7f25a630803e26c6ce677a8d3cd70e55"
    message: ClassVar[str] = "phone from {remote} refused for server {server_id}: {code} {reason} {device_name}"
    server_id: str
    remote: str
    device_name: str
    code: int
    reason: str


@frozen
class PhoneUnregistered(Event):
    """A phone's connection ended."""

    limit: ClassVar[Limit | None] = CHURN
    message_id: ClassVar[str] = "a25815c6a0689875658af7c83257c859"
    message: ClassVar[str] = (
        "phone {conn_id} from {remote} left server {server_id}: ended by {by}, {code} {reason}"
    )
    server_id: str
    conn_id: str
    remote: str
    code: int
    """The close code; 1005 for a Close frame without one, 1006 where there was no Close frame."""
    by: EndedBy
    reason: str
    """relayd's reason, where relayd ended it; empty for a close that the binary ordered."""


@frozen
class EnvelopesDropped(Event):
    """Messages of one binary, out of one read, went nowhere."""

    level: ClassVar[Level] = "warning"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "d4174ddad0ce11e85699e16915f1ed65"
    message: ClassVar[str] = (
        "messages from the binary of server {server_id} dropped: {malformed} malformed, "
        "{unknown_phone} to unknown phones, {push_wake} push requests"
    )
    server_id: str
    malformed: int
    """Not UTF-8, not JSON, or not an envelope."""
    unknown_phone: int
    """Addressed to no phone of this server-id; usually one that has just left."""
    push_wake: int
    """Push requests, which this version does not serve."""


@frozen
class RequestRefused(Event):
    """An HTTP request was answered with an error (never one for a missing header: that leaves no trace)."""

    level: ClassVar[Level] = "debug"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "687b37aaf65b0b541cffbb9605c79448"
    message: ClassVar[str] = "request from {remote} refused with {status}"
    remote: str
    status: int


@frozen
class ProxyRefused(Event):
    """A connection was closed, or its upgrade answered with 403: whose it is could not be told."""

    level: ClassVar[Level] = "warning"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "9fdc022a5e09469d882033e38053a507"
    message: ClassVar[str] = "connection from {remote} refused, since nobody can say whose it is: {problem}"
    remote: str
    """The socket's peer: the proxy, or whoever dialled as if he were one."""
    problem: Literal["untrusted", "malformed", "late", "no_address", "contradiction"]
    """See `docs/operations.md`, "Behind a proxy"."""


@frozen
class BuffersBounded(Event):
    """At the start: how much may wait in all buffers together."""

    message_id: ClassVar[str] = "7d25440588f447c7b27f1048f718c7c8"
    message: ClassVar[str] = "buffers may hold {bytes} bytes in all"
    bytes: int
    """What `--max-buffered-bytes` says, or what auto stands for here."""


@frozen
class BuffersFull(Event):
    """All buffers together were full, and this connection held most: it was closed with 1011."""

    level: ClassVar[Level] = "warning"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "ac16b3303d8442dfa143813d189f996b"
    message: ClassVar[str] = "closed {kind} from {remote} for its {held} bytes, as all buffers hold {bytes}"
    kind: str
    """binary or phone."""
    remote: str
    held: int
    """Bytes that waited for it or, unfinished, from it."""
    bytes: int
    """What all may hold."""


@frozen
class RateLimited(Event):
    """A connection sent more than it may and is read from more slowly; told once for each connection."""

    level: ClassVar[Level] = "warning"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "79a3e13b86374bd09f46a59b46b8b3e5"
    message: ClassVar[str] = "held back {kind} from {remote}: too many {bound} in a second"
    kind: str
    """binary or phone."""
    remote: str
    bound: str
    """bytes, frames, or control: pings, pongs and empty fragments, of which there is always a bound."""


@frozen
class LimitReached(Event):
    """Somebody was turned away: he asks too often (429), or there are too many (503)."""

    level: ClassVar[Level] = "warning"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "c2f8d85753a34de39758a8d2c377ed93"
    message: ClassVar[str] = "turned away {remote}: the limit {bound} is reached"
    bound: Bound
    """Which limit: the metric `relayd_limited_total` has the same names."""
    remote: str


@frozen
class AcceptPaused(Event):
    """The system is out of file descriptors or memory: no connection is accepted until that has passed."""

    level: ClassVar[Level] = "error"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "c3cd8809199af8aec0a8a8e6037c8c5a"
    message: ClassVar[str] = "accepting nothing on {address} for now: {error}"
    address: str
    error: str
    """The name of the errno."""


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


@frozen
class InternalError(Event):
    """A fault of relayd's own cost one connection. Please report it."""

    level: ClassVar[Level] = "error"
    limit: ClassVar[Limit | None] = FAULTS
    message_id: ClassVar[str] = "6ae6abe00bb46992c8a65c28972b1416"
    message: ClassVar[str] = "fault of relayd's own, please report it, on the connection from {remote}: {error}"
    remote: str
    error: str
    """The classes of the errors and where they were raised, never their texts."""

    @classmethod
    def of(cls, remote: str, error: BaseException) -> "InternalError":
        """The event for ``error``, which may be a group."""
        return cls(remote, _whereabouts(error))


def _whereabouts(error: BaseException) -> str:
    """The class of every error in a group and the line that raised it: where to look, and no more."""
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(_whereabouts(inner) for inner in error.exceptions)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


@frozen
class EntriesWithheld(Event):
    """So many entries of one event were not logged, because it came too often: see "Limits"."""

    level: ClassVar[Level] = "warning"
    message_id: ClassVar[str] = "747f2232e39c009958d21ca3d0657101"
    message: ClassVar[str] = "{count} entries {event_name} withheld: more came than are logged"
    event_name: str
    count: int


@frozen
class EntriesLost(Event):
    """So many entries could not be written: the disk, the pipe or the journal was full for long."""

    level: ClassVar[Level] = "error"
    message_id: ClassVar[str] = "dd6113f0de13733aaf41f7abb8f445c2"
    message: ClassVar[str] = "{count} entries lost here: they could not be written"
    count: int


def event_types() -> list[type[Event]]:
    """Every event, in the order of this file."""
    found = [value for value in globals().values() if isinstance(value, type) and issubclass(value, Event)]
    return [event for event in found if event is not Event]


def as_markdown() -> str:
    """The table of `docs/events.md`."""
    rows = ["| event | level | fields | when | logged at most | MESSAGE_ID |", "|---|---|---|---|---|---|"]
    for event in event_types():
        names = ", ".join(f"`{attribute.name}`" for attribute in fields(event))
        limit = f"{event.limit.burst:,}, then {event.limit.per_second:g}/s" if event.limit else ""
        rows.append(
            f"| `{event.name}` | {event.level} | {names} | {event.__doc__} | {limit} | `{event.message_id}` |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print(as_markdown())
