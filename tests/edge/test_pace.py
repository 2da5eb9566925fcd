"""A peer that sends more than it may is read from more slowly: nothing is lost, and nothing else changes."""

import select
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import CloseConnection, Ping, Pong, TextMessage

from relayd.edge.pace import CONTROL_BURST, CONTROL_RATE, Pace
from relayd.ops.events import (
    BinaryReleased,
    BinaryTookOver,
    ClaimRefused,
    PhoneUnregistered,
    RateLimited,
)
from relayd.values import Rate
from tests.attacks import peers
from tests.attacks.bounds import Honest
from tests.attacks.peers import PING, frame
from tests.relay_process import RelayProcess
from tests.trio_client import Client, RelayUnderTest, relay_under_test

EMPTY_FRAGMENT = frame(b"", 0x00)
QUIET: dict[str, Any] = {"heartbeat_interval": 100_000, "message_timeout": 30}


async def pair(relay: RelayUnderTest) -> tuple[Client, Client]:
    """A binary and its phone, connected."""
    return await relay.binary(), await relay.phone()


async def arrivals(binary: Client, count: int) -> list[str]:
    """The next ``count`` messages of phones."""
    messages = [await binary.next_message() for _ in range(count)]
    return [message.partition('"frame":')[2][:-1] for message in messages]


async def test_frames_beyond_the_rate_come_at_the_rate_all_of_them_and_in_order(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test(phone_rate=Rate(frames=10), **QUIET) as relay, trio.open_nursery() as nursery:
        binary, phone = await pair(relay)
        begun = trio.current_time()
        nursery.start_soon(phone.stream.send_all, b"".join(frame(b"%d" % number) for number in range(300)))
        assert await arrivals(binary, 300) == [str(number) for number in range(300)]
        # A second's worth at once, and a second's worth at a time.
        assert trio.current_time() - begun == pytest.approx(28, abs=1)
        assert [(event.kind, event.bound) for event in relay.seen(RateLimited)] == [("phone", "frames")]
        pauses = relay.relay.tally.pauses
        assert pauses.under_way == 1
        await trio.sleep(2)
        assert pauses.under_way == 0
        assert pauses.count["phone", "frames"] == pytest.approx(29, abs=1)
        assert pauses.seconds["phone", "frames"] == pytest.approx(29, abs=1)


@pytest.mark.parametrize("kind", ["phone", "binary"])
async def test_a_message_larger_than_a_second_s_worth_takes_its_time_and_is_not_too_slow(
    autojump_clock: MockClock, kind: str
) -> None:
    settings: dict[str, Any] = {f"{kind}_rate": Rate(bytes=2048), **QUIET}
    async with relay_under_test(**settings) as relay, trio.open_nursery() as nursery:
        binary, phone = await pair(relay)
        await phone.send_text("1")
        conn_id = (await binary.next_message())[12:36]
        long = '"' + "x" * 200_000 + '"'
        begun = trio.current_time()
        if kind == "phone":
            nursery.start_soon(phone.send_text, long)
            assert await arrivals(binary, 1) == [long]
        else:
            nursery.start_soon(binary.send_text, f'{{"conn_id":"{conn_id}","frame":{long}}}')
            assert await phone.next_message() == long
        # More than three times what a message may take.
        assert trio.current_time() - begun == pytest.approx(200_000 / 2048, abs=2.5)


async def test_a_message_that_stops_is_still_closed_with_1008(autojump_clock: MockClock) -> None:
    async with relay_under_test(phone_rate=Rate(bytes=2048), **QUIET) as relay:
        _, phone = await pair(relay)
        begun = trio.current_time()
        await phone.stream.send_all(frame(b'"' + b"x" * 100_000 + b'"')[:20_000])
        assert await phone.closed() == (1008, "message too slow")
        assert trio.current_time() - begun == pytest.approx(20_000 / 2048 + 30, abs=2.5)


async def test_within_its_rate_nobody_is_held_back(autojump_clock: MockClock) -> None:
    async with relay_under_test(phone_rate=Rate(100_000, 10), **QUIET) as relay:
        binary, phone = await pair(relay)
        for _ in range(20):
            begun = trio.current_time()
            await phone.stream.send_all(frame(b"1") * 10)
            await arrivals(binary, 10)
            assert trio.current_time() == begun
            await trio.sleep(1)
        assert relay.seen(RateLimited) == []


async def test_a_peer_that_is_held_back_is_not_taken_for_dead(autojump_clock: MockClock) -> None:
    async with (
        relay_under_test(
            binary_rate=Rate(bytes=1024), heartbeat_interval=1, heartbeat_timeout=1, probe_timeout=0.5
        ) as relay,
        trio.open_nursery() as nursery,
    ):
        holder = await relay.binary()
        # What it answers lies behind a minute of what it has sent before.
        nursery.start_soon(holder.send_text, "x" * 60_000)
        await trio.sleep(30.5)
        assert relay.relay.tally.pauses.under_way == 1
        newcomer = await relay.binary()
        assert await newcomer.closed() == (4409, "server-id already claimed")
        assert len(relay.seen(ClaimRefused)) == 1
        assert relay.seen(BinaryReleased) == relay.seen(BinaryTookOver) == []
        nursery.start_soon(holder.answer_pings)
        await trio.sleep(60)
        assert relay.seen(BinaryReleased) == []
        nursery.cancel_scope.cancel()


async def test_a_dead_peer_that_was_held_back_is_found_out(autojump_clock: MockClock) -> None:
    async with relay_under_test(phone_rate=Rate(frames=1), heartbeat_interval=5, heartbeat_timeout=5) as relay:
        binary, phone = await pair(relay)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(binary.answer_pings)
            await phone.stream.send_all(frame(b"1") * 30)
            await trio.sleep(60)
            assert [event.reason for event in relay.seen(PhoneUnregistered)] == ["heartbeat timeout"]
            nursery.cancel_scope.cancel()


async def test_a_goodbye_behind_what_is_held_back_comes_after_all_of_it(autojump_clock: MockClock) -> None:
    async with relay_under_test(phone_rate=Rate(frames=5), **QUIET) as relay:
        binary, phone = await pair(relay)
        await phone.stream.send_all(frame(b"1") * 50)
        await phone.send(CloseConnection(code=4001))
        assert await arrivals(binary, 50) == ["1"] * 50
        assert '"close_code":4001' in await binary.next_message()
        assert await phone.next_event() == CloseConnection(code=4001, reason="")


@pytest.mark.parametrize("how", ["close directive", "drain"])
async def test_a_peer_that_is_held_back_is_closed_at_once(autojump_clock: MockClock, how: str) -> None:
    async with relay_under_test(phone_rate=Rate(frames=1), **QUIET) as relay, trio.open_nursery() as nursery:
        binary, phone = await pair(relay)
        await phone.stream.send_all(frame(b"1") * 1_000)
        conn_id = (await binary.next_message())[12:36]
        await trio.sleep(10)
        begun = trio.current_time()
        if how == "drain":
            nursery.start_soon(binary.answer_pings)
            nursery.start_soon(relay.relay.drain, "SIGTERM")
            code = 1001
        else:
            await binary.send_text(f'{{"conn_id":"{conn_id}","close_code":4401}}')
            code = 4401
        assert (await phone.closed())[0] == code
        await relay.until(lambda: relay.seen(PhoneUnregistered))
        await wait_all_tasks_blocked()
        assert trio.current_time() == begun
        assert relay.relay.tally.pauses.under_way == 0
        nursery.cancel_scope.cancel()


async def test_a_new_rate_counts_for_those_who_come_after_it(autojump_clock: MockClock) -> None:
    async with relay_under_test(**QUIET) as relay:
        binary, before = await pair(relay)
        relay.relay.apply(type(relay.settings)(**{**QUIET, "phone_rate": Rate(frames=1)}))
        after = await relay.phone()
        begun = trio.current_time()
        await before.stream.send_all(frame(b"1") * 100)
        assert await arrivals(binary, 100) == ["1"] * 100
        assert trio.current_time() == begun
        await after.stream.send_all(frame(b"2") * 10)
        assert await arrivals(binary, 10) == ["2"] * 10
        assert trio.current_time() - begun == pytest.approx(9, abs=1)


@pytest.mark.parametrize("kind", ["phone", "binary"])
async def test_a_flood_of_pings_is_read_no_faster_than_control_frames_may_come(
    autojump_clock: MockClock, kind: str
) -> None:
    async with relay_under_test(**QUIET) as relay, trio.open_nursery() as nursery:
        binary, phone = await pair(relay)
        flooder = phone if kind == "phone" else binary
        count = 2_000
        begun = trio.current_time()
        nursery.start_soon(flooder.stream.send_all, frame(b"ping", PING) * count)
        await trio.sleep(1)
        assert relay.relay.tally.pauses.under_way == 1
        await flooder.send(CloseConnection(code=3000))
        while not isinstance(event := await flooder.next_event(), CloseConnection):
            assert isinstance(event, Pong)
        assert event.code == 3000
        assert trio.current_time() - begun == pytest.approx((count - CONTROL_BURST) / CONTROL_RATE, rel=0.15)
        assert [(event.kind, event.bound) for event in relay.seen(RateLimited)] == [(kind, "control")]


async def test_as_many_control_frames_as_may_come_at_once_hold_nobody_back(autojump_clock: MockClock) -> None:
    async with relay_under_test(**QUIET) as relay:
        binary, phone = await pair(relay)
        begun = trio.current_time()
        await phone.stream.send_all(frame(b"", PING) * (CONTROL_BURST // 2))
        await phone.stream.send_all(frame(b"", 0x8A) * (CONTROL_BURST // 2) + frame(b"1"))
        assert await arrivals(binary, 1) == ["1"]
        assert trio.current_time() == begun
        for _ in range(100):
            await trio.sleep(1)
            await phone.stream.send_all(frame(b"", PING) * CONTROL_RATE)
        await wait_all_tasks_blocked()
        assert relay.seen(RateLimited) == []


async def test_a_message_drawn_out_with_empty_fragments_is_held_back_and_closed_in_time(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test(**QUIET) as relay, trio.open_nursery() as nursery:
        _, phone = await pair(relay)
        begun = trio.current_time()
        nursery.start_soon(phone.stream.send_all, frame(b"[", 0x01) + EMPTY_FRAGMENT * 10_000)
        assert await phone.closed() == (1008, "message too slow")
        # A pause that has begun ends first.
        assert 30 <= trio.current_time() - begun <= 30 + 256 / CONTROL_RATE
        nursery.cancel_scope.cancel()


async def test_fragments_count_as_frames_however_few_bytes_are_in_them(autojump_clock: MockClock) -> None:
    async with relay_under_test(phone_rate=Rate(frames=10), **QUIET) as relay:
        binary, phone = await pair(relay)
        begun = trio.current_time()
        await phone.stream.send_all(frame(b'"', 0x01) + frame(b"x", 0x00) * 98 + frame(b'"', 0x80))
        assert await arrivals(binary, 1) == ['"' + "x" * 98 + '"']
        assert trio.current_time() - begun == pytest.approx(9, abs=1)


async def test_fragments_with_something_in_them_are_no_control_frames(autojump_clock: MockClock) -> None:
    async with relay_under_test(**QUIET) as relay:
        binary, phone = await pair(relay)
        begun = trio.current_time()
        await phone.stream.send_all(frame(b'"', 0x01) + frame(b"x", 0x00) * 5_000 + frame(b'"', 0x80))
        assert await arrivals(binary, 1) == ['"' + "x" * 5_000 + '"']
        assert trio.current_time() == begun


async def test_pings_are_answered_while_frames_are_held_back(autojump_clock: MockClock) -> None:
    async with relay_under_test(phone_rate=Rate(frames=2), **QUIET) as relay:
        _, phone = await pair(relay)
        for _ in range(10):
            await phone.send(TextMessage(data="1"))
            await phone.send(Ping(payload=b"here"))
            assert await phone.next_event() == Pong(payload=b"here")


def owed(pace: Pace) -> tuple[object, str]:
    """Until when it is to be waited for, and why."""
    return pace.until, pace.bound


async def test_a_pace_lets_a_second_s_worth_through_and_then_a_second_s_worth_each_second(
    autojump_clock: MockClock,
) -> None:
    pace = Pace(Rate(bytes=1000, frames=100))
    begun = trio.current_time()
    pace.spend(1000, 100, 0)
    assert pace.until == 0
    pace.spend(1, 0, 0)
    assert owed(pace) == (pytest.approx(begun + 0.001), "bytes")
    pace.spend(0, 50, 0)
    assert owed(pace) == (pytest.approx(begun + 0.5), "frames")
    pace.until = 0.0
    await trio.sleep(10)
    pace.spend(1000, 100, 0)
    assert pace.until == 0
    pace.spend(0, 0, CONTROL_BURST + 1)
    assert owed(pace) == (pytest.approx(trio.current_time() + 1 / CONTROL_RATE), "control")


def test_over_real_sockets_frames_beyond_the_rate_take_their_time_and_a_pair_beside_them_none(
    start_relay: Callable[..., RelayProcess],
) -> None:
    relay = start_relay("--phone-rate", "0/100")
    binary, flooder = peers.binary(relay.port, "flood"), peers.phone(relay.port, "flood")
    with closing(binary), closing(flooder), closing(Honest(relay)) as honest:
        begun = time.monotonic()
        flooder.socket.sendall(b"".join(frame(b"%d" % number) for number in range(300)))
        relay.event("rate_limited", kind="phone", bound="frames")
        honest.exchange()
        for number in range(300):
            assert binary.text().endswith(b'"frame":%d}' % number)
        # A second's worth at once; and who may send a second's worth more has waited for it.
        assert time.monotonic() - begun >= 1


def test_over_real_sockets_a_flood_of_pings_stands_still_while_a_pair_is_served(
    start_relay: Callable[..., RelayProcess],
) -> None:
    relay = start_relay()
    binary, flooder = peers.binary(relay.port, "flood"), peers.phone(relay.port, "flood")
    with closing(binary), closing(flooder), closing(Honest(relay)) as honest:
        block, sent = frame(b"", PING) * 1_000, 0
        flooder.socket.setblocking(False)
        while sent < 64 * 1024 * 1024:
            try:
                sent += flooder.socket.send(block)
            except BlockingIOError:
                # Full as far as the kernel goes, if nobody takes anything while others are served.
                honest.exchange()
                if not select.select([], [flooder.socket], [], 0)[1]:
                    break
        # Some megabytes at most wait in the sockets of both sides.
        assert sent < 64 * 1024 * 1024
        relay.event("rate_limited", kind="phone", bound="control")
        honest.exchange()
