"""Contract, "Heartbeat": the one clock of many connections."""

import socket

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.routing.heartbeat import Heartbeats, let_readers_read
from relayd.wire.close import HEARTBEAT_TIMEOUT, Close
from tests.routing.fakes import FakeConnection


class Beating(FakeConnection):
    """A connection that notes when it was pinged, and answers as the test says."""

    def __init__(self, *, answering: bool = True) -> None:
        super().__init__()
        self.answering = answering
        self.pinged: list[float] = []
        self.ended_at = 0.0

    def ping(self) -> None:
        self.pinged.append(trio.current_time())
        self.signs_of_life += self.answering

    def end(self, close: Close) -> None:
        super().end(close)
        self.ended_at = trio.current_time()


async def test_each_connection_is_pinged_every_interval_since_it_began(
    autojump_clock: MockClock,
) -> None:
    heartbeats = Heartbeats(interval=30, timeout=30)
    first, second = Beating(), Beating()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeats.run)
        start = trio.current_time()
        with heartbeats.keeping(first):
            await trio.sleep(10)
            with heartbeats.keeping(second):
                await trio.sleep(95)
            await trio.sleep(40)
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert [at - start for at in first.pinged] == [30, 60, 90, 120]
    assert [at - start for at in second.pinged] == [40, 70, 100]
    assert first.ends == second.ends == []


async def test_pings_that_are_nearly_due_go_out_together_and_none_late(
    autojump_clock: MockClock,
) -> None:
    heartbeats = Heartbeats(interval=30, timeout=30)
    connections = [Beating() for _ in range(200)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeats.run)
        dues = []
        for connection in connections:
            nursery.start_soon(keep, heartbeats, connection)
            dues.append(trio.current_time() + 30)
            await trio.sleep(0.001)
        await trio.sleep(40)
        nursery.cancel_scope.cancel()
    pinged = [connection.pinged[0] for connection in connections]
    assert all(due - 0.06 <= at <= due + 1e-6 for at, due in zip(pinged, dues, strict=True))
    assert len(set(pinged)) <= 5


async def keep(heartbeats: Heartbeats, connection: Beating) -> None:
    with heartbeats.keeping(connection):
        await trio.sleep_forever()


@pytest.mark.parametrize(("interval", "timeout"), [(30, 30), (30, 5), (10, 25)])
async def test_silence_ends_a_connection_one_timeout_after_the_first_ping_without_an_answer(
    autojump_clock: MockClock, interval: float, timeout: float
) -> None:
    heartbeats = Heartbeats(interval=interval, timeout=timeout)
    connection = Beating()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeats.run)
        start = trio.current_time()
        with heartbeats.keeping(connection):
            await trio.sleep(2 * interval + 1)
            connection.answering = False
            connection.signs_of_life += 1
            await trio.sleep(interval + timeout)
        nursery.cancel_scope.cancel()
    assert connection.ends == [HEARTBEAT_TIMEOUT]
    assert connection.ended_at - start == 3 * interval + timeout


async def test_connection_that_is_not_being_read_is_not_judged(
    autojump_clock: MockClock,
) -> None:
    heartbeats = Heartbeats(interval=30, timeout=30)
    connection = Beating(answering=False)
    connection.reading = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeats.run)
        with heartbeats.keeping(connection):
            await trio.sleep(290)
            assert connection.ends == []
            connection.reading = True
            connection.signs_of_life += 1
            await trio.sleep(45)
        nursery.cancel_scope.cancel()
    assert connection.ends == [HEARTBEAT_TIMEOUT]


async def test_relay_that_was_stopped_reads_what_came_meanwhile_before_it_judges(mock_clock: MockClock) -> None:
    heartbeats = Heartbeats(interval=30, timeout=30)
    connection = Beating(answering=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeats.run)
        with heartbeats.keeping(connection):
            await wait_all_tasks_blocked()
            mock_clock.jump(30)
            await wait_all_tasks_blocked()
            assert len(connection.pinged) == 1

            async def read_when_the_clock_says_so() -> None:
                await trio.sleep(200)
                connection.signs_of_life += 1

            nursery.start_soon(read_when_the_clock_says_so)
            await wait_all_tasks_blocked()
            # Both wake in the same turn, in whatever order: the clock's judge must come second.
            mock_clock.jump(300)
            await wait_all_tasks_blocked()
            assert connection.ends == []
        nursery.cancel_scope.cancel()


async def test_what_lies_in_a_socket_is_read_before_its_peer_is_judged() -> None:
    async def read(sock: socket.socket, received: list[bytes]) -> None:
        await trio.lowlevel.wait_readable(sock)
        received.append(sock.recv(1))

    # trio runs a round of tasks forwards or backwards, by chance.
    for _ in range(40):
        received: list[bytes] = []
        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, ours, received)
                await wait_all_tasks_blocked()
                # trio has not looked at the socket since.
                theirs.send(b"a")
                await let_readers_read()
                assert received == [b"a"]
