"""A WebSocket connection at its edges."""

import socket
import struct

from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.ops.events import BinaryClaimed, InternalError
from tests.trio_client import relay_under_test

UPGRADE = (
    b"GET /v1/server HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"x-pyrycode-server: server\r\nx-pyrycode-version: 1\r\nuser-agent: test\r\n\r\n"
)
EMPTY_PING = b"\x89\x80\0\0\0\0"


async def test_client_that_resets_before_its_upgrade_is_answered_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay:
        client = socket.create_connection(("127.0.0.1", relay.port))
        client.sendall(UPGRADE)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await wait_all_tasks_blocked()
        assert relay.seen(InternalError) == []
        assert relay.seen(BinaryClaimed) == []


async def test_frames_sent_in_one_go_with_the_upgrade_are_served(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        client = await relay.connect()
        await client.stream.send_all(UPGRADE + EMPTY_PING)
        received = b""
        while not received.endswith(b"\x8a\x00"):
            received += await client.stream.receive_some()
        assert received.startswith(b"HTTP/1.1 101 ")
        await client.stream.aclose()
