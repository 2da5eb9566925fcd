"""A crowd is listed in turns: others' frames go on, and whoever asks and does not read costs nobody."""

import json
import resource
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.trio_client import Client, RelayUnderTest, relay_under_test

CROWD = 1000
GET = b"GET /connections HTTP/1.1\r\nHost: relayd\r\n\r\n"


@pytest.fixture(autouse=True)
def _enough_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Turns(trio.abc.Instrument):
    """Counts the turns of the loop."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


@asynccontextmanager
async def crowded(path: Path) -> AsyncIterator[RelayUnderTest]:
    """A relay with `CROWD` phones at one binary."""
    async with relay_under_test(admin_socket=str(path), max_phones=CROWD) as relay:
        await relay.binary("crowd")
        await relay.until(lambda: relay.relay.registry.connected_binaries)
        for _ in range(CROWD):
            await relay.phone("crowd", **{"x-pyrycode-device-name": "d" * 128})
        await relay.until(lambda: relay.relay.registry.connected_phones == CROWD)
        yield relay


async def whole_answer(path: Path) -> bytes:
    stream = await trio.open_unix_socket(str(path))
    async with stream:
        await stream.send_all(GET)
        return b"".join([part async for part in stream])


async def test_while_thousands_are_listed_an_honest_pairs_frames_go_on(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    turns = Turns()
    exchanged = 0

    async def exchange(binary: Client, phone: Client) -> None:
        nonlocal exchanged
        while True:
            await phone.send_text("1")
            envelope = json.loads(await binary.next_message())
            await binary.send_text(json.dumps(envelope))
            assert await phone.next_message() == "1"
            exchanged += 1

    async with crowded(path) as relay, trio.open_nursery() as nursery:
        binary = await relay.binary("pair")
        await relay.until(lambda: relay.relay.registry.connected_binaries == 2)
        phone = await relay.phone("pair")
        nursery.start_soon(exchange, binary, phone)
        await relay.until(lambda: exchanged)
        trio.lowlevel.add_instrument(turns)
        exchanged = 0
        answer = await whole_answer(path)
        during, counted = exchanged, turns.count
        trio.lowlevel.remove_instrument(turns)
        nursery.cancel_scope.cancel()
    document = json.loads(answer.partition(b"\r\n\r\n")[2])
    listed = {server["server_id"]: len(server["phones"]) for server in document["servers"]}
    assert listed == {"crowd": CROWD, "pair": 1}
    # No turn listed more than 64 of them, and each gave the pair as much of the loop as itself.
    assert counted >= CROWD / 64
    assert during >= 3


async def test_status_adds_them_up_in_turns(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    turns = Turns()
    async with crowded(path):
        stream = await trio.open_unix_socket(str(path))
        async with stream:
            trio.lowlevel.add_instrument(turns)
            await stream.send_all(GET.replace(b"connections", b"status"))
            answer = b"".join([part async for part in stream])
            trio.lowlevel.remove_instrument(turns)
    status = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert status["connected"] == {"binaries": 1, "phones": CROWD, "connections": CROWD + 1}
    assert status["totals"]["connections"] == CROWD + 1
    assert turns.count >= CROWD / 64


async def test_whoever_asks_and_does_not_read_is_cut_off_after_30_s(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "admin.sock"
    async with crowded(path):
        stream = await trio.open_unix_socket(str(path))
        async with stream:
            begun = trio.current_time()
            await stream.send_all(GET)
            await trio.sleep(29)
            assert not hung_up(stream)
            await trio.sleep(2)
            assert hung_up(stream)
            assert trio.current_time() == begun + 31
            answer = b"".join([part async for part in stream])
    assert answer.startswith(b"HTTP/1.1 200 ")
    with pytest.raises(ValueError, match=r"char \d+"):
        json.loads(answer.partition(b"\r\n\r\n")[2])


def hung_up(stream: trio.SocketStream) -> bool:
    """Whether the relay has closed its end, although there is still something to read."""
    poll = select.poll()
    poll.register(stream.socket.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
