"""Contract, "Shutdown"."""

import pytest
import trio
from trio.testing import MockClock
from wsproto.events import CloseConnection

from relayd.ops.events import Stopped
from tests.trio_client import Client, RelayUnderTest, relay_under_test


async def status(relay: RelayUnderTest) -> bytes:
    """The status line of ``/healthz``."""
    stream = (await relay.connect()).stream
    await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
    answer = b"".join([part async for part in stream])
    await stream.aclose()
    return answer.partition(b"\r\n")[0]


async def next_close(client: Client) -> tuple[int, str | None]:
    """Code and reason of the relay's Close frame, left unanswered; a binary may get close notices first."""
    while not isinstance(event := await client.next_event(), CloseConnection):
        pass
    return event.code, event.reason


async def test_every_connection_gets_1001_in_parallel_and_drain_ends_with_the_last(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        clients = [await relay.binary(f"server-{number}") for number in range(5)]
        clients += [await relay.phone(f"server-{number}") for number in range(5) for _ in range(4)]
        nursery.start_soon(relay.relay.drain, "test")
        begun = trio.current_time()
        for client in clients:
            assert await next_close(client) == (1001, "shutting down")
            assert trio.current_time() == begun
        assert await status(relay) == b"HTTP/1.1 503 Service Unavailable"
        await trio.sleep(3)
        assert not relay.seen(Stopped)
        for client in clients:
            await client.send(CloseConnection(code=1001))
            await client.stream.aclose()
        await relay.until(lambda: relay.seen(Stopped))
        assert trio.current_time() - begun == 3
        assert relay.seen(Stopped) == [Stopped(0)]


async def test_healthz_is_200_before_and_503_while_draining(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        binary = await relay.binary()
        assert await status(relay) == b"HTTP/1.1 200 OK"
        nursery.start_soon(relay.relay.drain, "test")
        await next_close(binary)
        assert await status(relay) == b"HTTP/1.1 503 Service Unavailable"
        await binary.stream.aclose()


@pytest.mark.parametrize(
    ("drain_timeout", "takes", "unfinished"),
    [
        pytest.param(10, 5, 0, id="by the limit of a closing handshake"),
        pytest.param(2, 2, 3, id="by the drain timeout"),
    ],
)
async def test_peers_that_never_answer_are_cut_off(
    autojump_clock: MockClock, drain_timeout: float, takes: float, unfinished: int
) -> None:
    async with relay_under_test(drain_timeout=drain_timeout) as relay:
        clients = [await relay.binary(), await relay.phone(), await relay.phone()]
        begun = trio.current_time()
        await relay.relay.drain("test")
        assert trio.current_time() - begun == takes
        assert relay.seen(Stopped) == [Stopped(unfinished)]
        for client in clients:
            assert await next_close(client) == (1001, "shutting down")


async def test_request_half_sent_does_not_hold_the_drain_up(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        stream = (await relay.connect()).stream
        await stream.send_all(b"GET /healthz HTTP/1.1\r\n")
        await trio.sleep(1)
        begun = trio.current_time()
        await relay.relay.drain("test")
        assert trio.current_time() == begun
        await stream.aclose()
