"""Contract, "Outbox" and "What an error does": a write that makes no progress for 10 s."""

import socket
from typing import Any

import trio
from trio.testing import MockClock

from relayd.ops.events import BinaryReleased, GraceExpired, PhoneRegistered, PhoneUnregistered
from tests.trio_client import Client, RelayUnderTest, relay_under_test

TEXT = '"' + "x" * 200_000 + '"'
MESSAGES = 100
"""Of `TEXT`, these are many times what the kernel's buffers between relay and peer hold."""


async def seen(
    relay: RelayUnderTest, event_type: type[BinaryReleased | PhoneUnregistered], since: float
) -> Any:
    """The one event of ``event_type``, which must come 10 s after the peer's kernel took its last byte."""
    # That kernel may take bytes for a while yet, in a time of its own. The exact 10 s are
    # for tests/routing/test_outbox.py; here it is enough that no other limit was quicker.
    await trio.sleep_until(since + 9.9)
    assert not relay.seen(event_type)
    while not relay.seen(event_type):
        assert trio.current_time() < since + 50
        await trio.sleep(0.5)
    (event,) = relay.seen(event_type)
    return event


async def flooded_phone(relay: RelayUnderTest, clock: MockClock) -> tuple[Client, Client, float]:
    """A binary, a phone that has stopped reading in the midst of a flood, and since when."""
    # What the kernel's own timers owe us (delayed acknowledgements) comes in real time.
    clock.autojump_threshold = 0.05
    binary = await relay.binary()
    phone = await relay.phone()
    # A large buffer tells the sender of room in it only once half of it is free: no steady reader, then.
    phone.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    await relay.until(lambda: relay.seen(PhoneRegistered))
    conn_id = relay.seen(PhoneRegistered)[0].conn_id
    for _ in range(MESSAGES):
        await binary.send_text(f'{{"conn_id":"{conn_id}","frame":{TEXT}}}')
    return binary, phone, trio.current_time()


async def test_phone_that_takes_nothing_for_10_s_is_closed_with_1011_and_its_binary_lives(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test(outbox_bytes=MESSAGES * 300_000) as relay:
        binary, phone, since = await flooded_phone(relay, autojump_clock)
        ended = await seen(relay, PhoneUnregistered, since)
        assert (ended.code, ended.by, ended.reason) == (1011, "relay", "write stalled")
        assert not relay.seen(BinaryReleased)
        # What had begun to go out is finished, and the Close frame comes right behind it.
        assert await phone.closed() == (1011, "write stalled")
        newer = await relay.phone()
        await newer.send_text("1")
        assert (await binary.next_message()).endswith('"close_code":1001}')
        assert (await binary.next_message()).endswith('"frame":1}')


async def test_binary_that_takes_nothing_for_10_s_is_closed_with_1011_and_its_grace_begins(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.05
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        binary = await relay.binary()
        sender = await relay.phone()
        bystander = await relay.phone()
        nursery.start_soon(bystander.answer_pings)

        async def flood() -> None:
            try:
                for _ in range(MESSAGES):
                    await sender.send_text(TEXT)
            except trio.BrokenResourceError:
                # It was closed meanwhile, as it should be.
                return

        nursery.start_soon(flood)
        released = await seen(relay, BinaryReleased, trio.current_time())
        assert (released.code, released.by, released.reason) == (1011, "relay", "write stalled")
        # Its frames can no longer be delivered; the other phone had none under way.
        (ended,) = relay.seen(PhoneUnregistered)
        assert (ended.code, ended.reason) == (4404, "binary is gone")
        assert relay.relay.registry.connected_phones == 1
        assert await binary.closed() == (1011, "write stalled")
        await trio.sleep(31)
        assert relay.seen(GraceExpired) == [GraceExpired("server", 1)]
        nursery.cancel_scope.cancel()


async def test_reader_that_is_slow_but_steady_is_not_stalled(autojump_clock: MockClock) -> None:
    async with (
        relay_under_test(outbox_bytes=MESSAGES * 300_000, heartbeat_interval=10_000) as relay,
        trio.open_nursery() as nursery,
    ):
        _binary, phone, since = await flooded_phone(relay, autojump_clock)
        received = 0
        for turn in range(1, 8):
            # Too little in ten seconds to free a good part of the kernel's buffers.
            for _ in range(4):
                received += len(await phone.stream.receive_some(65536))
            await trio.sleep_until(since + turn * 8)
        assert received < MESSAGES * len(TEXT) / 2
        assert not relay.seen(PhoneUnregistered)
        while received < MESSAGES * (len(TEXT) + 10):
            received += len(await phone.stream.receive_some(65536))
        assert received == MESSAGES * (len(TEXT) + 10)
        nursery.cancel_scope.cancel()
