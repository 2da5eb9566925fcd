"""Relays that say how many tasks they have, and what is held to bounds while they are attacked."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.bounds import LARGE, MIB, UnderAttack
from tests.attacks.bounds import under_attack as watch
from tests.attacks.peers import OVER_TLS
from tests.edge.pairs import Pair
from tests.observed import ObservedRelay
from tests.relay_process import factory_of

NO_MATTER = ["test_clocks.py", "test_headers.py", "test_isolation.py"]
"""Where TLS changes nothing of what happens."""

if OVER_TLS:
    collect_ignore = NO_MATTER
elif LARGE:
    # They have their turn over TLS.
    collect_ignore = ["test_tls.py"]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The flags that have a relay speak TLS."""
    return Pair.made_in(tmp_path_factory.mktemp("certificate")).flags


@pytest.fixture(scope="session")
def flags(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Those of every relay that is attacked: `OVER_TLS` decides."""
    return request.getfixturevalue("certificate") if OVER_TLS else ()


@pytest.fixture
def start_relay(tmp_path: Path, flags: tuple[str, ...]) -> Iterator[Callable[..., ObservedRelay]]:
    """``start_relay(*flags, env=None, wrapper=())``: the real daemon, observed, on a free port."""
    with factory_of(ObservedRelay, tmp_path) as start:
        yield partial(start, *flags)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory, flags: tuple[str, ...]) -> Iterator[ObservedRelay]:
    """One daemon with default settings for all tests of a file that ask for it."""
    with factory_of(ObservedRelay, tmp_path_factory.mktemp("relay")) as start:
        yield start(*flags)


@pytest.fixture
def under_attack(record_property: Callable[[str, object], None]) -> UnderAttack:
    """`tests.attacks.bounds.under_attack`, whose figures `make attacks` shows in the end."""
    return partial(watch, partial(record_property, "attack"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show what was measured."""
    if not LARGE:
        return
    terminalreporter.section("attacks: most at once, and an honest pair's round trips meanwhile")
    for report in terminalreporter.stats.get("passed", []):
        for name, figures in report.user_properties:
            if name == "attack":
                terminalreporter.line(f"{report.nodeid.partition('::')[2]}\n    {_shown(figures)}")
            elif name == "cost":
                terminalreporter.line(f"    {figures}")


def _shown(figures: dict[str, Any]) -> str:
    return (
        f"{figures['memory'] / MIB:.1f} MiB of {figures['memory bound'] / MIB:.0f} allowed, "
        f"{figures['sockets']} sockets of {figures['sockets bound']}, {figures['tasks']} tasks; "
        f"{figures['frames']} honest frames, median {figures['median'] * 1000:.1f} ms, "
        f"slowest {figures['slowest'] * 1000:.0f} ms"
    )
