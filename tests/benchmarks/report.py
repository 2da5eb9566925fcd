"""The figures as Markdown tables in ``docs/performance.md`` and as a picture beside it."""

from collections.abc import Callable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Final

from attrs import frozen

DOCS: Final = Path(__file__).parent.parent.parent / "docs"
BEGIN: Final = "<!-- begin: make bench -->"
END: Final = "<!-- end: make bench -->"

Results = dict[str, dict[str, list[dict[str, float]]]]
"""Work, relay, and the figures of each repeat."""

Medians = Mapping[str, Mapping[str, Mapping[str, float]]]


def _throughput(run: Mapping[str, float]) -> str:
    return f"{run['frames_per_s']:,.0f}/s · {run['cpu_us']:.3g} µs · {run['peak_kib'] / 1024:.0f} MiB"


def _latency(run: Mapping[str, float]) -> str:
    return " / ".join(f"{run[key]:,.0f}" for key in ("p50_us", "p99_us", "p999_us")) + " µs"


def _upgrades(run: Mapping[str, float]) -> str:
    return f"{run['upgrades_per_s']:,.0f}/s · {run['cpu_us']:,.0f} µs"


def _idle(run: Mapping[str, float]) -> str:
    return f"{run['kib_per_phone']:.1f} KiB · {run['cpu_percent']:.1f} %"


Rows = tuple[tuple[str, str, Callable[[Mapping[str, float]], str]], ...]
"""A work, what it is called, and what is shown of a relay's figures."""

ROWS: Final[Rows] = (
    *(
        (f"{direction} {size}", f"{way}, {label}", _throughput)
        for direction, way in (("down", "binary → 8 phones"), ("up", "8 phones → binary"))
        for size, label in ((100, "100 B"), (336, "336 B"), (4096, "4 KiB"), (65536, "64 KiB"))
    ),
    *(
        (f"{direction} 336 beside {idle}", f"{way}, 336 B, beside {idle:,} idle phones", _throughput)
        for direction, way in (("down", "binary → 8 phones"), ("up", "8 phones → binary"))
        for idle in (0, 10_000)
    ),
    ("mixed", "200 binaries of 16 phones, mixed sizes, both ways", _throughput),
    ("rtt", "lone round trip, p50 / p99 / p99.9", _latency),
    ("rtt-busy", "the same while another server-id is saturated", _latency),
    ("upgrades", "upgrades with a first frame", _upgrades),
    ("idle", "5,000 idle phones: memory of each, CPU with heartbeats", _idle),
    (
        "idle 18800",
        "19,975 idle connections: CPU with heartbeats, peak memory",
        lambda run: f"{run['cpu_percent']:.1f} % · {run['peak_kib'] / 1024:.0f} MiB",
    ),
    (
        "storm",
        "5,000 phones reconnect at once: until all are back, CPU, peak",
        lambda run: f"{run['seconds']:.1f} s · {run['cpu_seconds']:.1f} s · {run['peak_kib'] / 1024:.0f} MiB",
    ),
)

TLS_ROWS: Final[Rows] = (
    *(
        (f"tls {direction} {size}", f"{way}, {label}", _throughput)
        for direction, way in (("down", "binary → 8 phones"), ("up", "8 phones → binary"))
        for size, label in ((336, "336 B"), (4096, "4 KiB"), (65536, "64 KiB"))
    ),
    ("tls rtt", "lone round trip: p50 / p99 / p99.9", _latency),
    ("tls upgrades", "upgrades with a first frame, whole handshakes", _upgrades),
    ("tls upgrades resumed", "the same with a ticket", _upgrades),
    ("tls idle", "2,000 idle phones: memory of each, CPU with heartbeats", _idle),
)

TLS_RATIOS: Final = (
    *(
        (f"tls {way} {size}", f"{way} {size}", "cpu_us")
        for way in ("down", "up")
        for size in (336, 4096, 65536)
    ),
    ("tls rtt", "rtt", "p50_us"),
    ("tls upgrades", "upgrades", "cpu_us"),
    ("tls upgrades resumed", "upgrades", "cpu_us"),
    ("tls idle", "idle", "kib_per_phone"),
)
"""A work, the same without TLS, and the figure that is compared: of each, less is better."""

FIGURES: Final = {"cpu_us": "CPU", "p50_us": "p50", "kib_per_phone": "memory"}

GO: Final = "Go, coder/websocket"
TRIO_WEBSOCKET: Final = "trio-websocket"
FORWARDER: Final = "floor: trio forwarder"


@frozen
class Aim:
    """One figure that relayd is to reach: its own, or its ratio to somebody's of the same run."""

    text: str
    work: str
    figure: str
    bound: float
    against: str = ""
    """A relay whose figure for the same work is the divisor."""
    against_work: str = ""
    """The work whose figure, of the same relay, is the divisor."""
    at_least: bool = False
    unit: str = "times"

    def measured(self, medians: Medians, name: str) -> str:
        """The figure of the relay called ``name``, and whether it will do."""
        own = medians.get(self.work, {}).get(name)
        other = medians.get(self.against_work or self.work, {}).get(self.against or name)
        if own is None or other is None:
            return ""
        value = own[self.figure] / (other[self.figure] if self.unit == "times" else 1)
        kept = value >= self.bound if self.at_least else value <= self.bound
        return f"{'' if kept else '**'}{value:,.2f} {self.unit}{'' if kept else '** missed'}"


def _aims() -> Iterator[Aim]:
    for way in ("down", "up"):
        work = f"{way} 336"
        yield Aim(f"336 B {way}: frames per second, to Go's", work, "frames_per_s", 4, GO, at_least=True)
        yield Aim(
            f"336 B {way}: frames per second, to trio-websocket's",
            work,
            "frames_per_s",
            30,
            TRIO_WEBSOCKET,
            at_least=True,
        )
        yield Aim(f"336 B {way}: CPU per frame, to Go's", work, "cpu_us", 0.25, GO)
    for size, label in ((4096, "4 KiB"), (65536, "64 KiB")):
        for way in ("down", "up"):
            work = f"{way} {size}"
            yield Aim(f"{label} {way}: bytes per second, to Go's", work, "bytes_per_s", 3, GO, at_least=True)
            yield Aim(f"{label} {way}: CPU per frame, to the trio forwarder's", work, "cpu_us", 2, FORWARDER)
    yield Aim("lone round trip: p50, to Go's", "rtt", "p50_us", 1, GO)
    yield Aim("lone round trip: p99, to Go's", "rtt", "p99_us", 1, GO)
    yield Aim("the same beside a saturated server-id: p99", "rtt-busy", "p99_us", 5000, unit="µs")
    yield Aim("idle phone: memory, to Go's", "idle", "kib_per_phone", 0.5, GO)
    yield Aim(
        "19,975 idle connections with heartbeats: CPU of a core", "idle 18800", "cpu_percent", 5, unit="%"
    )
    yield Aim("an upgrade: CPU, to Go's", "upgrades", "cpu_us", 1, GO)
    for way in ("down", "up"):
        yield Aim(
            f"336 B {way} beside 10,000 idle: CPU per frame, to that without",
            f"{way} 336 beside 10000",
            "cpu_us",
            1.15,
            against_work=f"{way} 336 beside 0",
        )


def as_aims(medians: Medians, names: list[str]) -> str:
    """What relayd is to reach, and what it reached."""
    ours = [name for name in names if name.startswith("relayd")]
    lines = [f"| | aim | {' | '.join(ours)} |", "|---" * (len(ours) + 2) + "|"]
    for aim in _aims():
        cells = [aim.measured(medians, name) for name in ours]
        sign = "≥" if aim.at_least else "≤"
        lines.append(f"| {aim.text} | {sign} {aim.bound:,g} {aim.unit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def as_markdown(medians: Medians, names: list[str], rows: Rows) -> str:
    """One row for each work, one column for each relay."""
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for work, label, cell in rows:
        measured = medians.get(work, {})
        cells = [cell(measured[name]) if name in measured else "" for name in names]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def as_tls_ratios(medians: Medians, names: list[str]) -> str:
    """What TLS costs each relay that speaks it, and relayd over TLS against Go over TLS."""
    columns = [f"{name}: to its own without TLS" for name in names]
    columns += [f"{name}: to Go's, both over TLS" for name in names if name != GO]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    labels = {work: label for work, label, _ in TLS_ROWS}
    for work, without, figure in TLS_RATIOS:
        own = medians.get(work, {})
        pairs = [(own.get(name), medians.get(without, {}).get(name)) for name in names]
        pairs += [(own.get(name), own.get(GO)) for name in names if name != GO]
        cells = [f"{run[figure] / other[figure]:.2f}" if run and other else "" for run, other in pairs]
        lines.append(f"| {labels[work].partition(':')[0]}: {FIGURES[figure]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def as_svg(medians: Medians, names: list[str]) -> str:
    """Bars: frames of 336 bytes per second, each way; the floors, which route nothing, are left out."""
    relays = [name for name in names if not name.startswith("floor")]
    panels = (("down 336", "binary → 8 phones"), ("up 336", "8 phones → binary"))
    values = {
        (work, name): medians.get(work, {}).get(name, {}).get("frames_per_s", 0.0)
        for work, _ in panels
        for name in relays
    }
    scale = 380 / (max(values.values()) or 1.0)
    parts, y = [], 24
    for work, title in panels:
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{title}, 336 B, frames per second</text>')
        for name in relays:
            y += 24
            value = values[work, name]
            color = "#2a6fbb" if name.startswith("relayd") else "#9aa5b1"
            parts.append(f'<text x="160" y="{y}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="168" y="{y - 13}" width="{value * scale:.1f}" height="17" fill="{color}"/>')
            parts.append(f'<text x="{174 + value * scale:.1f}" y="{y}">{value:,.0f}</text>')
        y += 40
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {y - 16}" font-family="sans-serif" '
        f'font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def write_report(medians: Medians, names: list[str], note: str) -> None:
    """Replace what stands between the markers of ``docs/performance.md``, and the picture."""
    (DOCS / "performance.svg").write_text(as_svg(medians, names))
    document = DOCS / "performance.md"
    text = document.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    cells = "Throughput cells: frames per second · CPU per frame · peak memory of the relay's process."
    tls_names = [name for name in names if any(name in medians.get(work, {}) for work, _, _ in TLS_ROWS)]
    blocks = (
        f"{note}\n{cells}",
        as_markdown(medians, names, ROWS),
        as_aims(medians, names),
        "![Frames per second of relayd and its peers](performance.svg)",
        "Over TLS, in the same run:",
        as_markdown(medians, tls_names, TLS_ROWS),
        "And as ratios; where it is less than 1, the first of the two costs less.",
        as_tls_ratios(medians, tls_names),
    )
    body = "\n\n".join(blocks)
    document.write_text(f"{head}{BEGIN}\n{body}\n{END}{tail}")
