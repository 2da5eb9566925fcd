"""Close codes: which may travel, and that relayd's own do."""

import pytest

from relayd.wire import close
from relayd.wire.close import Close, may_travel
from relayd.wire.frames import encode_close


def test_the_codes_that_may_travel_are_those_of_the_contract() -> None:
    contract = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    assert {code for code in range(-1, 70000) if may_travel(code)} == contract


@pytest.mark.parametrize("own", [value for value in vars(close).values() if isinstance(value, Close)])
def test_what_relayd_closes_with_may_travel_and_fits_a_control_frame(own: Close) -> None:
    assert may_travel(own.code)
    assert len(encode_close(own)) <= 2 + 125
