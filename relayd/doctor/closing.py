"""Does the relay close whom it must, with the code that it must?"""

import math
from collections.abc import Sequence
from typing import Final

import trio

from relayd.doctor.findings import Failed, Finding, Status
from relayd.doctor.http import new_server_id
from relayd.doctor.peers import NO_SERVER, Closing, Peer, addressed, binary, greeting, pair, phone
from relayd.doctor.target import Plan

__all__ = [
    "check_close_directive",
    "check_close_notice",
    "check_idle",
    "check_phone_limit",
    "check_second_binary",
    "check_unknown_server",
]

CLAIMED: Final = 4409
TOO_MANY: Final = 4429
DIRECTED: Final = 4401

PROBE: Final = 10.0
"""Seconds that a relay gives the holder of a server-id to answer when another binary claims it."""

USUAL_LIMIT: Final = 16
MOST_PHONES: Final = 64
AT_ONCE: Final = 8

PING_BY: Final = 35.0
"""Seconds of silence after which a relay must have pinged: it does so every 30."""

_NOT_THIS_PROTOCOL: Final = "is it a relay of this protocol, and is its version current?"


async def check_unknown_server(plan: Plan) -> Finding:
    """A phone for a server-id that nobody holds."""
    async with phone(plan, new_server_id()) as alone:
        closing = await alone.closing(plan.timeout, f"the close with {NO_SERVER} for a phone without a binary")
    return _expected(closing, NO_SERVER, "a phone without a binary")


async def check_second_binary(plan: Plan) -> Finding:
    """A second binary for a server-id that is held; the first must stay."""
    async with pair(plan) as peers:
        async with binary(plan, peers.server_id) as second:
            start = trio.current_time()
            patience = plan.timeout + PROBE
            closing = await second.closing(patience, f"the close with {CLAIMED} for a second binary")
            took = trio.current_time() - start
        finding = _expected(closing, CLAIMED, "a second binary")
        await peers.phone.send(greeting())
        await peers.binary.envelope("a frame at the first binary, after a second one was refused,")
    return Finding(f"{finding.seen} in {took * 1000:.1f} ms; the first one goes on")


async def check_close_directive(plan: Plan) -> Finding:
    """The binary orders a phone's close: its last frame comes first, and no notice comes back."""
    async with pair(plan) as peers:
        last = greeting()
        whole = addressed(peers.conn_id, last)
        await peers.binary.send(f'{whole[:-1]},"close_code":{DIRECTED}}}')
        if await peers.phone.receive("the frame of a close directive") != last:
            raise Failed("the frame of a close directive came changed", _NOT_THIS_PROTOCOL)
        closing = await peers.phone.closing(plan.timeout, f"the close with {DIRECTED} that the binary ordered")
        finding = _expected(closing, DIRECTED, "a phone that the binary sends away")
        # Another phone's frame is the mark: a notice for the first one would have come before it.
        async with phone(plan, peers.server_id) as other:
            await other.send(greeting())
            envelope = await peers.binary.envelope("another phone's frame")
    if envelope.conn_id == peers.conn_id:
        raise Failed("the binary got a notice of the close that it ordered itself", _NOT_THIS_PROTOCOL)
    return finding


async def check_close_notice(plan: Plan) -> Finding:
    """A phone leaves with 1000: its binary is told."""
    async with pair(plan) as peers:
        await peers.phone.close()
        notice = await peers.binary.envelope("the notice of a phone's close", advice=_NOT_THIS_PROTOCOL)
    if notice.conn_id != peers.conn_id or notice.close_code != 1000 or bytes(notice.frame):
        raise Failed(
            f"a phone left with 1000, and its binary was told {_told(notice.close_code, bytes(notice.frame))}",
            'a notice is {"conn_id":"c-…","close_code":1000}: ' + _NOT_THIS_PROTOCOL,
        )
    return Finding("a phone left with 1000, and its binary was told so")


async def check_phone_limit(plan: Plan) -> Finding:
    """Phones, until one is too many."""
    admitted = 1
    refusals: list[Closing] = []
    leave = trio.Event()
    arrivals = trio.CancelScope()
    async with pair(plan) as peers, trio.open_nursery() as crowd:
        answered, answers = trio.open_memory_channel[Closing | None](MOST_PHONES)

        async def join() -> None:
            async with phone(plan, peers.server_id) as one, trio.open_nursery() as stay:

                async def see_refusal() -> None:
                    await answered.send(await one.closing(math.inf, ""))

                stay.start_soon(see_refusal)
                await one.say(greeting())
                await leave.wait()
                stay.cancel_scope.cancel()

        async def see_admitted() -> None:
            with arrivals:
                while True:
                    # A phone may wait before it is let in, and then say something.
                    envelope = await peers.binary.envelope(
                        "the first frame of one more phone", patience=2 * plan.timeout
                    )
                    if bytes(envelope.frame):  # and not a close notice
                        await answered.send(None)

        crowd.start_soon(see_admitted)
        while not refusals and admitted < MOST_PHONES:
            dialled = min(AT_ONCE, MOST_PHONES - admitted)
            for _ in range(dialled):
                crowd.start_soon(join)
            for _ in range(dialled):
                closing = await answers.receive()
                if closing is None:
                    admitted += 1
                else:
                    refusals.append(closing)
        arrivals.cancel()
        leave.set()
    if not refusals:
        return Finding(
            f"{admitted} phones of one server-id, and none was refused",
            Status.WARN,
            f"the protocol's limit is {USUAL_LIMIT}; without one, a stranger may fill the relay",
        )
    for closing in refusals:
        _expected(closing, TOO_MANY, f"one phone after {admitted}")
    usual = "" if admitted == USUAL_LIMIT else f" (the usual limit is {USUAL_LIMIT})"
    return Finding(f"{admitted} phones of one server-id{usual}, the next is {refusals[0]}")


async def check_idle(plan: Plan) -> Finding:
    """Silence, and then a frame each way: proxies like to cut what is silent."""
    if not plan.idle:
        return Finding(
            "no silence was asked for: --idle 90 finds a proxy that cuts idle connections", Status.SKIP
        )
    async with pair(plan) as peers:
        both = (peers.binary, peers.phone)
        before = [peer.pings for peer in both]
        start = trio.current_time()
        with trio.move_on_after(plan.idle):
            ended = await _first_end(both)
            raise Failed(
                f"after {trio.current_time() - start:.1f} s of silence the {ended}",
                f"raise what is in between above {PING_BY:g} s of silence (nginx: proxy_read_timeout and "
                "proxy_send_timeout, HAProxy: timeout tunnel): a relay pings every 30",
            )
        pings = [peer.pings - count for peer, count in zip(both, before, strict=True)]
        try:
            await peers.phone.send(greeting())
            await peers.binary.envelope("a frame after the silence, at the binary,")
            await peers.down(greeting())
            await peers.phone.receive("a frame after the silence, at the phone,")
        except Failed as failed:
            raise Failed(
                f"{plan.idle:g} s of silence, and then: {failed.seen}",
                "something in between has forgotten the connection without a word: raise its idle timeout",
            ) from None
    counts = f"{pings[0]} pings to the binary, {pings[1]} to the phone"
    seen = f"{plan.idle:g} s of silence, then a frame each way; {counts}"
    if plan.idle >= PING_BY and not all(pings):
        return Finding(
            seen, Status.WARN, "a relay pings both every 30 s: see its heartbeat (--heartbeat-interval)"
        )
    return Finding(seen)


async def _first_end(peers: Sequence[Peer]) -> str:
    """Wait for the first of ``peers`` whose connection ends; how it did."""
    ends: list[str] = []
    async with trio.open_nursery() as nursery:

        async def end(peer: Peer) -> None:
            ends.append(f"{peer.role} was {await peer.closing(math.inf, '')}")
            nursery.cancel_scope.cancel()

        for peer in peers:
            nursery.start_soon(end, peer)
    return ends[0]


def _expected(closing: Closing, code: int, who: str) -> Finding:
    if closing.code != code:
        raise Failed(f"{who} was {closing}, not with {code}", _NOT_THIS_PROTOCOL)
    return Finding(f"{who} is {closing}")


def _told(code: int | None, frame: bytes) -> str:
    return f"close_code {code}" + (" with a frame" if frame else "")
