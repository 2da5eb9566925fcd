"""What routing is tested with instead of sockets."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import trio

from relayd.routing.budget import Account, Budget
from relayd.routing.connection import Ending
from relayd.routing.outbox import Outbox
from relayd.wire.close import Close
from relayd.wire.frames import PING

__all__ = ["FakeConnection"]


class FakeConnection:
    """A connection without a socket: the test is its peer, and its kernel as well."""

    remote = "peer"
    timed = False

    def __init__(self, *, takes: int = 10**9) -> None:
        self.takes = takes
        self.taken = b""
        self.account = Account(Budget(10**9), lambda: None)
        self.outbox = Outbox(self, limit=10_000, write_timeout=10, account=self.account)
        self.ends: list[Close] = []
        self.scope = trio.CancelScope()
        self.probed = trio.Event()
        self.verdict = trio.Event()
        self.alive = False
        self.gone = False
        self.reading = True
        self.signs_of_life = 0
        self.nursery: trio.Nursery | None = None
        self.arrive, self._arrivals = trio.open_memory_channel[list[bytes]](10)
        self._writable = trio.lowlevel.ParkingLot()

    @property
    def ending(self) -> Ending:
        if self.ends:
            return Ending("relay", self.ends[0].code, self.ends[0].reason)
        return Ending("network", 1006, "")

    async def receive(self) -> list[bytes] | None:
        try:
            return await self._arrivals.receive()
        except trio.EndOfChannel:
            return None

    @contextmanager
    def holding(self, messages: list[bytes]) -> Iterator[None]:
        yield

    def handed_on(self, outboxes: Iterable[Outbox]) -> None:
        raise AssertionError("nothing here is timed")

    def ping(self) -> None:
        self.outbox.put_control(PING)
        self.outbox.flush()

    async def answers(self, timeout: float) -> bool:
        self.probed.set()
        await self.verdict.wait()
        return self.alive

    def hung_up(self) -> bool:
        return self.gone

    def kept(self) -> int:
        return 0

    def end(self, close: Close) -> None:
        self.ends.append(close)
        self.scope.cancel()

    def try_send(self, frames: Sequence[bytes | memoryview]) -> int:
        part = b"".join(frames)[: self.takes]
        self.takes -= len(part)
        self.taken += part
        return len(part)

    def start_writer(self) -> None:
        if self.nursery is not None:
            self.nursery.start_soon(self.outbox.write)

    async def wait_writable(self) -> None:
        while not self.takes:
            await self._writable.park()

    def unacknowledged(self) -> int:
        return 0

    def widen(self, size: int) -> None:
        self.takes += size
        self._writable.unpark_all()
