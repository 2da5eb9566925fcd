"""A WebSocket connection at its edges."""

import contextlib
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import unix_connect

from relayd.ops.events import BinaryClaimed, InternalError
from tests.relay_process import WAIT, RelayProcess
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


def test_binary_that_refuses_to_read_but_still_writes_is_closed_with_1011(
    start_relay: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    # Only a unix socket can refuse: its peer's writes fail, and its own go on.
    path = str(tmp_path / "relay.sock")
    relay = start_relay("--listen", f"unix:{path}")
    relay.event("listening")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as binary:
        binary.connect(path)
        binary.sendall(UPGRADE)
        relay.event("binary_claimed")
        binary.shutdown(socket.SHUT_RD)
        headers = {"x-pyrycode-server": "server", "x-pyrycode-token": "t"}
        with unix_connect(path, "ws://relay/v1/client", additional_headers=headers) as phone:
            phone.send("1")
            with pytest.raises(ConnectionClosed):
                phone.recv(WAIT)
            assert phone.close_code == 4404
        relay.event("binary_released", code=1011, by="relay", reason="write failed")
