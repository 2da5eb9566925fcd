"""What is kept of what has come: of a request, while its answer waits to be read, and of messages under way."""

import tracemalloc

import pytest
from trio.testing import wait_all_tasks_blocked

from tests.attacks.peers import PONG, frame
from tests.limits.clients import upgrade
from tests.trio_client import RelayUnderTest, relay_under_test

PLACES = 10
SMALL = 2 * 1024
"""Bytes that one who waits may take more than another."""

HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: relay\r\n"
FULL = 16 * 1024


def filled(head: bytes, unit: bytes, last: bytes = b"") -> bytes:
    """``head``, which has no end yet, made as long as a head may be."""
    return head + unit * ((FULL - len(head + last) - 2) // len(unit)) + last + b"\r\n"


async def taken_by(relay: RelayUnderTest, head: bytes, status: int | None = None, *after: bytes) -> float:
    """Memory for each of those who have got ``status`` for ``head`` and do not hang up, themselves included.

    Without ``status``, they get nothing yet. Whatever they send ``after`` that has been read before the next.
    """
    tracemalloc.start()
    try:
        for _ in range(PLACES):
            client = await relay.connect()
            await client.stream.send_all(head)
            if status is not None:
                assert (await client.stream.receive_some(4096)).startswith(b"HTTP/1.1 %d " % status)
            for data in after:
                await wait_all_tasks_blocked()
                await client.stream.send_all(data)
        await wait_all_tasks_blocked()
        return tracemalloc.get_traced_memory()[0] / PLACES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (filled(HEALTHZ, b"a:\r\n"), 431),
        (HEALTHZ + b"a: " + b"a" * FULL, 431),
        (filled(HEALTHZ + b"a:\r\n" * 90 + b"a: ", b"a", b"\r\na\r\n"), 400),
        (filled(HEALTHZ + b"a: ", b"a", b"\r\n"), 200),
        (filled(upgrade(more=b"x-pyrycode-server: a\r\n" * 80)[:-2] + b"a: ", b"a", b"\r\n"), 400),
        (filled(upgrade().replace(b"websocket", b"other")[:-2] + b"a: ", b"a", b"\r\n"), 426),
    ],
    ids=["headers", "length", "no head", "health", "headers of ours", "no upgrade"],
)
async def test_of_a_request_nothing_is_kept_until_its_answer_has_been_read(head: bytes, status: int) -> None:
    async with relay_under_test(handshake_timeout=1_000.0, max_handshakes=1_000) as relay:
        # The first brings what is there once for all.
        await taken_by(relay, HEALTHZ + b"\r\n", 200)
        least = await taken_by(relay, HEALTHZ + b"\r\n", 200)
        assert await taken_by(relay, head, status) < least + SMALL
        assert relay.relay.admission.handshakes == 3 * PLACES


async def test_of_a_head_that_does_not_end_its_bytes_are_kept_once() -> None:
    async with relay_under_test(handshake_timeout=1_000.0, max_handshakes=1_000) as relay:
        await taken_by(relay, HEALTHZ)
        least = await taken_by(relay, HEALTHZ)
        begun = filled(HEALTHZ + b"a: ", b"a")[:-2]
        # A buffer that has grown has an eighth to spare.
        assert await taken_by(relay, begun) < least + len(begun) * 9 / 8 + SMALL
        assert relay.relay.budget.used == PLACES * (2 * len(HEALTHZ) + len(begun))


async def test_of_what_came_behind_an_upgrade_nothing_is_kept_once_it_has_been_read() -> None:
    pongs = frame(b"a" * 125, PONG) * 100
    async with relay_under_test(max_phones=1_000, upgrade_rate=0) as relay:
        await relay.binary("here")
        asked = upgrade("/v1/client", "here")
        await taken_by(relay, asked + pongs, 101)
        least = await taken_by(relay, asked, 101)
        assert await taken_by(relay, asked + pongs, 101) < least + SMALL
        assert relay.relay.budget.used == 0
        assert len(relay.relay.connections) == 1 + 3 * PLACES


@pytest.mark.parametrize("pongs", [0, 60], ids=["within its bounds", "held back"])
async def test_of_a_message_that_is_not_whole_its_bytes_are_kept_once(pongs: int) -> None:
    pong, begun = frame(b"", PONG), frame(b"a" * 60_000)[:50_000]
    async with relay_under_test(max_phones=1_000, upgrade_rate=0) as relay:
        await relay.binary("here")
        asked = upgrade("/v1/client", "here"), 101, pong * 50, pong * 50
        await taken_by(relay, *asked)
        least = await taken_by(relay, *asked)
        taken = await taken_by(relay, *asked, pong * pongs + begun)
        assert taken < least + relay.relay.budget.used / PLACES + SMALL
        assert relay.relay.budget.used >= PLACES * 50_000
        assert relay.relay.tally.pauses.under_way == (PLACES if pongs else 0)
