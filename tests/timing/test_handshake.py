"""Contract, "Endpoints", and the handshake timeout of 5 s that bounds them."""

import pytest
import trio
from trio.testing import MockClock

from tests.trio_client import relay_under_test

HEAD = b"GET /v1/server HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


async def test_request_head_has_5_s_in_all_however_steadily_it_dribbles_in(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        stream = (await relay.connect()).stream
        connected = trio.current_time()

        async def dribble() -> None:
            for byte in HEAD:
                await stream.send_all(bytes([byte]))
                await trio.sleep(1)

        nursery.start_soon(dribble)
        answer = await stream.receive_some(65536)
        assert trio.current_time() - connected == 5
        assert answer.startswith(b"HTTP/1.1 408 ")
        nursery.cancel_scope.cancel()
        await stream.aclose()


@pytest.mark.parametrize("sent", [b"", HEAD], ids=["nothing", "half a head"])
async def test_silent_client_is_hung_up_on_after_5_s(autojump_clock: MockClock, sent: bytes) -> None:
    async with relay_under_test() as relay:
        stream = (await relay.connect()).stream
        connected = trio.current_time()
        if sent:
            await stream.send_all(sent)
        received = b"".join([part async for part in stream])
        assert trio.current_time() - connected == 5
        assert received[:12] == (b"HTTP/1.1 408" if sent else b"")
        await stream.aclose()


async def test_client_that_never_hangs_up_after_its_answer_is_cut_off_after_5_s(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay:
        tasks = trio.lowlevel.current_statistics().tasks_living
        stream = (await relay.connect()).stream
        await stream.send_all(b"GET /nowhere HTTP/1.1\r\nHost: relay\r\n\r\n")
        received = b"".join([part async for part in stream])
        assert received.startswith(b"HTTP/1.1 404 ")
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 1
        await trio.sleep(5.001)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        await stream.aclose()
