"""The registry against a model of the contract: anything, in any order, and the two must never differ.

Hypothesis runs in a thread and calls steps, which all run in one trio loop whose clock stands still unless
a step moves it.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import trio
from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.routing.binary import serve_binary
from relayd.routing.connection import Ending
from relayd.routing.heartbeat import Heartbeats
from relayd.routing.phone import serve_phone
from relayd.routing.registry import Refused, Registry
from relayd.wire.close import HEARTBEAT_TIMEOUT, SHUTTING_DOWN, Close
from relayd.wire.frames import encode_text
from relayd.wire.upgrade import BinaryHello, PhoneHello
from tests.routing.fakes import FakeConnection
from tests.routing.registry_model import GRACE, Binary, Peer, Phone, RelayModel

SERVER_IDS = st.sampled_from(["one", "one", "one", "two"])
ANY = st.integers(0, 9)
"""Which of those that are there."""

T = TypeVar("T")


class Connection(FakeConnection):
    """A connection that may be slow to leave, and whose peer answers and hangs up when the test says so."""

    def __init__(self, *, lingers: bool) -> None:
        super().__init__()
        self.may_leave = trio.Event()
        if not lingers:
            self.may_leave.set()
        self.said_goodbye: int | None = None
        self.refused: Close | None = None
        self.left = False
        self._answers = 0
        self._over = False
        self._news = trio.lowlevel.ParkingLot()

    @property
    def ending(self) -> Ending:
        return super().ending if self.said_goodbye is None else Ending("peer", self.said_goodbye, "")

    async def receive(self) -> list[bytes] | None:
        messages = None
        try:
            messages = await super().receive()
        finally:
            if messages is None:
                with trio.CancelScope(shield=True):
                    await self.may_leave.wait()
        return messages

    async def answers(self, timeout: float) -> bool:
        await trio.lowlevel.checkpoint()
        before = self._answers
        with trio.move_on_after(timeout):
            while self._answers == before and not self._over:
                await self._news.park()
        return self._answers > before

    def answer(self) -> None:
        self._answers += 1
        self._news.unpark_all()

    def end(self, close: Close) -> None:
        # As with the real one, the first verdict counts, and the peer's is one.
        if not self._over:
            super().end(close)
        self._end()

    def hang_up(self, goodbye: int | None) -> None:
        """The peer ends it, by a Close frame with that code or without one."""
        self.said_goodbye = goodbye
        self.arrive.close()
        self._end()

    def _end(self) -> None:
        self._over = True
        self._news.unpark_all()


@define
class World:
    """The trio loop that all machines share."""

    nursery: trio.Nursery
    clock: MockClock

    def do(self, action: Callable[[], T]) -> T:
        """Do it in the loop, and return what it gave once nothing moves any more."""

        async def step() -> T:
            result = action()
            await wait_all_tasks_blocked()
            return result

        return trio.from_thread.run(step)


class RegistryMachine(RuleBasedStateMachine):
    """What may happen to a relay, done to a registry and told to a model."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.model = RelayModel(max_phones=3, probe_timeout=10, now=self.world.clock.current_time())
        self.registry = Registry(grace=GRACE, probe_timeout=10, max_phones=3, emit=lambda event: None)
        self.heartbeats = Heartbeats(interval=30, timeout=30)
        self.connections: dict[Peer, Connection] = {}
        self.conn_ids: set[str] = set()
        self.expiry = trio.CancelScope()
        self.happen(lambda: self.world.nursery.start_soon(self._expire))

    # What happens.

    @initialize(slow=st.booleans(), slow_phone=st.booleans())
    def begin_with_somebody_there(self, slow: bool, slow_phone: bool) -> None:
        self.binaries_come_at_once("one", [slow])
        self.phone_comes("one", slow_phone)
        self.phone_comes("one", False)

    @rule(server_id=SERVER_IDS, linger=st.lists(st.booleans(), min_size=1, max_size=3))
    def binaries_come_at_once(self, server_id: str, linger: list[bool]) -> None:
        newcomers = [Binary(server_id, lingers) for lingers in linger]
        self.model.newcomers += newcomers
        self.happen(lambda: self._start(self._serve_binary, *newcomers))

    @rule(server_id=SERVER_IDS, lingers=st.booleans())
    def phone_comes(self, server_id: str, lingers: bool) -> None:
        phone = Phone(server_id, lingers)
        self.model.register(phone)
        self.happen(lambda: self._start(self._serve_phone, phone))
        for slot, _ in self.registry.slots():
            for conn_id, real in slot.phones.items():
                if real.connection is self.connections[phone]:
                    phone.conn_id = conn_id
                    assert conn_id not in self.conn_ids
                    self.conn_ids.add(conn_id)

    @precondition(lambda self: any(newcomer.probed for newcomer in self.model.newcomers))
    @rule(which=ANY)
    def holder_answers(self, which: int) -> None:
        claim = self.model.newcomers[which % len(self.model.newcomers)].probed
        assert claim is not None
        assert claim.binary is not None
        holder = self.connections[claim.binary]
        self.model.answer(claim)
        self.happen(holder.answer)

    @rule(halves=st.sampled_from([1, 2, 19, 20, 39, 61]))
    def time_passes(self, halves: int) -> None:
        target = self.model.now + halves / 2
        while self.model.now < target:
            seconds = min(self.model.next_deadline(), target) - self.model.now
            self.model.now += seconds
            self.happen(lambda seconds=seconds: self.world.clock.jump(seconds))  # type: ignore[misc]

    @precondition(lambda self: self.phones())
    @rule(which=ANY, goodbye=st.sampled_from([None, 1000, 1001, 1005, 4000]))
    def phone_hangs_up(self, which: int, goodbye: int | None) -> None:
        phone = self.pick(self.phones(), which)
        phone.ended = True
        if goodbye is not None:
            phone.goodbye = 1000 if goodbye == 1005 else goodbye
        self.happen(lambda: self.connections[phone].hang_up(goodbye))

    @precondition(lambda self: self.binaries())
    @rule(which=ANY)
    def binary_hangs_up(self, which: int) -> None:
        binary = self.pick(self.binaries(), which)
        binary.ended = True
        self.happen(lambda: self.connections[binary].hang_up(None))

    @precondition(lambda self: self.model.newcomers)
    @rule(which=ANY)
    def newcomer_gives_up(self, which: int) -> None:
        newcomer = self.pick(self.model.newcomers, which)
        newcomer.hung_up = self.connections[newcomer].gone = True

    @precondition(lambda self: self.binaries())
    @rule(which=ANY, halves=st.sampled_from([0, 1, 59, 60]), lingers=st.booleans())
    def binary_restarts(self, which: int, halves: int, lingers: bool) -> None:
        binary = self.pick(self.binaries(), which)
        binary.ended = True
        self.happen(lambda: self.connections[binary].hang_up(1001))
        self.time_passes(halves)
        self.binaries_come_at_once(binary.server_id, [lingers])

    @precondition(lambda self: self.living())
    @rule(which=ANY)
    def heartbeat_fails(self, which: int) -> None:
        peer = self.pick(self.living(), which)
        peer.close((1011, "heartbeat timeout"))
        self.happen(lambda: self.connections[peer].end(HEARTBEAT_TIMEOUT))

    @precondition(lambda self: self.lingering())
    @rule(which=ANY)
    def slow_one_leaves(self, which: int) -> None:
        peer = self.pick(self.lingering(), which)
        peer.lingers = False
        self.happen(self.connections[peer].may_leave.set)

    @precondition(lambda self: self.phones())
    @rule(which=ANY, message=st.sampled_from([b"1", b'{"a": ["b"]}', b"{", b"\xff"]))
    def phone_says(self, which: int, message: bytes) -> None:
        phone = self.pick(self.phones(), which)
        self.model.phone_says(phone, message, valid=message not in (b"{", b"\xff"))
        self.happen(lambda: self.connections[phone].arrive.send_nowait([message]))

    @precondition(lambda self: self.binaries() and self.phones())
    @rule(which=ANY, dies=st.booleans())
    def binary_takes_no_more(self, which: int, dies: bool) -> None:
        binary = self.pick(self.binaries(), which)
        binary.stalled = True
        self.connections[binary].takes = 0
        self.phone_says(which, b"1")
        if dies and not binary.ended:
            binary.ended = True
            self.happen(lambda: self.connections[binary].hang_up(None))

    @precondition(lambda self: self.binaries() and self.conn_ids)
    @rule(
        which=ANY,
        to=st.integers(0, 30),
        what=st.sampled_from([(b"1", 0), (b'{"a":1}', 0), (b"", 4401), (b"2", 4421)]),
    )
    def binary_says(self, which: int, to: int, what: tuple[bytes, int]) -> None:
        binary = self.pick(self.binaries(), which)
        # Any that there ever was, of whatever server-id; half the time one of its own.
        known = [peer for peer in self.connections if isinstance(peer, Phone) and peer.conn_id]
        phone = self.pick((binary.claim and binary.claim.phones) or known if to % 2 else known, to // 2)
        frame, code = what
        envelope = b'{"conn_id":"%b"' % phone.conn_id.encode()
        envelope += b',"frame":%b' % frame if frame else b""
        envelope += b',"close_code":%d' % code if code else b""
        self.model.binary_says(binary, phone, frame, code)
        self.happen(lambda: self.connections[binary].arrive.send_nowait([envelope + b"}"]))

    @rule(server_id=st.sampled_from(["one", "two", "none"]))
    def operator_evicts(self, server_id: str) -> None:
        expected = self.model.evict(server_id)
        assert self.happen(lambda: self.registry.evict(server_id)) == expected

    @rule(max_phones=st.integers(1, 4), probe_timeout=st.sampled_from([0.5, 10, 35]))
    def settings_change(self, max_phones: int, probe_timeout: float) -> None:
        self.model.max_phones, self.model.probe_timeout = max_phones, probe_timeout
        self.registry.apply(max_phones=max_phones, probe_timeout=probe_timeout)

    @rule(really=st.sampled_from([False, False, False, False, True]))
    def drain(self, really: bool) -> None:
        if not really:  # or little would ever be there
            return
        # First those without a place: of a holder and a newcomer that end at one moment, chance says
        # whether the newcomer has the place for that moment.
        self._end([peer for peer in self.living() if peer.claim is None])
        self._end(self.living())

    # What must hold.

    @invariant()
    def everybody_has_got_what_he_ought_to(self) -> None:
        for peer, connection in self.connections.items():
            assert (peer.left, peer.refused) == (connection.left, _ending(connection.refused))
            closed_with = _ending(connection.ends[0]) if connection.ends else None
            if isinstance(peer, Phone) and peer.unheard and closed_with and peer.closed_with:
                # Whether its binary goes or is taken over may be one moment.
                assert closed_with[0] == peer.closed_with[0]
            else:
                assert closed_with == peer.closed_with
            sent = b"".join(map(encode_text, peer.sent))
            assert connection.taken == sent or peer.drained

    @invariant()
    def everybody_is_where_he_ought_to_be(self) -> None:
        claims = self.model.claims
        ours = {
            server_id: (claim.binary, set(claim.phones), claim.grace_ends)
            for server_id, claim in claims.items()
        }
        peers = {connection: peer for peer, connection in self.connections.items()}
        theirs = {}
        for slot, grace_ends in self.registry.slots():
            phones = {peers[phone.connection] for phone in slot.phones.values()}  # type: ignore[index]
            binary = None if slot.binary is None else peers[slot.binary]  # type: ignore[index]
            theirs[slot.server_id] = binary, phones, grace_ends
            for conn_id, phone in slot.phones.items():
                assert self.registry.find_phone(conn_id) == (slot, phone)
        assert theirs == ours
        everywhere = [phone for _, phones, _ in theirs.values() for phone in phones]
        assert len(everywhere) == len(set(everywhere))
        assert self.registry.connected_phones == len(everywhere)
        assert self.registry.connected_binaries == sum(claim.binary is not None for claim in claims.values())
        assert self.registry.graces == sum(claim.binary is None for claim in claims.values())

    def teardown(self) -> None:
        for connection in self.connections.values():
            self.world.do(connection.may_leave.set)
            self.world.do(lambda connection=connection: connection.end(SHUTTING_DOWN))  # type: ignore[misc]
        self.world.do(lambda: self.world.clock.jump(GRACE))
        left = self.registry.slots()
        self.world.do(self.expiry.cancel)
        assert left == []
        registry = self.registry
        assert registry.connected_binaries == registry.connected_phones == registry.graces == 0
        assert not self.world.nursery.child_tasks

    # How it is done.

    def happen(self, action: Callable[[], T]) -> T:
        """Let it happen, and the model follow."""
        result = self.world.do(action)
        peers = {connection: peer for peer, connection in self.connections.items()}
        holders = {slot.server_id: peers.get(slot.binary) for slot, _ in self.registry.slots()}  # type: ignore[call-overload]
        self.model.settle(holders)
        return result

    def living(self) -> list[Peer]:
        return [peer for peer in self.connections if not (peer.ended or peer.left)]

    def lingering(self) -> list[Peer]:
        return [peer for peer in self.connections if peer.ended and not peer.left]

    def phones(self) -> list[Phone]:
        return [peer for peer in self.living() if isinstance(peer, Phone)]

    def binaries(self) -> list[Binary]:
        return [peer for peer in self.living() if isinstance(peer, Binary) and peer.claim is not None]

    def pick(self, among: list[T], which: int) -> T:
        return among[which % len(among)]

    def _start(self, serve: Callable[[Any, Connection], Awaitable[None]], *peers: Peer) -> None:
        for peer in peers:
            connection = self.connections[peer] = Connection(lingers=peer.lingers)
            self.world.nursery.start_soon(self._connected, serve, peer, connection)

    def _end(self, peers: list[Peer]) -> None:
        def end() -> None:
            for peer in peers:
                self.connections[peer].end(SHUTTING_DOWN)

        for peer in peers:
            peer.close((1001, "shutting down"))
        for peer in self.connections:
            peer.drained = True
        self.happen(end)

    async def _connected(
        self, serve: Callable[[Any, Connection], Awaitable[None]], peer: Peer, connection: Connection
    ) -> None:
        with connection.scope:
            try:
                await serve(peer, connection)
            except Refused as refusal:
                connection.refused = refusal.close
        connection.left = True

    async def _serve_binary(self, binary: Binary, connection: Connection) -> None:
        hello = BinaryHello(binary.server_id, "1")
        await serve_binary(
            connection, hello, registry=self.registry, heartbeats=self.heartbeats, emit=lambda event: None
        )

    async def _serve_phone(self, phone: Phone, connection: Connection) -> None:
        hello = PhoneHello(phone.server_id, "")
        await serve_phone(connection, hello, registry=self.registry, heartbeats=self.heartbeats)

    async def _expire(self) -> None:
        with self.expiry:
            await self.registry.expire_graces()


def _ending(close: Close | None) -> tuple[int, str] | None:
    return None if close is None else (close.code, close.reason)


async def test_the_registry_does_what_the_contract_says_whatever_happens(mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:

        class Machine(RegistryMachine):
            world = World(nursery, mock_clock)

        figures = settings(max_examples=50, stateful_step_count=50, deadline=None)
        await trio.to_thread.run_sync(partial(run_state_machine_as_test, Machine, settings=figures))
