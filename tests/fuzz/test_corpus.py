"""What fuzzing has found so far, through the same checks."""

import pytest

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_was_ever_found_breaks_anything(name: str) -> None:
    inputs = corpus.load(name)
    assert inputs
    for data in (*TARGETS[name].seeds, *inputs):
        TARGETS[name].check(data)
