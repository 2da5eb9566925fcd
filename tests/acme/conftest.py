"""The CA that most tests of ACME share."""

from collections.abc import Iterator

import pytest

from tests.acme.pebble import Pebble, running_pebble


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """A CA in good order, for all tests of this file that do not hurt it."""
    home = tmp_path_factory.mktemp("pebble")
    with running_pebble(home, domainBlocklist=["blocked.example"]) as pebble:
        yield pebble
