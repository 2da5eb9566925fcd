"""The registry: server-id -> slot, with claim, takeover, grace and reclaim (contract: "Life of a binary").

A release is tied to its claim by identity: what a binary leaves behind counts only while its own
slot is the one that the name leads to.
"""

import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NoReturn

import trio

from relayd.ops.events import (
    BinaryClaimed,
    BinaryReclaimed,
    BinaryReleased,
    BinaryTookOver,
    ClaimRefused,
    Emit,
    GraceExpired,
    PhoneRefused,
    PhoneRegistered,
    PhoneUnregistered,
)
from relayd.routing.connection import Connection
from relayd.routing.slot import Phone, Slot
from relayd.wire.close import (
    BINARY_GONE,
    BINARY_RECLAIMED,
    BY_OPERATOR,
    CLAIM_TAKEN,
    NO_SUCH_SERVER,
    TAKEN_OVER,
    TOO_MANY_PHONES,
    Close,
)
from relayd.wire.upgrade import BinaryHello, PhoneHello

__all__ = ["Refused", "Registry"]


class Refused(Exception):
    """A claim or a registration was turned down; `close` says how the connection is to end."""

    def __init__(self, close: Close) -> None:
        super().__init__(close.reason)
        self.close = close


class Registry:
    """Who holds which server-id. In memory alone; `expire_graces` must run beside it."""

    def __init__(self, *, grace: float, probe_timeout: float, max_phones: int, emit: Emit) -> None:
        """``grace`` and ``probe_timeout`` are seconds."""
        self._grace = grace
        self._probe_timeout = probe_timeout
        self._max_phones = max_phones
        self._emit = emit
        self._slots: dict[str, Slot] = {}
        # Slots in their grace window and when it ends, the earliest first: every window is equally long.
        self._graces: deque[tuple[float, Slot]] = deque()
        self._grace_begun = trio.lowlevel.ParkingLot()
        # Kept at hand, since anybody may ask /healthz for them, as often as he likes.
        #: Binaries that are connected now; one in its grace window is not.
        self.connected_binaries = 0
        #: Phones that are registered now.
        self.connected_phones = 0

    @property
    def graces(self) -> int:
        """Server-ids whose binary is gone and whose grace window has not passed."""
        return len(self._slots) - self.connected_binaries

    def slots(self) -> list[tuple[Slot, float | None]]:
        """Every server-id's slot at this moment and, if it is in its grace window, when that ends."""
        ends = {slot: deadline for deadline, slot in self._graces}
        return [(slot, ends.get(slot)) for slot in self._slots.values()]

    def find_phone(self, conn_id: str) -> tuple[Slot, Phone] | None:
        """The phone called ``conn_id``, whatever its server-id: for an operator, never for a binary."""
        for slot in self._slots.values():
            phone = slot.phones.get(conn_id)
            if phone is not None:
                return slot, phone
        return None

    def evict(self, server_id: str) -> int | None:
        """Free ``server_id`` at once, without a grace window: end its binary with 1001, its phones with 4404.

        How many phones there were, or None if nobody holds the id.
        """
        slot = self._slots.get(server_id)
        if slot is None:
            return None
        self._lead_to(None, server_id)
        if slot.binary is not None:
            slot.binary.end(BY_OPERATOR)
        phones = slot.evict(BINARY_GONE)
        slot.abandon()
        return phones

    def apply(self, *, probe_timeout: float, max_phones: int) -> None:
        """Let these count from the next claim and the next registration on."""
        self._probe_timeout = probe_timeout
        self._max_phones = max_phones

    @asynccontextmanager
    async def claimed(self, connection: Connection, hello: BinaryHello) -> AsyncIterator[Slot]:
        """Hold ``hello.server_id`` for ``connection``; on leaving, release it into its grace window.

        Entering takes up to the probe timeout if somebody holds the id. Raises `Refused` if that
        holder is alive, if another newcomer was quicker, or if this one has hung up meanwhile. Leaving
        never waits.
        """
        slot = await self._claim(connection, hello)
        try:
            yield slot
        finally:
            self._release(slot, connection)

    @contextmanager
    def registered(self, connection: Connection, hello: PhoneHello) -> Iterator[tuple[Slot, Phone]]:
        """Hold a place for a phone; on leaving, give the binary its close notice and free the place.

        Raises `Refused` if nobody holds the id, not even in a grace window, or if the slot is full.
        """
        slot = self._slots.get(hello.server_id)
        if slot is None:
            self._refuse(connection, hello, NO_SUCH_SERVER)
        if len(slot.phones) >= self._max_phones:
            self._refuse(connection, hello, TOO_MANY_PHONES)
        phone = Phone(f"c-{secrets.token_urlsafe(16)}", connection, hello.device_name)
        slot.phones[phone.conn_id] = phone
        self.connected_phones += 1
        self._emit(PhoneRegistered(hello.server_id, phone.conn_id, connection.remote, hello.device_name))
        try:
            yield slot, phone
        finally:
            slot.give_notice(phone)
            del slot.phones[phone.conn_id]
            if self._is_current(slot):
                self.connected_phones -= 1
            ending = connection.ending
            self._emit(
                PhoneUnregistered(
                    hello.server_id, phone.conn_id, connection.remote, ending.code, ending.by, ending.reason
                )
            )

    async def expire_graces(self) -> NoReturn:
        """End every grace window when its time has come. Runs until it is cancelled."""
        while True:
            if not self._graces:
                await self._grace_begun.park()
            deadline, slot = self._graces[0]
            await trio.sleep_until(deadline)
            self._graces.popleft()
            if self._is_current(slot):
                self._lead_to(None, slot.server_id)
                self._emit(GraceExpired(slot.server_id, slot.evict(BINARY_GONE)))

    async def _claim(self, connection: Connection, hello: BinaryHello) -> Slot:
        held = self._slots.get(hello.server_id)
        if held is not None and held.binary is not None:
            answered = await held.binary.answers(self._probe_timeout)
            current = self._slots.get(hello.server_id)
            won_by_another = current is not held and current is not None and current.binary is not None
            # Nobody has read from the newcomer so far. One that has given up must not take anything over.
            if answered or won_by_another or connection.hung_up():
                self._emit(ClaimRefused(hello.server_id, connection.remote, hello.version))
                raise Refused(CLAIM_TAKEN)
            held = current
        slot = Slot(hello.server_id, connection, hello.version)
        self._lead_to(slot, hello.server_id)
        if held is None:
            self._emit(BinaryClaimed(hello.server_id, connection.remote, hello.version))
        elif held.binary is None:
            phones = held.evict(BINARY_RECLAIMED)
            self._emit(BinaryReclaimed(hello.server_id, connection.remote, hello.version, phones))
        else:
            held.binary.end(TAKEN_OVER)
            phones = held.evict(BINARY_RECLAIMED)
            held.abandon()
            self._emit(BinaryTookOver(hello.server_id, connection.remote, hello.version, phones))
        return slot

    def _lead_to(self, slot: Slot | None, server_id: str) -> None:
        """Let ``server_id`` lead to ``slot``, whose binary is connected, or to nobody.

        Whoever is left in the slot that it led to before does not count any more.
        """
        before = self._slots.get(server_id)
        if before is not None:
            self.connected_binaries -= before.binary is not None
            self.connected_phones -= len(before.phones)
        if slot is None:
            del self._slots[server_id]
        else:
            self._slots[server_id] = slot
            self.connected_binaries += 1

    def _is_current(self, slot: Slot) -> bool:
        """Whether ``slot`` is the one that its server-id leads to."""
        return self._slots.get(slot.server_id) is slot

    def _refuse(self, connection: Connection, hello: PhoneHello, close: Close) -> NoReturn:
        self._emit(
            PhoneRefused(hello.server_id, connection.remote, hello.device_name, close.code, close.reason)
        )
        raise Refused(close)

    def _release(self, slot: Slot, connection: Connection) -> None:
        ending = connection.ending
        slot.abandon()
        # Unless it was taken over or evicted.
        current = self._is_current(slot)
        waiting = len(slot.phones) if current else 0
        self._emit(
            BinaryReleased(slot.server_id, connection.remote, ending.code, ending.by, ending.reason, waiting)
        )
        if current:
            self.connected_binaries -= 1
            self._graces.append((trio.current_time() + self._grace, slot))
            self._grace_begun.unpark()
