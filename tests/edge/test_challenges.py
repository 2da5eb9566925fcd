"""Port 80: what a CA finds there, what everybody else does, and who has to make room."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from relayd.edge.challenges import serve_challenges
from relayd.edge.listener import open_listener
from relayd.ops.events import Event
from relayd.values import Address

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
AUTHORIZATION = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"


@asynccontextmanager
async def port_80(hung_up_on: int = 0) -> AsyncIterator[int]:
    """The listener, with one challenge pending; on which port. So many are to be ``hung_up_on``."""
    events: list[Event] = []
    listener = await open_listener(Address("127.0.0.1", 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_challenges, [listener], {TOKEN: AUTHORIZATION}, 5.0, events.append)
        try:
            yield listener.address.port
        finally:
            nursery.cancel_scope.cancel()
            listener.close()
    assert [event.name for event in events] == ["challenges_listening", *["limit_reached"] * hung_up_on]


async def asked(port: int, request: bytes) -> bytes:
    """The whole answer to a request."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        return b"".join([part async for part in stream])


def request(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode()


async def test_a_pending_challenge_is_answered_with_its_key_authorization_and_nothing_else() -> None:
    async with port_80() as port:
        answer = await asked(port, request(f"/.well-known/acme-challenge/{TOKEN}"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == AUTHORIZATION.encode()


@pytest.mark.parametrize(
    "head",
    [
        request("/"),
        request("/healthz"),
        request("/v1/client"),
        request(TOKEN),
        request(f"/{TOKEN}"),
        request("/.well-known/acme-challenge/"),
        request(f"/.well-known/acme-challenge/{TOKEN}x"),
        request(f"/.well-known/acme-challenge/x/../{TOKEN}"),
        request(f"/.well-known/acme-challenge/{TOKEN}?a"),
        request(f"/.well-known/acme-challenge/{TOKEN}", "POST"),
        request(f"/.well-known/acme-challenge/{TOKEN}", "HEAD"),
        b"GET /.well-known/acme-challenge/\xff\x80 HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ],
)
async def test_everything_else_gets_404_or_is_no_request(head: bytes) -> None:
    async with port_80() as port:
        answer = await asked(port, head)
    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 "))
    assert TOKEN.encode() not in answer


async def test_strangers_who_hold_connections_keep_no_ca_out(autojump_clock: MockClock) -> None:
    async with port_80(hung_up_on=37) as port:
        strangers = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(100)]
        answer = await asked(port, request(f"/.well-known/acme-challenge/{TOKEN}"))
        assert answer.endswith(AUTHORIZATION.encode())
        assert trio.current_time() < 5
        # The oldest had to go, and at once.
        assert await strangers[0].receive_some(1) == b""
        assert trio.current_time() < 5
        # The others when their time is over.
        assert await strangers[-1].receive_some(1) == b""
        assert trio.current_time() >= 5
        for stranger in strangers:
            await stranger.aclose()
