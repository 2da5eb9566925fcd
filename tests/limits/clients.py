"""Clients of any address, who ask and hold on."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse

from attrs import frozen

from tests.network import HERE, connected_from
from tests.relay_process import RelayProcess

__all__ = ["LOOPBACK", "Answer", "asked", "get", "held", "upgrade"]

LOOPBACK = "127.0.0.1"
"""Where a proxy would stand."""


@frozen
class Answer:
    """What a relay says to a request, and the connection that it says it on."""

    status: int
    retry_after: int | None
    connection: socket.socket


def upgrade(path: str = "/v1/client", server_id: str = "nobody", more: bytes = b"") -> bytes:
    """A request to become a WebSocket."""
    return (
        (
            f"GET {path} HTTP/1.1\r\nHost: {HERE}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"x-pyrycode-server: {server_id}\r\nx-pyrycode-version: 1\r\nx-pyrycode-token: t\r\n"
            "user-agent: test\r\n"
        ).encode()
        + more
        + b"\r\n"
    )


def get(path: str) -> bytes:
    """A plain request."""
    return f"GET {path} HTTP/1.1\r\nHost: {HERE}\r\n\r\n".encode()


def dialled(relay: RelayProcess, source: str) -> socket.socket:
    """A connection of ``source``."""
    if source == LOOPBACK:
        return socket.create_connection((LOOPBACK, relay.port), 20)
    return connected_from(source, relay.port)


def answer_on(connection: socket.socket) -> Answer:
    """The next answer, as the standard library reads it."""
    response = HTTPResponse(connection)
    response.begin()
    told = response.getheader("retry-after")
    return Answer(response.status, None if told is None else int(told), connection)


def asked(relay: RelayProcess, source: str, request: bytes) -> Answer:
    """What ``source`` is told, who then hangs up."""
    with dialled(relay, source) as connection:
        connection.sendall(request)
        return answer_on(connection)


@contextmanager
def held(relay: RelayProcess, source: str, request: bytes = b"") -> Iterator[socket.socket]:
    """A connection of ``source`` that has sent ``request``, for the body."""
    with dialled(relay, source) as connection:
        connection.sendall(request)
        yield connection
