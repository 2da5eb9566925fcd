"""Contract, "Outbox": the queue's arithmetic and its writer, on a transport that takes what a table says."""

from collections import deque
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.routing.budget import Account, Budget
from relayd.routing.outbox import FRAME_OVERHEAD, Outbox
from relayd.wire.close import WRITE_STALLED, Close
from relayd.wire.frames import PING, encode_text

A, B, C = b"aaa", b"bb" * 100, b"c"
ALL = encode_text(A) + encode_text(B) + encode_text(C)


class Wire:
    """A transport that takes as many bytes as it is ``open`` for, and remembers them."""

    def __init__(self, open_for: int = 0) -> None:
        self.open_for = open_for
        self.failing = False
        self.taken = b""
        self.calls = 0
        self.writers = 0
        self.acknowledged = 0
        self.kept_bytes = 0
        self.closes: list[Close] = []
        self._writable = trio.lowlevel.ParkingLot()

    def try_send(self, frames: Sequence[bytes | memoryview]) -> int:
        assert len(frames) <= 1024
        self.calls += 1
        if self.failing:
            raise BrokenPipeError
        part = b"".join(frames)[: self.open_for]
        self.open_for -= len(part)
        self.taken += part
        return len(part)

    def start_writer(self) -> None:
        self.writers += 1

    async def wait_writable(self) -> None:
        while not self.open_for and not self.failing:
            await self._writable.park()

    def unacknowledged(self) -> int:
        return len(self.taken) - self.acknowledged

    def kept(self) -> int:
        return self.kept_bytes

    def end(self, close: Close) -> None:
        self.closes.append(close)

    def widen(self, size: int) -> None:
        self.open_for += size
        self._writable.unpark_all()

    def fail(self) -> None:
        self.failing = True
        self._writable.unpark_all()


def outbox_on(wire: Wire, limit: int = 10_000, account: Account | None = None) -> Outbox:
    """An outbox with the contract's write timeout."""
    if account is None:
        account = Account(Budget(10**9), lambda: None)
    return Outbox(wire, limit=limit, write_timeout=10, account=account)


@pytest.mark.parametrize("payload", [b"", b"x", b"x" * 125, b"x" * 126, b"x" * 70_000])
def test_frame_is_charged_its_payload_and_64(payload: bytes) -> None:
    outbox = outbox_on(Wire(), limit=100_000)
    assert outbox.put(payload)
    assert outbox.charge == len(payload) + 64


@pytest.mark.parametrize(("limit", "fits"), [(2 * 164, True), (2 * 164 - 1, False)])
def test_limit_is_exact(limit: int, fits: bool) -> None:
    wire = Wire()
    outbox = outbox_on(wire, limit)
    assert outbox.put(b"x" * 100)
    assert outbox.put(b"y" * 100) is fits
    assert outbox.charge == (2 if fits else 1) * 164


@pytest.mark.parametrize(("sent", "fits"), [(0, False), (1, False), (101, False), (102, True)])
def test_frame_being_written_is_charged_until_its_last_byte_is_sent(sent: int, fits: bool) -> None:
    wire = Wire(open_for=sent)
    outbox = outbox_on(wire, limit=164)
    assert outbox.put(b"x" * 100)
    outbox.flush()
    assert len(wire.taken) == sent
    assert outbox.put(b"y" * 100) is fits


def test_burst_beyond_the_limit_passes_if_the_socket_takes_it() -> None:
    wire = Wire(open_for=10**9)
    outbox = outbox_on(wire, limit=1_000)
    assert all(outbox.put(b"x") for _ in range(1_000))
    outbox.flush()
    assert wire.taken == encode_text(b"x") * 1_000
    assert outbox.charge == 0
    assert wire.calls < 100


@pytest.mark.parametrize("split", range(len(ALL) + 1))
async def test_any_partial_send_keeps_every_byte_in_order(split: int) -> None:
    wire = Wire(open_for=split)
    outbox = outbox_on(wire)
    for payload in (A, B, C):
        outbox.put(payload)
    outbox.flush()
    assert wire.taken == ALL[:split]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.write)
        wire.widen(len(ALL))
        await outbox.drained()
        nursery.cancel_scope.cancel()
    assert wire.taken == ALL
    assert (outbox.charge, outbox.sent_count, outbox.waiting) == (0, 3, 0)


@pytest.mark.parametrize("whole", [True, False])
async def test_more_frames_than_one_system_call_takes_go_out_in_order(whole: bool) -> None:
    payloads = [b"%d" % number for number in range(5000)]
    everything = b"".join(map(encode_text, payloads))
    wire = Wire(open_for=len(everything) if whole else 20_000)
    outbox = outbox_on(wire, limit=10**6)
    for payload in payloads:
        outbox.put(payload)
    outbox.flush()
    assert wire.writers == (not whole)
    wire.widen(len(everything))
    await outbox.write()
    assert wire.taken == everything
    assert (outbox.charge, outbox.sent_count) == (0, 5000)


async def test_writer_is_started_once_each_time_that_the_socket_is_full() -> None:
    wire = Wire()
    outbox = outbox_on(wire)
    for started in (1, 2):
        outbox.put(A)
        outbox.flush()
        outbox.put(B)
        outbox.flush()
        assert wire.writers == started
        wire.widen(len(encode_text(A) + encode_text(B)))
        await outbox.write()
        wire.open_for = 0
    outbox.flush()
    assert wire.writers == 2
    assert wire.taken == (encode_text(A) + encode_text(B)) * 2


@pytest.mark.parametrize("step", [1, 2, 7, 100])
async def test_writer_cancelled_between_any_two_sends_goes_on_where_it_was(step: int) -> None:
    wire = Wire()
    outbox = outbox_on(wire)
    for payload in (A, B, C):
        outbox.put(payload)
    outbox.flush()
    while len(wire.taken) < len(ALL):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.write)
            wire.widen(step)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert wire.taken == ALL


@pytest.mark.parametrize(
    ("sent", "whole"),
    [
        pytest.param(0, b"", id="nothing has begun"),
        pytest.param(1, encode_text(A), id="the first has begun"),
        pytest.param(len(encode_text(A)), encode_text(A), id="at the seam"),
        pytest.param(len(encode_text(A)) + 1, encode_text(A) + encode_text(B), id="the second has begun"),
    ],
)
async def test_discard_keeps_a_frame_that_has_begun_and_no_other(sent: int, whole: bytes) -> None:
    wire = Wire(open_for=sent)
    outbox = outbox_on(wire)
    for payload in (A, B, C):
        outbox.put(payload)
    outbox.flush()
    outbox.discard()
    outbox.put_control(PING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.write)
        wire.widen(len(ALL))
        await outbox.drained()
        nursery.cancel_scope.cancel()
    assert wire.taken == whole + PING
    assert outbox.charge == 0


async def test_drained_waits_for_what_was_put_before_it_and_no_more() -> None:
    wire = Wire()
    outbox = outbox_on(wire)
    outbox.put(A)
    outbox.flush()
    done = trio.Event()

    async def wait() -> None:
        await outbox.drained()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.write)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        outbox.put(B)
        wire.widen(len(encode_text(A)) - 1)
        await wait_all_tasks_blocked()
        assert not done.is_set()
        wire.widen(1)
        await done.wait()
        assert outbox.charge == len(B) + FRAME_OVERHEAD
        nursery.cancel_scope.cancel()


async def test_room_waits_until_the_charge_is_down_to_256_kib() -> None:
    wire = Wire()
    outbox = outbox_on(wire, limit=1)
    size = 100_000
    done = trio.Event()
    for _ in range(4):
        outbox.put_unbounded(b"x" * size)
    outbox.flush()

    async def wait() -> None:
        await outbox.room()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.write)
        nursery.start_soon(wait)
        for _ in range(2):
            await wait_all_tasks_blocked()
            assert not done.is_set()
            wire.widen(len(encode_text(b"x" * size)))
        await done.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("waiter", [Outbox.room, Outbox.drained])
async def test_dead_socket_wakes_everybody_and_drops_everything(waiter: object) -> None:
    assert callable(waiter)
    wire = Wire(open_for=1)
    outbox = outbox_on(wire)
    outbox.put_unbounded(b"x" * 300_000)
    outbox.flush()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.write)
        async with trio.open_nursery() as waiting:
            waiting.start_soon(waiter, outbox)
            await wait_all_tasks_blocked()
            wire.fail()
        nursery.cancel_scope.cancel()
    assert outbox.dead
    assert outbox.charge == 0
    assert not outbox.put(A)
    assert outbox.put_unbounded(A) > outbox.delivered
    outbox.put_control(PING)
    outbox.flush()
    assert outbox.charge == 0
    # Only reading ends a connection whose socket has failed.
    assert wire.closes == []


async def test_finish_ends_the_connection_after_everything_before_it_and_drops_what_comes_later() -> None:
    wire = Wire(open_for=1)
    outbox = outbox_on(wire)
    outbox.put(A)
    outbox.finish(Close(4401))
    outbox.finish(Close(4421))
    assert outbox.put(B)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.write)
        await wait_all_tasks_blocked()
        assert wire.closes == []
        wire.widen(1_000)
        await outbox.drained()
        nursery.cancel_scope.cancel()
    assert wire.taken == encode_text(A)
    assert wire.closes == [Close(4401)]


def test_finish_of_an_empty_outbox_ends_the_connection_at_once() -> None:
    wire = Wire()
    outbox_on(wire).finish(Close(4401))
    assert wire.closes == [Close(4401)]


async def ended_after(wire: Wire, progress: deque[float]) -> float:
    """Seconds until a blocked outbox ends its connection; the peer takes a byte at each of ``progress``."""
    outbox = outbox_on(wire)
    outbox.put(A)
    outbox.flush()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.write)
        while not wire.closes:
            if progress and trio.current_time() - start >= progress[0]:
                progress.popleft()
                wire.acknowledged += 1
            await trio.sleep(0.25)
        nursery.cancel_scope.cancel()
    assert wire.closes == [WRITE_STALLED]
    return trio.current_time() - start


@pytest.mark.parametrize(
    ("progress", "earliest"),
    [
        pytest.param([], 10, id="none"),
        pytest.param([0.2], 10.2, id="what was on its way arrives"),
        pytest.param([9, 18, 27], 37, id="slow but steady, then none"),
    ],
)
async def test_write_is_stalled_10_s_after_its_last_progress(
    autojump_clock: MockClock, progress: list[float], earliest: float
) -> None:
    # To look for progress ten times in those 10 s is exact to the second.
    assert earliest <= await ended_after(Wire(open_for=4), deque(progress)) <= earliest + 1.25
