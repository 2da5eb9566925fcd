"""A binary and its phones, as clients that are not ours speak for them."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any
from uuid import uuid4

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.relay_process import WAIT, RelayProcess

__all__ = ["Peers", "closing", "deaf_peer", "output_until", "peers_at", "received", "unused_server_id"]


class Peers:
    """A binary and its phones at one relay, all of them closed in the end."""

    def __init__(self, relay: RelayProcess, server_id: str, stack: ExitStack) -> None:
        self.relay = relay
        self.server_id = server_id
        self._stack = stack
        self.binary = self.connect("/v1/server", {"x-pyrycode-version": "1"})
        # The binary has its 101 before its claim: a phone that comes earlier finds no server.
        relay.event("binary_claimed", server_id=server_id)

    def phone(self) -> tuple[ClientConnection, str]:
        """Another phone, and the conn_id under which its first message reached the binary."""
        phone = self.connect("/v1/client", {"x-pyrycode-token": "t"})
        phone.send('"hello"')
        envelope = json.loads(self.binary.recv(WAIT))
        assert envelope["frame"] == "hello"
        return phone, envelope["conn_id"]

    def to(self, conn_id: str, frame: object) -> None:
        """Send ``frame`` to a phone."""
        self.binary.send(json.dumps({"conn_id": conn_id, "frame": frame}))

    def connect(self, path: str, headers: dict[str, str], **options: Any) -> ClientConnection:
        """One more connection under this server-id; ``options`` are those of `websockets`."""
        headers = {"x-pyrycode-server": self.server_id, **headers}
        url = self.relay.url(path)
        peer: ClientConnection = connect(url, additional_headers=headers, **options)
        return self._stack.enter_context(peer)


@contextmanager
def peers_at(relay: RelayProcess, server_id: str) -> Iterator[Peers]:
    """A binary that has claimed ``server_id`` at ``relay``, for the body."""
    with ExitStack() as stack:
        yield Peers(relay, server_id, stack)


def unused_server_id() -> str:
    """A server-id that no other test knows."""
    return f"server-{uuid4()}"


def received(phone: ClientConnection) -> object:
    """The next message, read as JSON."""
    return json.loads(phone.recv(WAIT))


def closing(peer: ClientConnection) -> tuple[int, str]:
    """Read on to the relay's Close frame; its code and reason."""
    with suppress(ConnectionClosed):
        while True:
            peer.recv(WAIT)
    assert peer.close_code is not None
    return peer.close_code, peer.close_reason or ""


@contextmanager
def deaf_peer(relay: RelayProcess, path: str, server_id: str) -> Iterator[IO[bytes]]:
    """A peer that upgrades and then only reads: no ping and no Close frame is answered. What it got.

    It is curl, which knows nothing of WebSocket.
    """
    headers = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"x-pyrycode-server: {server_id}",
        "x-pyrycode-version: deaf",
        "x-pyrycode-token: t",
    ]
    command = ["curl", "--silent", "--no-buffer", "--http1.1"]
    for header in headers:
        command += ["--header", header]
    try:
        curl = subprocess.Popen([*command, relay.url(path, "http")], stdout=subprocess.PIPE)
    except FileNotFoundError:
        raise AssertionError("curl is missing: install it") from None
    with curl:
        try:
            assert curl.stdout is not None
            yield curl.stdout
        finally:
            curl.kill()


def output_until(output: IO[bytes], end: bytes) -> bytes:
    """Read until ``end`` has come; fails at the end of the output."""
    got = b""
    while end not in got:
        more = os.read(output.fileno(), 65536)
        assert more, got
        got += more
    return got
