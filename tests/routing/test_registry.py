"""Contract, "Life of a binary" and "Life of a phone": the races for a slot, each forced."""

import sys
from contextlib import AsyncExitStack
from types import FrameType
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.ops.events import (
    BinaryClaimed,
    BinaryReclaimed,
    BinaryReleased,
    BinaryTookOver,
    ClaimRefused,
    Event,
    GraceExpired,
)
from relayd.routing.heartbeat import Heartbeats
from relayd.routing.phone import forward_from_phone, serve_phone
from relayd.routing.registry import Refused, Registry
from relayd.routing.slot import Phone, Slot
from relayd.wire.close import (
    BACKLOG_FULL,
    BINARY_GONE,
    BINARY_RECLAIMED,
    CLAIM_TAKEN,
    NO_SUCH_SERVER,
    TAKEN_OVER,
    TOO_MANY_PHONES,
    Close,
)
from relayd.wire.frames import encode_text
from relayd.wire.upgrade import BinaryHello, PhoneHello
from tests.routing.fakes import FakeConnection

BINARY = BinaryHello("server", "1.2.3")
PHONE = PhoneHello("server", "")


class Fixture:
    """A registry with the contract's figures, and its events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.registry = Registry(grace=30, probe_timeout=10, max_phones=16, emit=self.events.append)

    def seen(self, event_type: type[Event]) -> int:
        return sum(isinstance(event, event_type) for event in self.events)

    async def claim(self, stack: AsyncExitStack, connection: FakeConnection) -> Slot:
        return await stack.enter_async_context(self.registry.claimed(connection, BINARY))

    def register(self, stack: AsyncExitStack, connection: FakeConnection) -> tuple[Slot, Phone]:
        return stack.enter_context(self.registry.registered(connection, PHONE))


@pytest.fixture
def relay() -> Fixture:
    """A registry of the test's own."""
    return Fixture()


async def test_of_two_newcomers_probing_one_dead_holder_exactly_one_wins(relay: Fixture) -> None:
    holder = FakeConnection()
    newcomers = [FakeConnection(), FakeConnection()]
    won: list[FakeConnection] = []
    refused: list[Close] = []
    over = trio.Event()

    async def claim(connection: FakeConnection) -> None:
        try:
            async with relay.registry.claimed(connection, BINARY) as slot:
                assert slot.binary is connection
                won.append(connection)
                await over.wait()
        except Refused as refusal:
            refused.append(refusal.close)

    async with AsyncExitStack() as old, trio.open_nursery() as nursery:
        await relay.claim(old, holder)
        for newcomer in newcomers:
            nursery.start_soon(claim, newcomer)
        await wait_all_tasks_blocked()
        assert not won
        assert not refused
        holder.verdict.set()
        await wait_all_tasks_blocked()
        assert len(won) == 1
        assert refused == [CLAIM_TAKEN]
        assert holder.ends == [TAKEN_OVER]
        assert (relay.seen(BinaryTookOver), relay.seen(ClaimRefused)) == (1, 1)
        over.set()


async def test_takeover_is_by_identity_when_someone_else_won_during_the_probe(relay: Fixture) -> None:
    holder, slow, quick = FakeConnection(), FakeConnection(), FakeConnection()
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        old = AsyncExitStack()
        await relay.claim(old, holder)
        refusals: list[Close] = []

        async def claim() -> None:
            with pytest.raises(Refused) as refusal:
                await relay.claim(stack, slow)
            refusals.append(refusal.value.close)

        nursery.start_soon(claim)
        await holder.probed.wait()
        await old.aclose()
        slot = await relay.claim(stack, quick)
        holder.verdict.set()
        await wait_all_tasks_blocked()
        assert refusals == [CLAIM_TAKEN]
        assert slot.binary is quick
        assert quick.ends == []


async def test_release_of_one_taken_over_does_not_release_its_successor(
    relay: Fixture, mock_clock: MockClock
) -> None:
    holder, newcomer, phone = FakeConnection(), FakeConnection(), FakeConnection()
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        nursery.start_soon(relay.registry.expire_graces)
        old = AsyncExitStack()
        await relay.claim(old, holder)
        holder.verdict.set()
        slot = await relay.claim(stack, newcomer)
        relay.register(stack, phone)
        await old.aclose()
        mock_clock.jump(100)
        await wait_all_tasks_blocked()
        assert slot.binary is newcomer
        assert phone.ends == []
        assert relay.seen(GraceExpired) == 0
        assert relay.registry.connected_binaries == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("first", ["claim", "expiry"])
async def test_grace_expiry_and_reclaim_at_the_same_instant_close_a_phone_once_and_free_nothing_of_the_newcomer(
    relay: Fixture, mock_clock: MockClock, first: str
) -> None:
    newcomer, phone, newer = FakeConnection(), FakeConnection(), FakeConnection()
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        nursery.start_soon(relay.registry.expire_graces)
        async with AsyncExitStack() as old:
            await relay.claim(old, FakeConnection())
            relay.register(stack, phone)
        await wait_all_tasks_blocked()
        mock_clock.jump(30)
        if first == "expiry":
            await wait_all_tasks_blocked()
        slot = await relay.claim(stack, newcomer)
        relay.register(stack, newer)
        await wait_all_tasks_blocked()
        assert phone.ends == [BINARY_RECLAIMED if first == "claim" else BINARY_GONE]
        assert relay.seen(BinaryReclaimed) == (1 if first == "claim" else 0)
        assert relay.seen(BinaryClaimed) == (1 if first == "claim" else 2)
        assert relay.seen(GraceExpired) == (0 if first == "claim" else 1)
        mock_clock.jump(1_000)
        await wait_all_tasks_blocked()
        assert slot.binary is newcomer
        assert newcomer.ends == newer.ends == []
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["reclaim", "takeover"])
async def test_close_notice_never_goes_to_a_successor(relay: Fixture, how: str) -> None:
    holder, newcomer, phone = FakeConnection(), FakeConnection(), FakeConnection()
    async with AsyncExitStack() as stack:
        old, leaving = AsyncExitStack(), AsyncExitStack()
        await relay.claim(old, holder)
        relay.register(leaving, phone)
        if how == "reclaim":
            await old.aclose()
        holder.verdict.set()
        await relay.claim(stack, newcomer)
        assert phone.ends == [BINARY_RECLAIMED]
        await leaving.aclose()
        await old.aclose()
        assert newcomer.taken == holder.taken == b""
        assert relay.registry.connected_phones == 0


async def test_phone_that_registers_while_its_slot_is_being_reclaimed_is_closed_and_leaves_no_trace(
    relay: Fixture,
) -> None:
    phone, newcomer = FakeConnection(), FakeConnection()
    heartbeats = Heartbeats(interval=30, timeout=30)
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        async with AsyncExitStack() as old:
            await relay.claim(old, FakeConnection())

        async def serve() -> None:
            with phone.scope:
                await serve_phone(phone, PHONE, registry=relay.registry, heartbeats=heartbeats)

        nursery.start_soon(serve)
        # It has registered, and its forwarder waits: now comes the reclaim, before it can say a word.
        await wait_all_tasks_blocked()
        assert relay.registry.connected_phones == 1
        await relay.claim(stack, newcomer)
        phone.arrive.send_nowait([b"1"])
        await wait_all_tasks_blocked()
        assert phone.ends[0] == BINARY_RECLAIMED
        assert relay.registry.connected_phones == 0
        assert newcomer.taken == b""


async def test_phone_whose_frame_is_still_on_its_way_to_a_dying_binary_gets_4404_at_once(
    relay: Fixture,
) -> None:
    binary = FakeConnection(takes=0)
    waiting, bystander = FakeConnection(), FakeConnection()
    async with AsyncExitStack() as stack:
        old = AsyncExitStack()
        slot = await relay.claim(old, binary)
        _, phone = relay.register(stack, waiting)
        relay.register(stack, bystander)
        phone.last_put = binary.outbox.put_unbounded(b"{}")
        binary.outbox.flush()
        await old.aclose()
        assert waiting.ends == [BINARY_GONE]
        assert bystander.ends == []
        assert slot.binary is None
        assert relay.seen(BinaryReleased) == 1


async def test_phone_whose_frames_the_binary_has_taken_stays_for_the_grace_window(relay: Fixture) -> None:
    binary, connection = FakeConnection(), FakeConnection()
    async with AsyncExitStack() as stack:
        old = AsyncExitStack()
        await relay.claim(old, binary)
        _, phone = relay.register(stack, connection)
        phone.last_put = binary.outbox.put_unbounded(b"{}")
        binary.outbox.flush()
        await old.aclose()
        assert connection.ends == []


async def test_phone_cancelled_while_it_waits_for_room_leaves_the_binarys_stream_whole(relay: Fixture) -> None:
    binary, connection = FakeConnection(takes=100), FakeConnection()
    message = b'"%b"' % (b"x" * 100_000)
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        await relay.claim(stack, binary)
        binary.nursery = nursery
        leaving = AsyncExitStack()
        slot, phone = relay.register(leaving, connection)
        async with trio.open_nursery() as serving:
            serving.start_soon(forward_from_phone, connection, slot, phone)
            connection.arrive.send_nowait([message] * 3)
            await wait_all_tasks_blocked()
            connection.arrive.send_nowait([b"1"])
            await wait_all_tasks_blocked()
            assert phone.last_put == 3
            serving.cancel_scope.cancel()
        await leaving.aclose()
        binary.widen(10**6)
        await binary.outbox.drained()
        envelope = encode_text(phone.prefix + message + b"}")
        notice = encode_text(b'{"conn_id":"%b","close_code":1001}' % phone.conn_id.encode())
        assert binary.taken == envelope * 3 + notice
        nursery.cancel_scope.cancel()


async def test_close_directive_takes_effect_after_the_backlog_and_drops_what_comes_after_it() -> None:
    connection = FakeConnection(takes=1)
    phone = Phone("c-1", connection)
    for frame, code in ((b"1", 0), (b"2", 0), (b"3", 4401), (b"4", 0), (b"5", 4421)):
        phone.deliver(frame, code)
    connection.outbox.flush()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.outbox.write)
        await wait_all_tasks_blocked()
        assert connection.ends == []
        connection.widen(1_000)
        await connection.outbox.drained()
        nursery.cancel_scope.cancel()
    assert connection.taken == b"".join(map(encode_text, (b"1", b"2", b"3")))
    assert connection.ends == [Close(4401)]


@pytest.mark.parametrize(("code", "expected"), [(0, BACKLOG_FULL), (4401, Close(4401))])
def test_frame_that_overflows_the_outbox_closes_with_1011_or_the_code_of_its_directive(
    code: int, expected: Close
) -> None:
    connection = FakeConnection(takes=0)
    phone = Phone("c-1", connection)
    phone.deliver(b"x" * 9_000, 0)
    assert connection.ends == []
    phone.deliver(b"x" * 1_000, code)
    assert connection.ends == [expected]


async def test_no_notice_for_a_close_that_the_binary_ordered(relay: Fixture) -> None:
    binary, connection = FakeConnection(), FakeConnection()
    async with AsyncExitStack() as stack:
        await relay.claim(stack, binary)
        leaving = AsyncExitStack()
        _, phone = relay.register(leaving, connection)
        phone.deliver(b"", 4401)
        await leaving.aclose()
        assert connection.ends == [Close(4401)]
        assert binary.taken == b""


async def test_phone_without_a_server_and_phone_beyond_the_16th_are_refused(relay: Fixture) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(Refused) as nobody:
            relay.register(stack, FakeConnection())
        assert nobody.value.close == NO_SUCH_SERVER
        await relay.claim(stack, FakeConnection())
        leaving = AsyncExitStack()
        relay.register(leaving, FakeConnection())
        for _ in range(15):
            relay.register(stack, FakeConnection())
        with pytest.raises(Refused) as crowd:
            relay.register(stack, FakeConnection())
        assert crowd.value.close == TOO_MANY_PHONES
        await leaving.aclose()
        relay.register(stack, FakeConnection())
        assert relay.registry.connected_phones == 16


def steps_to_count(registry: Registry) -> int:
    """How many instructions of Python's it takes to say who is connected."""
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    def count() -> tuple[int, int, int]:
        return registry.connected_binaries, registry.connected_phones, registry.graces

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        count()
    finally:
        sys.settrace(before)
    return steps


async def test_to_count_who_is_connected_takes_no_longer_the_more_there_are(relay: Fixture) -> None:
    registry = relay.registry
    async with AsyncExitStack() as stack:
        await relay.claim(stack, FakeConnection())
        relay.register(stack, FakeConnection())
        few = steps_to_count(registry)
        assert few > 0
        for number in range(50):
            for kind in "connected", "in grace":
                hello = BinaryHello(f"{kind} {number}", "1.2.3")
                async with AsyncExitStack() as soon:
                    claimed = registry.claimed(FakeConnection(), hello)
                    await (stack if kind == "connected" else soon).enter_async_context(claimed)
            stack.enter_context(registry.registered(FakeConnection(), PhoneHello(f"in grace {number}", "")))
        assert (registry.connected_binaries, registry.connected_phones, registry.graces) == (51, 51, 50)
        assert steps_to_count(registry) == few
    assert (registry.connected_binaries, registry.connected_phones, registry.graces) == (0, 0, 101)
