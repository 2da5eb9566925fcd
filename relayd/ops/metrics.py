"""Metrics for Prometheus: what each is, and how a scrape reads them.

Everything is counted elsewhere, in plain numbers, and read when somebody asks. Labels are from closed
sets, which stand here: never a server-id, an address, or anything else that a peer sends.

`docs/operations.md` has this as a table: run ``python -m relayd.ops.metrics`` to print it anew.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Literal, get_args

import trio
from attrs import field, frozen
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from relayd import __version__
from relayd.edge.connection import Kind
from relayd.edge.http import Endpoint
from relayd.edge.pace import EXCESSES, Excess, Pauses
from relayd.edge.tally import CODES, Histogram
from relayd.edge.watched import Watched
from relayd.ops.events import Bound
from relayd.ops.survey import Survey, survey
from relayd.wire import frames

__all__ = ["FAMILIES", "Metrics", "as_markdown"]

Values = Iterable[tuple[tuple[str, ...], float]]
"""Values of labels, and the value."""


@frozen
class Family:
    """A metric: its name, what it means, its labels with all values that they may have, and how to read it."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    read: Callable[[Survey], Values] | Callable[[Survey], Histogram]
    labels: Mapping[str, tuple[str, ...]] = field(factory=dict)

    def collect(self, survey: Survey) -> Metric:
        """The metric with its values of now."""
        found = self.read(survey)
        if isinstance(found, Histogram):
            buckets = [(_bound(bound), count) for bound, count in found.buckets()]
            return HistogramMetricFamily(self.name, self.help, buckets=buckets, sum_value=found.sum)
        made = CounterMetricFamily if self.type == "counter" else GaugeMetricFamily
        family = made(self.name, self.help, labels=tuple(self.labels))
        for labels, value in found:
            family.add_metric(labels, value)
        return family


_bound: Final[Callable[[float], str]] = floatToGoString


def _requests(survey: Survey) -> Values:
    counts = survey.relay.tally.requests
    started: set[tuple[Endpoint, int]] = {("server", 101), ("client", 101)}
    return [
        ((endpoint, str(status)), counts[endpoint, status]) for endpoint, status in sorted({*counts, *started})
    ]


def _closes(survey: Survey) -> Values:
    # What relayd itself says is there from the start: an alert on a rate misses a series' first value.
    counts = survey.relay.tally.closes
    started: set[tuple[Kind, str, str]] = {(kind, "relay", code) for kind in _KINDS for code in _OWN_CODES}
    return [(labels, counts[labels]) for labels in sorted({*counts, *started})]


def _each(names: Iterable[str], counts: Mapping[str, int]) -> Values:
    return [((name,), counts.get(name, 0)) for name in names]


def _paused(counts: Callable[[Pauses], Mapping[tuple[str, Excess], float]]) -> Callable[[Survey], Values]:
    def read(survey: Survey) -> Values:
        found = counts(survey.relay.tally.pauses)
        return [((kind, bound), found.get((kind, bound), 0)) for kind in _KINDS for bound in EXCESSES]

    return read


def _one(read: Callable[[Watched], int]) -> Callable[[Survey], Values]:
    return lambda survey: [((), read(survey.relay))]


def _certificate_end(survey: Survey) -> Values:
    end = survey.relay.certificate_end
    return [] if end is None else [((), end)]


_KINDS: Final[tuple[Kind, ...]] = ("binary", "phone")
_OWN_CODES: Final = ("1001", "1002", "1007", "1008", "1009", "1011", "4404", "4409", "4429")
_STATUSES: Final = ("101", "200", "400", "403", "404", "405", "408", "421", "426", "429", "431", "503")
_HANDSHAKES: Final = ("ok", "failed", "hung_up", "timeout")
_ORDERS: Final = ("issued", "renewed", "failed")
_CERTIFICATES: Final = ("loaded", "refused")
_DIRECTIONS: Final = ("from_binary", "to_binary", "from_phone", "to_phone")
_CLAIMS: Final = ("claimed", "reclaimed", "took_over", "refused")
_REGISTRATIONS: Final = ("registered", "no_server", "too_many_phones")
_PROXY_HEADERS: Final = ("address", "no_address", "untrusted", "malformed", "late", "none")
_DROPS: Final = ("malformed", "unknown_phone", "push_wake")
_BOUNDS: Final[tuple[str, ...]] = get_args(Bound)
_COMPILED: Final = str(str(frames.__file__).endswith(".so")).lower()

FAMILIES: Final = (
    Family(
        "relayd_connections",
        "gauge",
        "Connections now. handshake: its request is not answered yet; transit: upgraded, but its claim is "
        "under way or it is closing; grace: no connection, but a server-id that waits for its binary.",
        lambda survey: survey.open.items(),
        {"kind": (*_KINDS, "unknown"), "state": ("connected", "transit", "grace", "handshake")},
    ),
    Family(
        "relayd_http_requests_total",
        "counter",
        "Requests answered. Status 101: an upgrade; other: a path that leads nowhere, or an unfinished head.",
        _requests,
        {"endpoint": get_args(Endpoint), "status": _STATUSES},
    ),
    Family(
        "relayd_proxy_headers_total",
        "counter",
        "Connections to listeners that require a PROXY header. address: it says who calls; no_address: it does "
        "not, as for a health check; none: hung up without a word. Closed without an answer: untrusted (not "
        "from `--trusted-proxies`), malformed, late (not whole within 5 s).",
        lambda survey: _each(_PROXY_HEADERS, survey.relay.tally.proxy_headers),
        {"outcome": _PROXY_HEADERS},
    ),
    Family(
        "relayd_claims_total",
        "counter",
        "Claims of a server-id by binaries. claimed: nobody held it; reclaimed: within the grace window; "
        "took_over: the holder did not answer; refused: the holder is alive.",
        lambda survey: _each(_CLAIMS, survey.relay.tally.claims),
        {"outcome": _CLAIMS},
    ),
    Family(
        "relayd_registrations_total",
        "counter",
        "Phones that came for a server-id. no_server: closed with 4404; too_many_phones: closed with 4429.",
        lambda survey: _each(_REGISTRATIONS, survey.relay.tally.registrations),
        {"outcome": _REGISTRATIONS},
    ),
    Family(
        "relayd_grace_expiries_total",
        "counter",
        "Grace windows that passed without their binary coming back.",
        _one(lambda relay: relay.tally.grace_expiries),
    ),
    Family(
        "relayd_closes_total",
        "counter",
        "Connections that have ended, by who ended them and the close code (1005: a Close frame without one; "
        "1006: vanished). What a binary's close directive ends counts as relay.",
        _closes,
        {
            "kind": _KINDS,
            "side": ("peer", "relay", "network"),
            "code": (*map(str, CODES), "other"),
        },
    ),
    Family(
        "relayd_frames_total",
        "counter",
        "Messages read from peers, and frames that the kernel took for them, control frames among these.",
        lambda survey: _each(_DIRECTIONS, survey.traffic.frames),
        {"direction": _DIRECTIONS},
    ),
    Family(
        "relayd_transferred_bytes_total",
        "counter",
        "Bytes read from sockets and taken by them, frame headers and control frames included.",
        lambda survey: _each(_DIRECTIONS, survey.traffic.bytes),
        {"direction": _DIRECTIONS},
    ),
    Family(
        "relayd_dropped_envelopes_total",
        "counter",
        "Messages of binaries that went nowhere. malformed: no envelope; unknown_phone: to a phone that is not "
        "there, usually one that has just left; push_wake: not served by this version.",
        lambda survey: _each(_DROPS, survey.relay.tally.drops),
        {"reason": _DROPS},
    ),
    Family(
        "relayd_outbox_bytes",
        "gauge",
        "Bytes that wait for peers to take them, now: frames and 64 for each.",
        lambda survey: _each(_KINDS, survey.outboxes),
        {"kind": _KINDS},
    ),
    Family(
        "relayd_outbox_fullest_bytes",
        "histogram",
        "The fullest outbox of all, looked at once a second. At --outbox-bytes a phone is closed with 1011.",
        lambda survey: survey.relay.tally.fullest,
    ),
    Family(
        "relayd_buffered_bytes",
        "gauge",
        "Bytes that wait in all buffers, now: outboxes, unfinished messages and request heads, and messages "
        "that wait for a binary to have room.",
        _one(lambda relay: relay.budget.used),
    ),
    Family(
        "relayd_buffered_bytes_limit",
        "gauge",
        "What they may be: --max-buffered-bytes. Beyond it, those that hold most are closed with 1011.",
        _one(lambda relay: relay.budget.limit),
    ),
    Family(
        "relayd_buffers_full_closes_total",
        "counter",
        "Connections closed because all buffers were full and they held most.",
        lambda survey: _each(_KINDS, survey.relay.tally.buffers_full),
        {"kind": _KINDS},
    ),
    Family(
        "relayd_paused_connections",
        "gauge",
        "Connections that are not read from for now, since they sent more than they may.",
        _one(lambda relay: relay.tally.pauses.under_way),
    ),
    Family(
        "relayd_pauses_total",
        "counter",
        "Times that a connection was not read from for a while. bytes and frames: beyond --phone-rate or "
        "--binary-rate; control: pings, pongs and empty fragments, which always have a bound.",
        _paused(lambda pauses: pauses.count),
        {"kind": _KINDS, "bound": EXCESSES},
    ),
    Family(
        "relayd_paused_seconds_total",
        "counter",
        "Seconds of all those pauses that are over.",
        _paused(lambda pauses: pauses.seconds),
        {"kind": _KINDS, "bound": EXCESSES},
    ),
    Family(
        "relayd_heartbeat_round_trip_seconds",
        "histogram",
        "From a ping until its pong was read.",
        lambda survey: survey.relay.tally.round_trips,
    ),
    Family(
        "relayd_frame_inside_seconds",
        "histogram",
        "How long messages spend inside: from the read that brought them until the kernel has taken the last. "
        "About one read in 64 is timed, at random. A peer that reads slowly counts in.",
        lambda survey: survey.relay.tally.inside,
    ),
    Family(
        "relayd_loop_lag_seconds",
        "histogram",
        "How late a task wakes that wants to wake every 0.25 s: how long the loop is busy with others.",
        lambda survey: survey.relay.tally.loop_lag,
    ),
    Family(
        "relayd_tls_handshakes_total",
        "counter",
        "TLS handshakes by outcome. hung_up: the client left before it was done.",
        lambda survey: _each(_HANDSHAKES, survey.relay.tally.handshakes),
        {"outcome": _HANDSHAKES},
    ),
    Family(
        "relayd_certificate_expiry_timestamp_seconds",
        "gauge",
        "When the first of the certificates in force ends, in seconds since 1970; only there with TLS. 0 while "
        "a domain has none.",
        _certificate_end,
    ),
    Family(
        "relayd_certificate_orders_total",
        "counter",
        "Certificates that a CA was asked for, by ACME. issued: a domain's first; failed: the log says why.",
        lambda survey: _each(_ORDERS, survey.relay.tally.orders),
        {"outcome": _ORDERS},
    ),
    Family(
        "relayd_certificates_read_total",
        "counter",
        "Certificates read from their files. refused: of no use, so the one before it stays; the log says why.",
        lambda survey: _each(_CERTIFICATES, survey.relay.tally.certificates),
        {"outcome": _CERTIFICATES},
    ),
    Family(
        "relayd_limited_total",
        "counter",
        "Who was turned away or hung up on. upgrade_rate: its address asks too often, 429; connections: the "
        "relay is full, connections_per_address: its address has too many, 503; handshakes, "
        "handshakes_per_address: too many are not done asking, dial_rate: its address dials too often, closed "
        "unread; challenges, scrapes: the oldest of too many at --http-listen, --metrics-listen; operators: "
        "one too many at the admin socket; tls_without_data: kept TLS busy, and sent nothing in it.",
        lambda survey: _each(_BOUNDS, survey.relay.tally.limited),
        {"limit": _BOUNDS},
    ),
    Family(
        "relayd_connections_limit",
        "gauge",
        "How many there may be. connected: --max-connections; handshake: --max-handshakes.",
        lambda survey: [
            (("connected",), survey.relay.admission.limits.connections),
            (("handshake",), survey.relay.admission.limits.handshakes),
        ],
        {"state": ("connected", "handshake")},
    ),
    Family(
        "relayd_accept_pauses_total",
        "counter",
        "Times that a listener stopped accepting because the system was out of descriptors or memory.",
        _one(lambda relay: relay.tally.accept_pauses),
    ),
    Family(
        "relayd_internal_errors_total",
        "counter",
        "Connections lost to a fault of relayd's own. Please report what the event internal_error says.",
        _one(lambda relay: relay.tally.internal_errors),
    ),
    Family(
        "relayd_draining",
        "gauge",
        "1 while the relay says goodbye to everybody, else 0.",
        _one(lambda relay: relay.draining),
    ),
    Family(
        "relayd_build_info",
        "gauge",
        "Always 1. compiled: whether mypyc compiled the inner rooms.",
        lambda survey: [((__version__, platform.python_version(), _COMPILED), 1)],
        {"version": (__version__,), "python": (platform.python_version(),), "compiled": ("true", "false")},
    ),
)


class Metrics(Collector):
    """The metrics of one relay, in a registry of their own, beside those of its process."""

    def __init__(self, relay: Watched) -> None:
        self._relay = relay
        self._survey: Survey | None = None
        self._one_at_a_time = trio.Lock()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(self)

    async def text(self, *, as_openmetrics: bool) -> bytes:
        """All metrics, in the text format of Prometheus or in that of OpenMetrics."""
        async with self._one_at_a_time:
            self._survey = await survey(self._relay)
            generate: Callable[[Collector], bytes] = (
                openmetrics.generate_latest if as_openmetrics else generate_latest
            )
            try:
                return generate(self._registry)
            finally:
                self._survey = None

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        if self._survey is not None:
            for family in FAMILIES:
                yield family.collect(self._survey)


def as_markdown() -> str:
    """The table of `docs/operations.md`."""
    rows = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
    for family in FAMILIES:
        # What depends on where relayd runs is not written down.
        shown = {name: values if len(values) > 1 else ("…",) for name, values in family.labels.items()}
        labels = "<br>".join(f"`{name}`: {', '.join(values)}" for name, values in shown.items())
        rows.append(f"| `{family.name}` | {family.type} | {labels} | {family.help} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(as_markdown())
