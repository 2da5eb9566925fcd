"""The length of a turn: long for whoever is alone, short where others wait, and never too short."""

from collections.abc import Sequence

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.edge.turns import LEAST_FRAMES, Turns
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
