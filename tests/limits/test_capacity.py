"""How many connections there is room for."""

import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from relayd.ops.capacity import BYTES_EACH, System, beyond_memory, limits_of, memory_limits, too_few_descriptors
from relayd.ops.events import MemoryMissing
from relayd.ops.production import refuse_limits
from relayd.settings import Settings
from tests.trio_client import relay_under_test

GIB = 1024**3

COUNTS = st.integers(1, 1_000_000)


@pytest.mark.parametrize(
    ("descriptors", "memory", "connections", "handshakes"),
    [
        (524_288, 512 * GIB, 522_112, 2048),
        (524_288, 8 * GIB, 50_380, 2048),
        (1024, 8 * GIB, 784, 112),
        (524_288, GIB // 2, 2867, 409),
        (20, GIB // 512, 16, 16),
    ],
)
def test_what_there_is_less_of_descriptors_or_memory_bounds_both(
    descriptors: int, memory: int, connections: int, handshakes: int
) -> None:
    limits = limits_of(Settings(), System(descriptors, memory))
    assert (limits.connections, limits.handshakes) == (connections, handshakes)


@given(st.integers(256, 1 << 30), st.integers(64 << 20, 1 << 40))
def test_what_is_computed_has_the_descriptors_for_it(descriptors: int, memory: int) -> None:
    system = System(descriptors, memory)
    limits = limits_of(Settings(), system)
    assert too_few_descriptors(limits, system) == 0
    assert limits.connections * BYTES_EACH <= memory / 2


@given(COUNTS, COUNTS)
def test_what_somebody_has_set_is_what_holds_and_what_is_missing_for_it_is_known(
    connections: int, handshakes: int
) -> None:
    system = System(2000, GIB)
    limits = limits_of(Settings(max_connections=connections, max_handshakes=handshakes), system)
    assert (limits.connections, limits.handshakes) == (connections, handshakes)
    assert too_few_descriptors(limits, system) == max(0, connections + handshakes + 128 - 2000)


@pytest.mark.parametrize(
    ("values", "system", "beyond"),
    [
        ({"max_buffered_bytes": GIB // 2}, System(1024, GIB), []),
        (
            {"max_buffered_bytes": GIB // 2 + 1},
            System(1024, GIB),
            [("max-buffered-bytes", GIB // 2 + 1, GIB // 2)],
        ),
        ({"max_connections": 500_000}, System(524_288, 8 * GIB), []),
        ({"max_connections": 500_000}, System(524_288, 4 * GIB), [("max-connections", 500_000, 349_525)]),
        # They would meet the limit of descriptors first.
        ({"max_connections": 500_000, "max_handshakes": 20_000}, System(1024, 2 * GIB), []),
        (
            {"max_connections": 20_000, "max_handshakes": 20_000, "max_buffered_bytes": GIB},
            System(524_288, GIB // 8),
            [
                ("max-buffered-bytes", GIB, GIB // 16),
                ("max-connections", 20_000, 10_922),
                ("max-handshakes", 20_000, 10_922),
            ],
        ),
    ],
)
def test_a_limit_that_the_system_ends_us_before_we_meet_is_known(
    values: Mapping[str, int], system: System, beyond: Sequence[tuple[str, int, int]]
) -> None:
    found = [(each.setting, each.value, each.most) for each in beyond_memory(Settings(**values), system)]  # type: ignore[arg-type]
    assert found == beyond


@given(st.integers(20, 1 << 30), st.integers(1 << 20, 1 << 40))
def test_what_is_left_to_us_is_never_beyond_memory(descriptors: int, memory: int) -> None:
    assert list(beyond_memory(Settings(), System(descriptors, memory))) == []
    refuse_limits(Settings(production=True), System(descriptors, memory))


@given(st.integers(2, 1_000_000))
def test_no_address_can_hold_all_handshakes(handshakes: int) -> None:
    limits = limits_of(Settings(max_handshakes=handshakes), System(2000, GIB))
    assert 1 <= limits.handshakes_per_address <= handshakes / 2


async def test_a_limit_beyond_memory_is_a_warning_at_the_start_and_whenever_a_reload_sets_it() -> None:
    most = System.here().memory // 2
    async with relay_under_test(max_buffered_bytes=most + 1) as relay:
        warning = MemoryMissing("max-buffered-bytes", most + 1, most)
        assert relay.seen(MemoryMissing) == [warning]
        relay.relay.apply(evolve(relay.settings, max_phones=3))
        assert relay.seen(MemoryMissing) == [warning]
        relay.relay.apply(evolve(relay.settings, max_buffered_bytes="auto"))
        relay.relay.apply(relay.settings)
        assert relay.seen(MemoryMissing) == [warning, warning]


def test_this_system_has_its_limit_of_open_files_and_some_memory() -> None:
    system = System.here()
    assert system.descriptors == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert GIB / 8 < system.memory < 1024 * 1024 * GIB


def test_a_memory_limit_of_cgroups_2_is_found_in_whichever_group_has_it(tmp_path: Path) -> None:
    service = tmp_path / "system.slice" / "relayd.service"
    service.mkdir(parents=True)
    (service / "memory.max").write_text("max\n")
    (service.parent / "memory.max").write_text("1000\n")
    (tmp_path / "listed").write_text("0::/system.slice/relayd.service\n")
    assert list(memory_limits(tmp_path / "listed", tmp_path)) == [1000]


@pytest.mark.parametrize(
    ("service", "above", "memory"),
    [
        ({"memory.max": "300000000", "memory.high": "max"}, {}, 300_000_000),
        ({"memory.max": "max", "memory.high": "200000000"}, {}, 200_000_000),
        ({"memory.max": "300000000", "memory.high": "200000000"}, {}, 200_000_000),
        ({"memory.max": "200000000", "memory.high": "300000000"}, {}, 200_000_000),
        ({"memory.max": "max", "memory.high": "max"}, {"memory.high": "100000000"}, 100_000_000),
        ({"memory.max": "300000000"}, {"memory.max": "100000000", "memory.high": "max"}, 100_000_000),
        ({"memory.max": "300000000"}, {"memory.max": "400000000", "memory.high": "400000000"}, 300_000_000),
        ({"memory.max": "max", "memory.high": "max"}, {"memory.max": "max"}, None),
        ({"memory.max": str(1 << 62)}, {}, None),
    ],
)
def test_the_memory_there_is_is_the_least_that_a_control_group_or_one_around_it_allows(
    tmp_path: Path, service: dict[str, str], above: dict[str, str], memory: int | None
) -> None:
    group = tmp_path / "system.slice" / "relayd.service"
    # Where the other services are, whose limits are not ours.
    beside = group.with_name("other.service")
    for directory, files in ((group, service), (group.parent, above), (beside, {"memory.max": "5000"})):
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(f"{text}\n")
    (tmp_path / "listed").write_text("0::/system.slice/relayd.service\n")
    found = System.here(tmp_path / "listed", tmp_path)
    assert found.memory == (System.here(tmp_path / "none").memory if memory is None else memory)


def test_in_a_container_the_root_of_its_hierarchy_has_its_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.high").write_text("100000000\n")
    (tmp_path / "listed").write_text("0::/\n")
    assert System.here(tmp_path / "listed", tmp_path).memory == 100_000_000


def test_a_memory_limit_of_cgroups_1_is_found(tmp_path: Path) -> None:
    (tmp_path / "memory" / "a").mkdir(parents=True)
    (tmp_path / "memory" / "a" / "memory.limit_in_bytes").write_text("2000\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "listed").write_text("5:cpu,cpuacct:/\n4:memory:/a/b\n0::/\n")
    assert list(memory_limits(tmp_path / "listed", tmp_path)) == [2000, 9223372036854771712]


def test_where_there_are_no_cgroups_all_memory_counts(tmp_path: Path) -> None:
    assert list(memory_limits(tmp_path / "none", tmp_path)) == []
