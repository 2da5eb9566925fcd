"""``relayd doctor URL``: a checklist of a relay, seen from a client."""

import argparse
import json
import math
import signal
import sys
import textwrap
from typing import Final

import trio

from relayd.doctor.examine import Report, examine
from relayd.doctor.findings import Finding, Status
from relayd.doctor.target import BadTarget, Plan, parse, trusting

__all__ = ["configure", "run"]

_DESCRIPTION: Final = """\
Look at a relay from outside: claim a random server-id, join it as a phone, send frames both ways, and see
whether everything is as the protocol has it. Works against any relay of the protocol, and leaves
nothing behind there. Run it after an installation, from a machine where binaries or phones would be.

  relayd doctor ws://127.0.0.1:8080          the relay itself
  relayd doctor wss://relay.example.org      the same through the proxy and its certificate
  relayd doctor --idle 90 wss://…            also whether something cuts silent connections
"""

_EPILOG: Final = """\
Exit status 0: nothing failed (there may be warnings). 1: something did, and the line after it says what to
do. 2: the arguments cannot be used. 130: interrupted.
"""

MAX_SECONDS: Final = 3600.0

_NAME_WIDTH: Final = 16
_INDENT: Final = 7 + _NAME_WIDTH
_LINE: Final = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Take a URL, and how to look at it."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument("url", metavar="URL", help="ws://HOST:PORT or wss://HOST; a path is put before /v1/…")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=15.0,
        metavar="SECONDS",
        help="how long to wait for each answer (default: 15)",
    )
    parser.add_argument(
        "--idle",
        type=_seconds_or_none,
        default=0.0,
        metavar="SECONDS",
        help="be silent for so long, then send again; 90 finds most proxies that cut what is idle (default: 0)",
    )
    parser.add_argument("--ca-file", metavar="FILE", help="trust these certificates (PEM) and no others")
    parser.add_argument("--json", action="store_true", help="print one JSON object, in the end")


def run(options: argparse.Namespace) -> int:
    """Examine, print, and return the exit status. Raises a group of BrokenPipeError if nobody reads."""
    try:
        plan = Plan(parse(options.url), options.timeout, options.idle, trusting(options.ca_file))
    except BadTarget as refusal:
        print(f"relayd doctor: {refusal}", file=sys.stderr)
        return 2
    as_json = options.json
    found: dict[str, Finding] = {}

    def report(name: str, finding: Finding) -> None:
        found[name] = finding
        if not as_json:
            print(_lines(name, finding), flush=True)

    if not as_json:
        print(f"relayd doctor {_clean(plan.target.url)}", flush=True)
    finished = trio.run(_until_interrupt, plan, report)
    failed = any(finding.status is Status.FAIL for finding in found.values())
    if as_json:
        end = _as_json(plan, found, finished=finished)
    else:
        end = _summary(found) if finished else "interrupted; everything that was opened is closed"
    print(end, flush=True)
    if not finished:
        return 128 + signal.SIGINT
    return 1 if failed else 0


async def _until_interrupt(plan: Plan, report: Report) -> bool:
    """Run the checks; whether SIGINT or SIGTERM left them the time."""
    finished = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def interrupted() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(interrupted)
            await examine(plan, report)
            finished = True
            nursery.cancel_scope.cancel()
    return finished


def _lines(name: str, finding: Finding) -> str:
    head = f"  {finding.status:4} {name:{_NAME_WIDTH}}"
    lines = _wrapped(finding.seen)
    if finding.advice:
        lines += _wrapped(f"-> {finding.advice}")
    return f"\n{' ' * _INDENT}".join([head + lines[0], *lines[1:]])


def _summary(found: dict[str, Finding]) -> str:
    counts = {status: sum(finding.status is status for finding in found.values()) for status in Status}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def _as_json(plan: Plan, found: dict[str, Finding], *, finished: bool) -> str:
    checks = [
        {"check": name, "status": finding.status.lower(), "seen": finding.seen, "advice": finding.advice}
        for name, finding in found.items()
    ]
    failed = any(finding.status is Status.FAIL for finding in found.values())
    return json.dumps({"url": plan.target.url, "ok": finished and not failed, "checks": checks}, indent=2)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(_clean(text), _LINE - _INDENT, break_on_hyphens=False) or [""]


def _clean(text: str) -> str:
    """``text`` without what could steer a terminal: part of it is a stranger's."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _seconds(text: str) -> float:
    seconds = _seconds_or_none(text)
    if seconds == 0:
        raise argparse.ArgumentTypeError("0 would leave no time for an answer: give seconds, such as 15")
    return seconds


def _seconds_or_none(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {MAX_SECONDS:g}")
    return seconds
