"""Binaries and phones: how they come, whom they find, and how they leave."""

from typing import ClassVar, Literal

from attrs import frozen

from relayd.ops.events.event import CHURN, FAULTS, Event, Level, Limit

EndedBy = Literal["peer", "relay", "network"]
"""Who ended a connection: a Close frame of the peer, a decision of relayd, or neither (it vanished)."""


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
