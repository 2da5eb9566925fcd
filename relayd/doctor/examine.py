"""The checks, in the order in which a fault in one explains the next."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from relayd.doctor import closing, frames, http, reach
from relayd.doctor.findings import Failed, Finding, Status, TooOften, first
from relayd.doctor.peers import pair
from relayd.doctor.target import Plan

__all__ = ["Report", "examine"]

Check: TypeAlias = Callable[[Plan], Awaitable[Finding]]
Report: TypeAlias = Callable[[str, Finding], None]


async def check_pair(plan: Plan) -> Finding:
    """A binary claims, its phone joins."""
    async with pair(plan) as peers:
        return Finding(f"a binary claimed a random server-id, and a phone joined it as {peers.conn_id[:6]}…")


_WAY: Final[tuple[tuple[str, Check], ...]] = (
    ("address", reach.check_address),
    ("connection", reach.check_connection),
    ("tls", reach.check_tls),
    ("upgrade", http.check_upgrade),
)
"""Without one of these, there is nothing to say of the rest."""

_MANNERS: Final[tuple[tuple[str, Check], ...]] = (
    ("healthz", http.check_health),
    ("headers", http.check_headers),
    ("unknown server", closing.check_unknown_server),
)

_PEERS: Final[tuple[tuple[str, Check], ...]] = (
    ("phone to binary", frames.check_up),
    ("binary to phone", frames.check_down),
    ("order", frames.check_order),
    ("round trips", frames.check_round_trips),
    ("one by one", frames.check_promptness),
    ("second binary", closing.check_second_binary),
    ("close directive", closing.check_close_directive),
    ("close notice", closing.check_close_notice),
    ("phone limit", closing.check_phone_limit),
    ("idle", closing.check_idle),
)
"""Each with a binary and a phone of its own, so that no check inherits another one's trouble."""

_LAST: Final = ("extras", http.check_extras)


async def examine(plan: Plan, report: Report) -> None:
    """Run every check that can be run and ``report`` it, and what cannot be as one line."""
    for name, check in _WAY:
        if not await _passed(name, check, plan, report):
            report("the rest", Finding(f"needs {name}", Status.SKIP))
            return
    for name, check in _MANNERS:
        await _passed(name, check, plan, report)
    if await _passed("claim and join", check_pair, plan, report):
        for name, check in _PEERS:
            await _passed(name, check, plan, report)
    else:
        report(f"{len(_PEERS)} more", Finding("need claim and join", Status.SKIP))
    await _passed(*_LAST, plan, report)


async def _passed(name: str, check: Check, plan: Plan, report: Report) -> bool:
    finding = Finding("")
    try:
        finding = await check(plan)
    except* Failed as failures:
        # Whatever else went wrong may have come of it.
        too_often = failures.subgroup(TooOften)
        failed: Failed = first(too_often) if too_often else first(failures)
        finding = Finding(failed.seen, Status.SKIP if too_often else Status.FAIL, failed.advice)
    except* (OSError, trio.BrokenResourceError):
        finding = Finding(
            "the connection broke in the middle of the check",
            Status.FAIL,
            "try again; if it breaks again, see what is in between, and relayd's log",
        )
    report(name, finding)
    return finding.status is not Status.FAIL
