"""The certificate that tests of TLS serve."""

from pathlib import Path

import pytest

from tests.edge.pairs import Pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair.made_in(tmp_path)
