"""The doctor at a relay that lets an address dial only so often: it waits, or says that it cannot tell."""

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from relayd.doctor.examine import examine
from relayd.doctor.findings import Finding, Status
from relayd.doctor.http import check_upgrade
from relayd.doctor.peers import pair
from relayd.doctor.target import Plan
from relayd.values import Address
from tests.doctor.proxies import answering
from tests.doctor.test_faults import failure, plan
from tests.network import HERE, network_of_its_own
from tests.trio_client import relay_under_test

TOO_OFTEN = b"HTTP/1.1 429 Too Many Requests\r\n%bContent-Length: 0\r\n\r\n"


@pytest.fixture
def network() -> Iterator[None]:
    """The doctor and the relay are in a network of their own, where an address is not loopback."""
    with network_of_its_own():
        yield


async def whole(at: Plan) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    await examine(at, found.__setitem__)
    return found


async def test_where_the_wait_is_short_it_waits_and_finds_nothing_wrong(
    network: None, autojump_clock: MockClock
) -> None:
    # As by default, but for the 64 phones that it dials at once at the most.
    async with relay_under_test(listen=(Address("", 0),), max_phones=3) as relay:
        found = await whole(plan(relay.port, host=HERE, timeout=15))
        assert trio.current_time() > 60
        limited = relay.relay.tally.limited["upgrade_rate"]
    assert limited
    bad = {name: finding for name, finding in found.items() if finding.status not in (Status.OK, Status.SKIP)}
    # Plain text over a network is what the one warning is about.
    assert bad.keys() <= {"tls", "one by one"}
    skipped = {name: finding.seen for name, finding in found.items() if finding.status is Status.SKIP}
    assert skipped.keys() <= {"idle", "phone limit"}
    assert found["order"].status is found["second binary"].status is Status.OK


async def test_where_it_is_long_what_cannot_be_looked_at_is_skipped_and_nothing_fails(
    network: None, autojump_clock: MockClock
) -> None:
    async with relay_under_test(listen=(Address("", 0),), upgrade_rate=1, upgrade_burst=10) as relay:
        found = await whole(plan(relay.port, host=HERE, timeout=15))
    assert found["upgrade"].status is found["headers"].status is Status.OK
    assert {finding.status for finding in found.values()} == {Status.OK, Status.WARN, Status.SKIP}
    limited = "the relay limits upgrades per address (429): again in "
    for name in ("phone to binary", "order", "phone limit", "extras"):
        assert found[name].status is Status.SKIP
        assert found[name].seen.startswith(limited)
        assert "--timeout" in found[name].advice


@pytest.mark.parametrize(
    "header", [b"", b"Retry-After: 3600\r\n", b"Retry-After: Fri, 31 Dec 2026 23:59:59 GMT\r\n"]
)
async def test_a_429_is_no_failure_even_if_it_is_all_that_comes(header: bytes) -> None:
    async with answering(TOO_OFTEN % header) as port:
        found = await whole(plan(port, timeout=1))
    assert {finding.status for finding in found.values()} == {Status.OK, Status.SKIP}
    assert found["upgrade"].seen.startswith("the relay limits upgrades per address (429)")
    assert found["claim and join"].seen == found["upgrade"].seen


@pytest.mark.parametrize("check", ["request", "peers"])
async def test_it_waits_as_long_as_it_was_told_and_in_all_no_longer_than_its_timeout(
    autojump_clock: MockClock, check: str
) -> None:
    async def connect(at: Plan) -> Finding:
        async with pair(at) as peers:
            return Finding(peers.conn_id)

    async with answering(TOO_OFTEN % b"Retry-After: 4\r\n") as port:
        start = trio.current_time()
        await failure({"request": check_upgrade, "peers": connect}[check], plan(port, timeout=10))
        assert trio.current_time() - start == pytest.approx(8)
