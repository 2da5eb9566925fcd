"""Contract, "Close codes": how connections end when both sides act at the same moment."""

import gc
import os
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection
from wsproto.events import CloseConnection, Ping, Pong

from relayd.edge.connection import WebSocket
from relayd.edge.control import Control
from relayd.edge.inbox import Inbox
from relayd.ops.events import InternalError, PhoneUnregistered
from tests.trio_client import Client, RelayUnderTest, relay_under_test

PING = b"\x89\x80\0\0\0\0"
NO_JSON = b"\x81\x81\0\0\0\0x"
CLOSE_1000 = b"\x88\x82\0\0\0\0\x03\xe8"
BEGINNING_OF_TOO_MUCH = b"\x82\xff" + (10**9).to_bytes(8, "big") + bytes(4)


async def frames_to_the_end(client: Client) -> list[int]:
    """The first bytes of all frames up to the end of the stream; none of them is long."""
    data = b"".join([part async for part in client.stream])
    opcodes = []
    while data:
        opcodes.append(data[0])
        data = data[2 + data[1] :]
    return opcodes


@pytest.mark.parametrize("pings", [1, 2, 20])
async def test_no_pong_follows_our_close_frame(autojump_clock: MockClock, pings: int) -> None:
    async with relay_under_test() as relay:
        await relay.binary()
        phone = await relay.phone()
        # In one read: the forwarder ends the connection before anybody can answer the pings.
        await phone.stream.send_all(PING * pings + NO_JSON + PING * pings)
        opcodes = await frames_to_the_end(phone)
        assert opcodes[-1] == 0x88
        assert opcodes.count(0x88) == 1
        assert [(ended.code, ended.by) for ended in relay.seen(PhoneUnregistered)] == [(1007, "relay")]
        assert not relay.seen(InternalError)


async def test_peers_close_that_crosses_ours_ends_the_connection_at_once_with_one_close_frame(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay:
        phone_waits_for = await relay.binary()
        phone = await relay.phone()
        begun = trio.current_time()
        # The peer's is in the relay's socket, and nothing has read it when the drain begins.
        for client in (phone, phone_waits_for):
            os.write(client.stream.socket.fileno(), CLOSE_1000)
        await relay.relay.drain("test")
        assert trio.current_time() == begun
        assert await frames_to_the_end(phone) == [0x88]
        assert not relay.seen(InternalError)


async def test_sender_of_too_much_sees_1009_though_it_keeps_sending(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        await relay.binary()
        phone = await relay.phone()
        seen = trio.Event()

        async def go_on() -> None:
            await phone.stream.send_all(BEGINNING_OF_TOO_MUCH)
            while not seen.is_set():
                await phone.stream.send_all(bytes(65536))

        nursery.start_soon(go_on)
        closing = await phone.next_event()
        assert isinstance(closing, CloseConnection)
        assert (closing.code, closing.reason) == (1009, "message too big")
        seen.set()


async def clean(relay: RelayUnderTest) -> None:
    """Phone and binary close."""
    binary, phone = await relay.binary(), await relay.phone()
    await phone.close()
    await binary.close()


async def vanish(relay: RelayUnderTest) -> None:
    """Phone and binary hang up without a word."""
    for client in (await relay.binary(), await relay.phone()):
        await client.stream.aclose()


async def fall_silent(relay: RelayUnderTest) -> None:
    """The heartbeat ends phone and binary, and neither answers the Close frame."""
    await relay.binary()
    await relay.phone()
    await trio.sleep(70)


async def be_taken_over(relay: RelayUnderTest) -> None:
    """A newcomer takes over, and another is refused."""
    holder = await relay.binary()
    newcomer = await relay.binary()
    await holder.closed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(newcomer.answer_pings)
        assert (await (await relay.binary()).closed())[0] == 4409
        nursery.cancel_scope.cancel()
    await newcomer.stream.aclose()


async def be_refused(relay: RelayUnderTest) -> None:
    """A phone finds no binary."""
    assert (await (await relay.phone("nobody")).closed())[0] == 4404


def break_a_rule(rule: bytes, code: int) -> Callable[[RelayUnderTest], Awaitable[None]]:
    """A phone sends ``rule`` and is closed with ``code``."""

    async def act(relay: RelayUnderTest) -> None:
        binary, phone = await relay.binary(), await relay.phone()
        await phone.stream.send_all(rule)
        assert (await phone.closed())[0] == code
        await binary.stream.aclose()

    return act


def ping_and(then: Callable[[Client], Awaitable[None]]) -> Callable[[RelayUnderTest], Awaitable[None]]:
    """Both sides have had their pings answered, twice, and then do what ``then`` does."""

    async def act(relay: RelayUnderTest) -> None:
        peers = await relay.binary(), await relay.phone()
        for peer in peers:
            for payload in (b"one", b"two"):
                await peer.send(Ping(payload))
                assert await peer.next_event() == Pong(payload)
        for peer in reversed(peers):
            await then(peer)

    return act


async def hang_up(client: Client) -> None:
    await client.stream.aclose()


async def never_upgrade(relay: RelayUnderTest) -> None:
    """One client says nothing, one gets a 404 and one hangs up in the midst of its request."""
    for request in (b"", b"GET /nowhere HTTP/1.1\r\nHost: relay\r\n\r\n", b"GET /"):
        client = await relay.connect()
        if request:
            await client.stream.send_all(request)
    await client.stream.aclose()
    await trio.sleep(6)


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(clean, id="Close"),
        pytest.param(vanish, id="EOF"),
        pytest.param(fall_silent, id="heartbeat timeout"),
        pytest.param(be_taken_over, id="takeover and 4409"),
        pytest.param(be_refused, id="4404"),
        pytest.param(break_a_rule(b"\x81\x00", 1002), id="1002"),
        pytest.param(break_a_rule(NO_JSON, 1007), id="1007"),
        pytest.param(break_a_rule(NO_JSON[:3], 1008), id="1008"),
        pytest.param(break_a_rule(BEGINNING_OF_TOO_MUCH, 1009), id="1009"),
        pytest.param(ping_and(Client.close), id="pings, then Close"),
        pytest.param(ping_and(hang_up), id="pings, then EOF"),
        pytest.param(ping_and(lambda peer: peer.stream.send_all(b"\x81\x00")), id="pings, then 1002"),
        pytest.param(never_upgrade, id="no upgrade"),
    ],
)
async def test_every_ending_gives_back_its_tasks_file_descriptors_and_slots(
    autojump_clock: MockClock,
    request: pytest.FixtureRequest,
    ending: Callable[[RelayUnderTest], Awaitable[None]],
) -> None:
    gc.collect()
    gc.disable()
    request.addfinalizer(gc.enable)
    async with relay_under_test() as relay:

        def held() -> tuple[int, int, int]:
            tasks = trio.lowlevel.current_statistics().tasks_living
            return tasks, len(os.listdir("/proc/self/fd")), len(relay.relay.registry._slots)

        before = held()
        for _ in range(10):
            await ending(relay)
            for client in relay.clients:
                await client.stream.aclose()
            # Longer than a grace window, a closing handshake and the wait for a client to hang up.
            await trio.sleep(40)
        assert held() == before
        assert not relay.seen(InternalError)
        # Counted references have freed them all: the collector, which stops the world, is not needed.
        kinds = (WebSocket, Inbox, Control, WebSocketConnection)
        assert not any(isinstance(thing, kinds) for thing in gc.get_objects())
