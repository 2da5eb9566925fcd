"""Every event that relayd reports, as a type (contract: "Logs").

One class per event, with exactly the fields that may be seen. Log entries are made from these
fields and from nothing else, so what has no field here cannot leak: no event has room for a token,
for bytes of a frame or an envelope, or for the text of somebody else's error.

What an event is stands in `event`; beside it there is one file for each subject, and all are imported
from here. `docs/events.md` has them as a table: run ``python -m relayd.ops.events`` to print it anew.
"""

from relayd.ops.events.admin import (
    AdminListening,
    AdminUnavailable,
    OperatorClosed,
    OperatorEvicted,
)
from relayd.ops.events.certificates import (
    AcmeAccountOpened,
    CertificateAwaited,
    CertificateFailed,
    CertificateIssued,
    CertificateLoaded,
    CertificateRefused,
    CertificateRenewed,
    CertificateRestored,
    ChallengesListening,
    StateNotKept,
)
from relayd.ops.events.event import (
    CHURN,
    FAULTS,
    LEVELS,
    Emit,
    Event,
    Level,
    Limit,
)
from relayd.ops.events.faults import (
    EntriesLost,
    EntriesWithheld,
    InternalError,
    JournalUnavailable,
)
from relayd.ops.events.life import (
    BuffersBounded,
    Capacity,
    DescriptorsMissing,
    Draining,
    Listening,
    MemoryMissing,
    MetricsListening,
    Reloaded,
    ReloadRefused,
    Stopped,
)
from relayd.ops.events.limits import (
    AcceptPaused,
    Bound,
    BuffersFull,
    LimitReached,
    RateLimited,
)
from relayd.ops.events.peers import (
    BinaryClaimed,
    BinaryReclaimed,
    BinaryReleased,
    BinaryTookOver,
    ClaimRefused,
    EndedBy,
    EnvelopesDropped,
    GraceExpired,
    PhoneRefused,
    PhoneRegistered,
    PhoneUnregistered,
)
from relayd.ops.events.refusals import (
    ProxyRefused,
    RequestRefused,
    TlsRefused,
)
from relayd.ops.events.table import (
    as_markdown,
    event_types,
)

__all__ = [
    "CHURN",
    "FAULTS",
    "LEVELS",
    "AcceptPaused",
    "AcmeAccountOpened",
    "AdminListening",
    "AdminUnavailable",
    "BinaryClaimed",
    "BinaryReclaimed",
    "BinaryReleased",
    "BinaryTookOver",
    "Bound",
    "BuffersBounded",
    "BuffersFull",
    "Capacity",
    "CertificateAwaited",
    "CertificateFailed",
    "CertificateIssued",
    "CertificateLoaded",
    "CertificateRefused",
    "CertificateRenewed",
    "CertificateRestored",
    "ChallengesListening",
    "ClaimRefused",
    "DescriptorsMissing",
    "Draining",
    "Emit",
    "EndedBy",
    "EntriesLost",
    "EntriesWithheld",
    "EnvelopesDropped",
    "Event",
    "GraceExpired",
    "InternalError",
    "JournalUnavailable",
    "Level",
    "Limit",
    "LimitReached",
    "Listening",
    "MemoryMissing",
    "MetricsListening",
    "OperatorClosed",
    "OperatorEvicted",
    "PhoneRefused",
    "PhoneRegistered",
    "PhoneUnregistered",
    "ProxyRefused",
    "RateLimited",
    "ReloadRefused",
    "Reloaded",
    "RequestRefused",
    "StateNotKept",
    "Stopped",
    "TlsRefused",
    "as_markdown",
    "event_types",
]
