"""How often one address may ask for an upgrade."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from relayd.edge.admission import DIALS_PER_UPGRADE
from relayd.ops.events import LimitReached
from relayd.values import Address
from tests.attacks.tls import client_hello
from tests.edge.pairs import Pair, under_tls
from tests.limits.clients import LOOPBACK, asked, get, upgrade
from tests.network import HERE
from tests.relay_process import RelayProcess
from tests.trio_client import RelayUnderTest, relay_under_test

Start = Callable[..., RelayProcess]

SLOW = ("--upgrade-rate", "1", "--upgrade-burst", "3")
"""A token a minute: however slow this machine is, none comes while a test runs."""

EVERY_ADDRESS = (Address("", 0),)


async def status_of(relay: RelayUnderTest, source: str, request: bytes) -> tuple[int, str]:
    """Status and Retry-After of what ``source`` is told."""
    stream = await trio.open_tcp_stream(HERE, relay.port, local_address=source)
    async with stream:
        await stream.send_all(request)
        head = bytes(await stream.receive_some(4096)).decode("latin-1").lower()
    told = [line.partition(": ")[2] for line in head.split("\r\n") if line.startswith("retry-after:")]
    return int(head.split()[1]), told[0] if told else ""


async def test_by_default_20_at_once_and_10_a_minute_from_then_on(
    network: None, autojump_clock: MockClock
) -> None:
    async with relay_under_test(listen=EVERY_ADDRESS) as relay:
        for _ in range(20):
            assert await status_of(relay, "10.77.1.1", upgrade()) == (101, "")
        assert await status_of(relay, "10.77.1.1", upgrade()) == (429, "6")
        await trio.sleep(2.5)
        assert await status_of(relay, "10.77.1.1", upgrade()) == (429, "4")
        await trio.sleep(3.5)
        assert await status_of(relay, "10.77.1.1", upgrade()) == (101, "")
        assert await status_of(relay, "10.77.1.1", upgrade()) == (429, "6")
        assert await status_of(relay, "10.77.1.2", upgrade()) == (101, "")
        await trio.sleep(120)
        for _ in range(20):
            assert await status_of(relay, "10.77.1.1", upgrade()) == (101, "")
        assert await status_of(relay, "10.77.1.1", upgrade()) == (429, "6")
        remotes = [event.remote.rpartition(":")[0] for event in relay.seen(LimitReached)]
        assert remotes == ["10.77.1.1"] * 4
        assert {event.bound for event in relay.seen(LimitReached)} == {"upgrade_rate"}


async def test_who_waits_as_long_as_he_was_told_is_let_in(network: None, autojump_clock: MockClock) -> None:
    async with relay_under_test(listen=EVERY_ADDRESS, upgrade_rate=7, upgrade_burst=1) as relay:
        for _ in range(5):
            assert await status_of(relay, "10.77.1.1", upgrade()) == (101, "")
            status, told = await status_of(relay, "10.77.1.1", upgrade())
            assert status == 429
            # 60 / 7 is 8.57.
            assert told == "9"
            await trio.sleep(float(told))


def test_a_64_of_ipv6_counts_as_one_address_and_so_do_both_forms_of_an_ipv4(start_public: Start) -> None:
    relay = start_public(*SLOW)
    for source in ("fd77:0:0:5::1", "fd77:0:0:5::2:3", "fd77:0:0:5:ffff:ffff:ffff:ffff"):
        assert asked(relay, source, upgrade()).status == 101
    assert asked(relay, "fd77:0:0:5::9", upgrade()).status == 429
    assert asked(relay, "fd77:0:0:6::1", upgrade()).status == 101
    # Over the dual-stack socket it is ::ffff:10.77.0.9.
    assert [asked(relay, "10.77.0.9", upgrade()).status for _ in range(4)] == [101, 101, 101, 429]


def test_a_proxy_on_this_machine_that_names_nobody_is_not_limited(start_public: Start, tmp_path: Path) -> None:
    relay = start_public(*SLOW)
    assert [asked(relay, LOOPBACK, upgrade()).status for _ in range(30)] == [101] * 30


@pytest.mark.parametrize("header", ["X-Forwarded-For: {}", 'Forwarded: for="{}"'])
def test_behind_a_trusted_proxy_each_client_has_its_own_limit(start_public: Start, header: str) -> None:
    relay = start_public(*SLOW, "--trusted-proxies", "10.77.9.9")

    def for_client(client: str, by: str = "10.77.9.9") -> int:
        return asked(relay, by, upgrade(more=header.format(client).encode() + b"\r\n")).status

    assert [for_client("192.0.2.1") for _ in range(4)] == [101, 101, 101, 429]
    assert relay.event("limit_reached")["remote"] == "192.0.2.1"
    assert for_client("192.0.2.2") == 101
    # What names nobody is the proxy's own, and a proxy is not limited.
    assert [asked(relay, "10.77.9.9", upgrade()).status for _ in range(5)] == [101] * 5
    # Who is no proxy is who he is, whomever he names.
    assert [for_client(f"192.0.2.{last}", by="10.77.1.1") for last in range(3, 7)] == [101, 101, 101, 429]


def test_429_comes_before_any_look_at_the_websocket(start_public: Start) -> None:
    relay = start_public(*SLOW)
    bad = upgrade().replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"no key")
    # An attempt that fails is an attempt.
    assert [asked(relay, "10.77.1.1", bad).status for _ in range(3)] == [400] * 3
    for request in (bad, upgrade(), get("/v1/server"), upgrade("/v2/server")):
        answer = asked(relay, "10.77.1.1", request)
        assert answer.status == 429
        assert 1 <= (answer.retry_after or 0) <= 60
    assert asked(relay, "10.77.1.1", get("/healthz")).status == 200
    assert asked(relay, "10.77.1.1", get("/nowhere")).status == 404


def test_0_turns_it_off(start_public: Start) -> None:
    relay = start_public("--upgrade-rate", "0", "--upgrade-burst", "1")
    assert [asked(relay, "10.77.1.1", upgrade()).status for _ in range(50)] == [101] * 50


async def test_who_dials_30_times_as_often_as_he_may_ask_is_not_heard(
    network: None, mock_clock: MockClock
) -> None:
    # On a clock that stands still no token comes while the test runs.
    async with relay_under_test(listen=EVERY_ADDRESS, upgrade_rate=1, upgrade_burst=1) as relay:
        for _ in range(DIALS_PER_UPGRADE):
            assert await status_of(relay, "10.77.1.1", get("/healthz")) == (200, "")
        assert await status_of(relay, "10.77.1.1", get("/healthz")) == (503, "5")
        assert [event.bound for event in relay.seen(LimitReached)] == ["dial_rate"]
        assert await status_of(relay, "10.77.1.2", get("/healthz")) == (200, "")
        for _ in range(2 * DIALS_PER_UPGRADE):
            assert await status_of(relay, LOOPBACK, get("/healthz")) == (200, "")
        # As long as he was told is long enough.
        mock_clock.jump(5)
        assert await status_of(relay, "10.77.1.1", get("/healthz")) == (200, "")


async def test_handshakes_of_tls_that_are_begun_and_left_cost_us_no_more_than_that(
    network: None, mock_clock: MockClock, tmp_path: Path
) -> None:
    pair = Pair.made_in(tmp_path)
    async with under_tls(pair, listen=EVERY_ADDRESS, upgrade_rate=1, upgrade_burst=1) as relay:
        # The same bytes again and again: they cost him nothing, and us a signature for each answer.
        hello = client_hello()
        for _ in range(DIALS_PER_UPGRADE):
            assert await answered(relay, "10.77.1.1", hello)
        assert not await answered(relay, "10.77.1.1", hello)
        assert await answered(relay, "10.77.1.2", hello)
        assert [event.bound for event in relay.seen(LimitReached)] == ["dial_rate"]


async def answered(relay: RelayUnderTest, source: str, hello: bytes) -> bool:
    """Whether ``source`` gets anything for ``hello``, before it hangs up."""
    stream = await trio.open_tcp_stream(HERE, relay.port, local_address=source)
    async with stream:
        try:
            await stream.send_all(hello)
            return await stream.receive_some(1) != b""
        except trio.BrokenResourceError:
            return False


def test_sighup_changes_the_rate_and_begins_anew(start_public: Start, tmp_path: Path) -> None:
    path = tmp_path / "relayd.toml"
    path.write_text("upgrade-rate = 1\nupgrade-burst = 1\n")
    relay = start_public("--config", str(path))
    assert [asked(relay, "10.77.1.1", upgrade()).status for _ in range(2)] == [101, 429]
    path.write_text("upgrade-rate = 1\nupgrade-burst = 2\n")
    relay.process.send_signal(signal.SIGHUP)
    relay.event("reloaded", changed="upgrade-burst")
    assert [asked(relay, "10.77.1.1", upgrade()).status for _ in range(3)] == [101, 101, 429]


def test_many_addresses_are_all_let_in_while_one_that_asks_too_often_is_not(start_public: Start) -> None:
    relay = start_public(*SLOW)
    while asked(relay, "10.77.0.9", upgrade()).status == 101:
        pass
    assert {asked(relay, f"10.77.1.{number}", upgrade()).status for number in range(1, 200)} == {101}
    assert asked(relay, "10.77.0.9", upgrade()).status == 429
