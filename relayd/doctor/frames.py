"""Do frames arrive as they were sent, one by one, in order and soon?"""

import json
import math
import secrets
import statistics
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Final

import trio
from attrs import field, frozen

from relayd.doctor.findings import BUFFERS, Failed, Finding, Status
from relayd.doctor.peers import Closing, Pair, Peer, pair
from relayd.doctor.target import Plan

__all__ = ["check_down", "check_order", "check_promptness", "check_round_trips", "check_up"]

LIMIT: Final = 256 * 1024
"""The protocol's largest message, in bytes."""

TOO_BIG: Final = 1009

ENVELOPE: Final = 1024
"""Bytes below `LIMIT` that are left for an envelope."""

SIZES: Final = (1, 125, 126, 4096, 65535, 65536, LIMIT - ENVELOPE)
"""Bytes of a frame, on both sides of each step in the encoding of lengths (RFC 6455, section 5.2)."""

TEXTS: Final = (
    # One, two, three and four bytes of UTF-8, the ends of each range, and what some take for special.
    '"\\u0000\\n\\"\\\\\\/\\ud83d\\ude00 \x7f\x80\u07ff\u0800\u2028\ufeff\ufffd\uffff'
    '\U00010000\U0010ffff aé漢😀"',
    # What a relay that reads and writes JSON anew would change.
    ' {"b" : 1.0, "a": [1e2, -0, 12345678901234567890, "<&>\\u003c"], "b":null,\t"":{}} ',
)

ROUND_TRIPS: Final = 20
ROUND_TRIPS_LAST: Final = 3.0
"""Seconds after which no further round trip begins: what is slow is known by then."""

BURST: Final = 50

DRIPS: Final = 8
DRIP_PAUSE: Final = 0.1
"""Seconds between two small frames: less than buffering proxies wait, more than most networks hesitate."""

HICCUPS: Final = 1
"""Frames that may come late without a word: any network, or this machine, may pause for a moment."""


async def check_up(plan: Plan) -> Finding:
    """Phone to binary, of several sizes."""
    async with pair(plan) as peers, trio.open_nursery() as nursery:

        async def receive(what: str) -> str:
            envelope = await peers.binary.envelope(what)
            if envelope.conn_id != peers.conn_id:
                raise Failed(
                    "a frame came under another conn_id", "a relay must keep one conn_id for a connection"
                )
            if envelope.close_code is not None:
                raise _thrown_out(
                    peers.phone, await peers.phone.closing(plan.timeout, "the close of that phone")
                )
            return bytes(envelope.frame).decode()

        nursery.start_soon(_stays, peers.phone)
        await _verbatim(peers.phone.send, receive)
        nursery.cancel_scope.cancel()
    return Finding(f"verbatim, {_sizes()}")


async def check_down(plan: Plan) -> Finding:
    """Binary to phone, of several sizes."""
    async with pair(plan) as peers, trio.open_nursery() as nursery:
        nursery.start_soon(_stays, peers.binary)
        await _verbatim(peers.down, peers.phone.receive)
        nursery.cancel_scope.cancel()
    return Finding(f"verbatim, {_sizes()}")


async def check_order(plan: Plan) -> Finding:
    """Bursts in both directions at once."""
    sent = list(range(BURST))
    up: list[int] = []
    down: list[int] = []
    async with pair(plan) as peers, trio.open_nursery() as nursery:

        async def send_up() -> None:
            for number in sent:
                await peers.phone.send(json.dumps(number))

        async def send_down() -> None:
            for number in sent:
                await peers.down(json.dumps(number))

        async def receive_down() -> None:
            while len(down) < BURST:
                down.append(json.loads(await peers.phone.receive("a frame of a burst to the phone")))

        nursery.start_soon(send_up)
        nursery.start_soon(send_down)
        nursery.start_soon(receive_down)
        while len(up) < BURST:
            envelope = await peers.binary.envelope("a frame of a burst to the binary")
            up.append(json.loads(bytes(envelope.frame)))
    for direction, received in (("to the binary", up), ("to the phone", down)):
        if received != sent:
            wrong = next(place for place, number in enumerate(received) if number != place)
            raise Failed(
                f"frames {direction} out of order: after {wrong} of them came number {received[wrong] + 1}",
                "a relay must keep the order: does what is in between use several connections for one?",
            )
    return Finding(f"{BURST} frames at once each way, all in their order")


async def check_round_trips(plan: Plan) -> Finding:
    """Phone to binary to phone, one at a time."""
    took: list[float] = []
    async with pair(plan) as peers:
        begun = trio.current_time()
        while len(took) < ROUND_TRIPS and trio.current_time() - begun < ROUND_TRIPS_LAST:
            start = trio.current_time()
            await peers.phone.send(json.dumps(len(took)))
            envelope = await peers.binary.envelope("a frame on its round trip, at the binary,")
            await peers.down(bytes(envelope.frame).decode())
            await peers.phone.receive("a frame on its round trip, at the phone,")
            took.append(trio.current_time() - start)
    median, worst = statistics.median(took) * 1000, max(took) * 1000
    return Finding(f"phone to binary and back: median {median:.1f} ms, worst {worst:.1f} ms of {len(took)}")


async def check_promptness(plan: Plan) -> Finding:
    """Small frames with pauses between them: do they come one by one, or in clumps, and that twice?"""
    async with pair(plan) as peers:
        for _ in range(2):
            up, down = _Drip(peers.phone.send, _frame_of(peers)), _Drip(peers.down, peers.phone.receive)
            async with trio.open_nursery() as nursery:
                for drip in (up, down):
                    nursery.start_soon(drip.send_all)
                    nursery.start_soon(drip.receive_all)
            worst = max(up, down, key=lambda drip: drip.clumped)
            late = f"{max(up.late, down.late) * 1000:.1f} ms"
            if worst.clumped <= HICCUPS:
                return Finding(
                    f"{DRIPS} small frames each way came one by one, none over {late} behind the fastest"
                )
    direction = "to the binary" if worst is up else "to the phone"
    seen = f"{worst.clumped} of {DRIPS} frames {direction} came with the one before, up to {late} late"
    if worst.clumped >= DRIPS // 2:
        raise Failed(seen, BUFFERS)
    return Finding(seen, Status.WARN, f"run it again; if it is so again: {BUFFERS}")


async def _stays(sender: Peer) -> None:
    """Raise Failed if ``sender``, who gets no messages, is closed for what it sends."""
    raise _thrown_out(sender, await sender.closing(math.inf, ""))


def _thrown_out(sender: Peer, closing: Closing) -> Failed:
    if closing.code == TOO_BIG:
        advice = f"the protocol's largest message is {LIMIT // 1024} KiB: raise the relay's (--max-frame-bytes)"
    else:
        advice = "relayd logs why it closes a connection; if it did not, something in between has cut it"
    return Failed(f"the {sender.role} was {closing} for one of its frames", advice)


async def _verbatim(send: Callable[[str], Awaitable[None]], receive: Callable[[str], Awaitable[str]]) -> None:
    for frame in (*map(_filled, SIZES), *TEXTS):
        size = len(frame.encode())
        await send(frame)
        received = await receive(f"a frame of {size:,} bytes")
        # White space around a document is not of it; what is inside is.
        if received.strip() != frame.strip():
            raise Failed(
                f"a frame of {size:,} bytes came changed: {_difference(frame.strip(), received.strip())}",
                "a relay must pass frames on verbatim: dial it without what is in between, and compare",
            )


def _filled(size: int) -> str:
    return "7" if size == 1 else f'"{secrets.token_hex(size)[: size - 2]}"'


def _difference(sent: str, received: str) -> str:
    ours, theirs = sent.encode(), received.encode()
    place = next(
        (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    around = slice(max(0, place - 8), place + 8)
    return f"from byte {place} of {len(ours)} on, {ours[around]!r} has become {theirs[around]!r}"


def _sizes() -> str:
    return f"{len(SIZES)} sizes from 1 byte to {SIZES[-1] // 1024} KiB, every kind of UTF-8, unusual JSON"


def _frame_of(peers: Pair) -> Callable[[str], Awaitable[str]]:
    async def receive(what: str) -> str:
        return bytes((await peers.binary.envelope(what)).frame).decode()

    return receive


@frozen
class _Drip:
    """Small frames in one direction, with a pause between them."""

    _send: Callable[[str], Awaitable[None]]
    _receive: Callable[[str], Awaitable[str]]
    _sent: list[float] = field(factory=list)
    _came: list[float] = field(factory=list)

    async def send_all(self) -> None:
        for number in range(DRIPS):
            self._sent.append(trio.current_time())
            await self._send(json.dumps(number))
            await trio.sleep(DRIP_PAUSE)

    async def receive_all(self) -> None:
        for _ in range(DRIPS):
            await self._receive("a small frame")
            self._came.append(trio.current_time())

    @property
    def late(self) -> float:
        """Seconds that the slowest frame was behind the fastest."""
        took = [came - sent for sent, came in zip(self._sent, self._came, strict=True)]
        return max(took) - min(took)

    @property
    def clumped(self) -> int:
        """How many frames came together with the one before."""
        return sum(later - earlier < DRIP_PAUSE / 4 for earlier, later in pairwise(self._came))
