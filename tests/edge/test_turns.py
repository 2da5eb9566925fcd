"""The length of a turn: long for whoever is alone, short where others wait, and never too short."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.edge.turns import LEAST_FRAMES, Gate, Turns
from relayd.ops.events import EnvelopesDropped
from relayd.wire.frames import FRAMES_PER_BATCH
from tests.trio_client import relay_under_test


def shares(takers: Sequence[str]) -> list[int]:
    """How many frames each turn may have, where connections take turns in that order."""
    turns = Turns()
    state = dict.fromkeys(takers, (0, LEAST_FRAMES))
    lengths = []
    for name in takers:
        previous, frames = state[name]
        frames = turns.begin(previous, frames)
        state[name] = turns.latest, frames
        lengths.append(frames)
    return lengths


def test_a_connection_that_stays_alone_gets_longer_turns_up_to_the_longest() -> None:
    lengths = shares("a" * 20)
    assert lengths == sorted(lengths)
    assert lengths[0] < FRAMES_PER_BATCH == lengths[-1]


def test_the_longest_turns_end_as_soon_as_somebody_else_has_one() -> None:
    *_, before, other, after = shares("a" * 20 + "ba")
    assert before == FRAMES_PER_BATCH
    assert other == LEAST_FRAMES
    assert after == FRAMES_PER_BATCH // 2


@pytest.mark.parametrize(("takers", "frames"), [(2, 128), (3, 85), (4, 64), (5, 64), (1000, 64)])
def test_many_that_take_turns_share_a_round_down_to_the_least(takers: int, frames: int) -> None:
    names = [str(number) for number in range(takers)]
    assert set(shares(names * 3)[-takers:]) == {frames}


async def test_turns_of_a_binary_that_is_alone_grow_from_the_least_on(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary()
        await wait_all_tasks_blocked()
        await binary.stream.send_all(b"\x81\x81\0\0\0\0x" * 1000)
        await wait_all_tasks_blocked()
        turns = [event.malformed for event in relay.seen(EnvelopesDropped)]
        assert sum(turns) == 1000
        growth = range(turns[0], FRAMES_PER_BATCH, 16)
        assert turns[0] <= LEAST_FRAMES + 16
        assert turns[: len(growth)][:-1] == list(growth)[: len(turns) - 1]


async def counts_of_passes(gate: Gate, count: int, cancelled: int) -> list[int]:
    """How many of ``count`` come through in each pass of the loop, if others came before and were cancelled."""
    through = 0

    async def newcomer() -> None:
        nonlocal through
        with gate.approached() as place:
            await place.enter()
            through += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as leaving:
        for _ in range(cancelled):
            leaving.start_soon(newcomer)
        await trio.lowlevel.checkpoint()
        leaving.cancel_scope.cancel()
    through = 0
    counts: list[int] = []
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(newcomer)
        while sum(counts) < count:
            await trio.lowlevel.checkpoint()
            counts.append(through - sum(counts))
    return counts


@pytest.mark.parametrize("cancelled", [0, 5, 50])
async def test_of_many_newcomers_a_few_come_through_in_each_pass_of_the_loop(cancelled: int) -> None:
    counts = await counts_of_passes(Gate(), 400, cancelled)
    # We look in the middle of a pass, before some of its tasks and behind others.
    assert max(counts) <= 64
    # Others have every second one for themselves, and no more.
    assert len(counts) <= 2 * 400 / 32 + 4


async def test_who_comes_later_comes_through_later() -> None:
    gate, through = Gate(), []

    async def newcomers(number: int) -> None:
        with gate.approached() as place:
            for _ in range(3):
                await place.enter()
                through.append(number)
                await trio.lowlevel.checkpoint()
                place.leave()

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(newcomers, number)
    # Nobody is there a third time before everybody has been there once.
    firsts = [through.index(number) for number in range(100)]
    assert max(firsts) < 100 + 2 * 32
