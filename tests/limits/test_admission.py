"""Who is counted under which key, and who may come in, against counting by hand."""

from collections import Counter
from contextlib import ExitStack

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from relayd.edge.admission import DIALS_PER_UPGRADE, Admission, Limits, Refusal, key_of
from relayd.wire.address import ip_address

FEW = Limits(
    connections=4,
    connections_per_address=2,
    handshakes=3,
    handshakes_per_address=1,
    upgrade_rate=0,
    upgrade_burst=20,
)
KEYS = st.sampled_from([None, 1, 2, 3])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        # An IPv6 network whose number is a small one is no IPv4 address.
        ("0.0.0.5", "0:0:0:5::", False),
    ],
)
def test_ipv4_counts_by_the_address_and_ipv6_by_the_64(one: str, other: str, same: bool) -> None:
    assert key_of(ip_address(one)) is not None
    assert (key_of(ip_address(one)) == key_of(ip_address(other))) is same


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", None])
def test_unix_sockets_and_loopback_have_no_key_since_a_proxy_stands_there(address: str | None) -> None:
    assert key_of(None if address is None else ip_address(address)) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), KEYS), max_size=60))
def test_handshakes_are_counted_in_all_and_by_address(steps: list[tuple[bool, int, int | None]]) -> None:
    admission = Admission(FEW)
    there: list[int | None] = []
    for comes, place, key in steps:
        if comes:
            bound = admission.arrive(key, 0.0)
            if len(there) == 3:
                assert bound == "handshakes"
            elif key is not None and there.count(key) == 1:
                assert bound == "handshakes_per_address"
            else:
                assert bound is None
                there.append(key)
        elif there:
            admission.handshake_over(there.pop(place % len(there)))
        assert admission.handshakes == len(there)
        assert admission.most_handshakes == max(Counter(k for k in there if k is not None).values(), default=0)
    for key in there:
        admission.handshake_over(key)
    assert (admission.handshakes, admission.most_handshakes) == (0, 0)


def test_one_who_is_known_only_later_counts_for_his_address_from_then_on() -> None:
    admission = Admission(FEW)
    assert admission.arrive(None, 0.0) is admission.arrive(None, 0.0) is None
    with admission.known_as(1, 0.0) as first:
        assert first is None
        assert admission.arrive(1, 0.0) == "handshakes_per_address"
        with admission.known_as(1, 0.0) as second, admission.known_as(None, 0.0) as third:
            assert (second, third) == ("handshakes_per_address", None)
        assert (admission.handshakes, admission.most_handshakes) == (2, 1)
    assert admission.most_handshakes == 0
    assert admission.arrive(1, 0.0) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), KEYS), max_size=60))
def test_connections_are_counted_in_all_and_by_address(steps: list[tuple[bool, int, int | None]]) -> None:
    admission = Admission(FEW)
    there: list[tuple[int | None, ExitStack]] = []
    for comes, place, key in steps:
        keys = [known for known, _ in there]
        if comes:
            refusal = admission.attempt(key, 0.0)
            if len(there) == 4:
                assert refusal == Refusal("connections", 503, 30)
            elif key is not None and keys.count(key) == 2:
                assert refusal == Refusal("connections_per_address", 503, 30)
            else:
                assert refusal is None
                connection = ExitStack()
                connection.enter_context(admission.connected(key))
                there.append((key, connection))
        elif there:
            there.pop(place % len(there))[1].close()
        assert admission.connections == len(there)
    for _, connection in there:
        connection.close()
    assert (admission.connections, admission.most_connections) == (0, 0)


def test_an_address_that_dials_too_often_is_not_heard_whatever_it_wants() -> None:
    admission = Admission(evolve(FEW, upgrade_rate=1, upgrade_burst=2))
    for _ in range(2 * DIALS_PER_UPGRADE):
        assert admission.arrive(1, 0.0) is None
        admission.handshake_over(1)
    assert admission.arrive(1, 0.0) == "dial_rate"
    with admission.known_as(1, 1.0) as late:
        assert late == "dial_rate"
    assert (admission.handshakes, admission.most_handshakes) == (0, 0)
    assert admission.arrive(2, 1.0) is admission.arrive(None, 1.0) is None
    # A token of them comes 30 times as fast as one for an upgrade.
    with admission.known_as(1, 2.0) as late:
        assert late is None
    assert admission.arrive(1, 2.0) == "dial_rate"
    admission.apply(evolve(admission.limits, upgrade_rate=0))
    assert admission.arrive(1, 2.0) is None


def test_who_finds_no_place_has_not_dialled() -> None:
    admission = Admission(evolve(FEW, upgrade_rate=1, upgrade_burst=1))
    assert admission.arrive(1, 0.0) is None
    assert {admission.arrive(1, 0.0) for _ in range(DIALS_PER_UPGRADE)} == {"handshakes_per_address"}
    admission.handshake_over(1)
    assert admission.arrive(1, 0.0) is None


def test_an_address_that_asks_too_often_is_told_when_to_come_back_whether_or_not_there_is_room() -> None:
    admission = Admission(evolve(FEW, upgrade_rate=10, upgrade_burst=2, connections=1))
    assert admission.attempt(1, 0.0) is None
    with admission.connected(1):
        # To ask in vain is to ask.
        assert admission.attempt(1, 0.0) == Refusal("connections", 503, 30)
        assert admission.attempt(1, 0.0) == Refusal("upgrade_rate", 429, 6)
        assert admission.attempt(1, 5.5) == Refusal("upgrade_rate", 429, 1)
        assert admission.attempt(2, 5.5) == Refusal("connections", 503, 30)
    assert admission.attempt(1, 6.0) is None
    assert [admission.attempt(None, 6.0) for _ in range(100)] == [None] * 100


def test_other_limits_hold_at_once_and_nobody_is_put_out() -> None:
    admission = Admission(evolve(FEW, upgrade_rate=10, upgrade_burst=1))
    assert admission.attempt(1, 0.0) is None
    with admission.connected(1), admission.connected(2):
        admission.apply(evolve(admission.limits, connections=1))
        assert admission.connections == 2
        assert admission.attempt(3, 0.0) == Refusal("connections", 503, 30)
        # The buckets are the same ones.
        assert admission.attempt(1, 0.0) == Refusal("upgrade_rate", 429, 6)
        admission.apply(evolve(admission.limits, connections=3, upgrade_rate=20))
        assert admission.attempt(1, 0.0) is None
        assert admission.attempt(1, 0.0) == Refusal("upgrade_rate", 429, 3)
        admission.apply(evolve(admission.limits, upgrade_rate=0))
        assert admission.attempt(1, 0.0) is None
        assert admission.addresses == 0
