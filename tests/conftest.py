"""Fixtures that every room of the tests may use."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.relay_process import RelayProcess, relay_factory

# A test that depends on the machine's speed is wrong; what takes more examples to find is for `make fuzz`.
settings.register_profile("quick", deadline=None, max_examples=40)
settings.load_profile("quick")


@pytest.fixture
def start_relay(tmp_path: Path) -> Iterator[Callable[..., RelayProcess]]:
    """``start_relay(*flags, env=None)``: the real daemon, as a process, on a free port."""
    with relay_factory(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """One daemon with default settings for all tests of a file: use a server-id of your own in each."""
    with relay_factory(tmp_path_factory.mktemp("relay")) as start:
        yield start()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may look up names in; pytest's own are for one user."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o711)
        yield path
