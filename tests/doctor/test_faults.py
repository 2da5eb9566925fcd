"""What the doctor says of relays, and of ways to them, that are not as they should be."""

import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trustme

from relayd.doctor.closing import check_idle
from relayd.doctor.examine import examine
from relayd.doctor.findings import Failed, Finding, Status, first
from relayd.doctor.frames import check_down, check_order, check_promptness, check_up
from relayd.doctor.http import check_health, check_upgrade
from relayd.doctor.peers import pair
from relayd.doctor.reach import check_connection, check_tls
from relayd.doctor.target import Plan, parse, trusting
from tests.doctor.proxies import (
    answering,
    clumping,
    cutting,
    flipping,
    forgetting,
    proxied,
    reordering,
)
from tests.relay_process import WAIT, RelayProcess

Check = Callable[[Plan], Awaitable[Finding]]


def plan(
    port: int,
    *,
    scheme: str = "ws",
    host: str = "127.0.0.1",
    timeout: float = WAIT,
    idle: float = 0,
    ca_file: Path | None = None,
) -> Plan:
    target = parse(f"{scheme}://{host}:{port}")
    return Plan(target, timeout, idle, trusting(str(ca_file) if ca_file else None))


async def failure(check: Check, at: Plan) -> Failed:
    """What ``check`` complains of."""
    complaint: Failed | None = None
    try:
        found = await check(at)
    except* Failed as failures:
        complaint = first(failures)
    else:
        raise AssertionError(found)
    assert complaint
    assert complaint.advice
    return complaint


async def whole(at: Plan) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    await examine(at, found.__setitem__)
    return found


async def test_where_nobody_listens_only_that_is_said() -> None:
    async with answering(None) as port:
        pass
    found = await whole(plan(port))
    assert [finding.status for finding in found.values()] == [Status.OK, Status.FAIL, Status.SKIP]
    assert found["connection"].seen == f"127.0.0.1 port {port}: nobody listens there"
    assert "is the relay running" in found["connection"].advice


async def test_a_port_that_says_nothing_costs_one_timeout() -> None:
    async with answering(None) as port:
        start = trio.current_time()
        found = await whole(plan(port, timeout=0.2))
        assert 0.2 <= trio.current_time() - start < WAIT
    assert found["upgrade"].seen == "/v1/client: no answer within 0.2 s"
    assert list(found)[-1] == "the rest"


async def test_a_port_that_says_nothing_in_tls() -> None:
    async with answering(None) as port:
        failed = await failure(check_tls, plan(port, scheme="wss", timeout=0.2))
    assert failed.seen == "no TLS handshake within 0.2 s"


async def test_a_name_that_does_not_exist() -> None:
    found = await whole(plan(1, host="relay.invalid"))
    assert [finding.status for finding in found.values()] == [Status.FAIL, Status.SKIP]
    assert "spelled right" in found["address"].advice


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("502 Bad Gateway", "does not reach the relay"),
        ("404 Not Found", "the path"),
        ("403 Forbidden", "firewall"),
        ("426 Upgrade Required", "forward Connection and Upgrade"),
        ("200 OK", "no relay"),
        ("599 Whatever", "log"),
    ],
)
async def test_another_answer_to_an_upgrade_is_shown_with_who_gave_it(status: str, advice: str) -> None:
    answer = f"HTTP/1.1 {status}\r\nServer: imaginary/1.0\r\nContent-Length: 0\r\n\r\n".encode()
    async with answering(answer) as port:
        failed = await failure(check_upgrade, plan(port))
        # A relay that refuses only later, once trio-websocket dials.
        later = await failure(_pair, plan(port))
    assert failed.seen == f"/v1/client answers {status[:3]} (Server: imaginary/1.0) instead of 101"
    assert later.seen == f"/v1/server answers {status[:3]} (Server: imaginary/1.0) instead of 101"
    assert advice in failed.advice
    assert advice in later.advice


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x03\x00\x02\x02\x46"])
async def test_what_is_not_http_is_said_to_be_so(answer: bytes) -> None:
    async with answering(answer) as port:
        failed = await failure(check_upgrade, plan(port))
    assert failed.seen == "/v1/client: what answers there does not speak HTTP/1.1"


async def test_a_connection_that_ends_without_an_answer() -> None:
    async with answering(b"") as port:
        failed = await failure(check_upgrade, plan(port))
    assert failed.seen == "/v1/client: the connection ended without an answer"


async def test_a_health_page_of_somebody_else() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as port:
        failed = await failure(check_health, plan(port))
    assert "without the five members" in failed.seen


async def test_a_changed_byte_is_found_in_both_directions(relay: RelayProcess) -> None:
    async with proxied(relay.port, down=flipping) as port:
        for check in (check_up, check_down):
            failed = await failure(check, plan(port))
            assert "came changed: from byte " in failed.seen
            assert "X" in failed.seen


async def test_a_limit_below_the_protocols_is_found(start_relay: Callable[..., RelayProcess]) -> None:
    relay = start_relay("--max-frame-bytes", "70000")
    for check, role in ((check_up, "phone"), (check_down, "binary")):
        failed = await failure(check, plan(relay.port))
        assert failed.seen.startswith(f"the {role} was closed with 1009")
        assert "--max-frame-bytes" in failed.advice


async def test_frames_out_of_order_are_found(relay: RelayProcess) -> None:
    async with proxied(relay.port, down=reordering) as port:
        failed = await failure(check_order, plan(port))
    assert "out of order" in failed.seen


async def test_a_proxy_that_holds_bytes_back_is_found(relay: RelayProcess) -> None:
    async with proxied(relay.port, down=clumping) as port:
        failed = await failure(check_promptness, plan(port))
    assert "came with the one before" in failed.seen
    assert "buffering" in failed.advice


async def test_a_proxy_that_cuts_silent_connections_is_found(relay: RelayProcess) -> None:
    async with proxied(relay.port, down=cutting) as port:
        failed = await failure(check_idle, plan(port, idle=WAIT))
    assert " s of silence the " in failed.seen
    assert failed.seen.endswith("the binary was cut off without a Close frame")
    assert "proxy_read_timeout" in failed.advice


async def test_a_proxy_that_forgets_silent_connections_is_found(relay: RelayProcess) -> None:
    async with proxied(relay.port, down=forgetting) as port:
        failed = await failure(check_idle, plan(port, idle=0.1, timeout=1))
    assert failed.seen.startswith("0.1 s of silence, and then: a frame after the silence, at the binary,")


class Certified:
    """An authority of our own, with the file that names it."""

    def __init__(self, directory: Path) -> None:
        self.authority = trustme.CA()
        self.file = directory / "authority.pem"
        self.authority.cert_pem.write_to_path(str(self.file))

    def server(self, name: str = "127.0.0.1", *, days: float = 90) -> ssl.SSLContext:
        """TLS of a server with a certificate for ``name`` that ends in so many days."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        until = datetime.now(UTC) + timedelta(days=days)
        self.authority.issue_cert(name, common_name="the relay", not_after=until).configure_cert(context)
        return context


@pytest.fixture
def certified(tmp_path: Path) -> Certified:
    return Certified(tmp_path)


async def test_behind_a_good_certificate_all_is_well(relay: RelayProcess, certified: Certified) -> None:
    async with proxied(relay.port, tls=certified.server(days=90.5)) as port:
        at = plan(port, scheme="wss", ca_file=certified.file)
        found = await check_tls(at)
        assert (await _pair(at)).status is Status.OK
        assert (await check_health(at)).status is Status.OK
    assert found.status is Status.OK
    assert found.seen.startswith("TLSv1.3, certificate of the relay for 127.0.0.1, by ")
    assert found.seen.endswith(", 90 days left")


async def test_a_certificate_that_ends_soon_is_a_warning(relay: RelayProcess, certified: Certified) -> None:
    async with proxied(relay.port, tls=certified.server(days=20.5)) as port:
        found = await check_tls(plan(port, scheme="wss", ca_file=certified.file))
    assert found.status is Status.WARN
    assert "renew" in found.advice


@pytest.mark.parametrize(
    ("name", "days", "trusted", "seen", "advice"),
    [
        ("127.0.0.1", -1, True, "certificate has expired", "renew the certificate"),
        ("relay.example", 90, True, "IP address mismatch", "dial a name that is in the certificate"),
        ("127.0.0.1", 90, False, "unable to get local issuer certificate", "--ca-file"),
    ],
)
async def test_a_bad_certificate_is_described(
    relay: RelayProcess,
    certified: Certified,
    name: str,
    days: float,
    trusted: bool,
    seen: str,
    advice: str,
) -> None:
    async with proxied(relay.port, tls=certified.server(name, days=days)) as port:
        at = plan(port, scheme="wss", ca_file=certified.file if trusted else None)
        failed = await failure(check_tls, at)
        found = await whole(at)
    assert seen in failed.seen
    assert f"certificate of the relay for {name}, by trustme" in failed.seen
    assert advice in failed.advice
    assert list(found) == ["address", "connection", "tls", "the rest"]


async def test_tls_where_there_is_none(relay: RelayProcess) -> None:
    failed = await failure(check_tls, plan(relay.port, scheme="wss"))
    assert failed.seen == "what answers there does not speak TLS"


async def test_none_where_there_is_tls(relay: RelayProcess, certified: Certified) -> None:
    async with proxied(relay.port, tls=certified.server()) as port:
        failed = await failure(check_upgrade, plan(port))
    assert "wss://" in failed.advice


async def test_plain_text_over_a_network_is_a_warning() -> None:
    found = await check_tls(plan(80, host="relay.example"))
    assert found.status is Status.WARN


async def test_a_connection_is_timed(relay: RelayProcess) -> None:
    assert (await check_connection(plan(relay.port))).seen.startswith(f"127.0.0.1 port {relay.port} in ")


async def _pair(at: Plan) -> Finding:
    async with pair(at) as peers:
        return Finding(peers.conn_id)
