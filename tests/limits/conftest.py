"""A relay on every address of a network of its own."""

from collections.abc import Callable, Iterator

import pytest

from tests.network import network_of_its_own
from tests.relay_process import RelayProcess


@pytest.fixture
def network() -> Iterator[None]:
    """The test and the relays that it starts are in a network of their own."""
    with network_of_its_own():
        yield


@pytest.fixture
def start_public(network: None, start_relay: Callable[..., RelayProcess]) -> Callable[..., RelayProcess]:
    """``start_public(*flags)``: the real daemon in there, on every address."""
    return lambda *flags: start_relay("--listen", ":0", *flags)
