"""What the metrics say is what has happened, and no more than that."""

import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock
from wsproto.events import Ping

from relayd.edge.tally import Histogram
from relayd.edge.timing import Timing
from relayd.ops import survey
from relayd.ops.events import AcceptPaused, InternalError, LimitReached, RequestRefused
from relayd.ops.metrics import FAMILIES, Metrics
from relayd.ops.metrics_server import serve_metrics
from relayd.values import Address
from tests.edge.pairs import Pair, under_tls
from tests.routing.fakes import FakeConnection
from tests.trio_client import Client, RelayUnderTest, relay_under_test

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]

ON = (Address("127.0.0.1", 0),)

MESSAGES = 100
"""Of 200,000 bytes, these are many times what the kernel's buffers between relay and peer hold."""


async def scraped(relay: RelayUnderTest) -> Samples:
    """All samples by name and labels, as a parser that is not ours reads them."""
    text = (await Metrics(relay.relay).text(as_openmetrics=False)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """One sample; 0 if it is not there."""
    return samples.get((name, frozenset(labels.items())), 0.0)


def by(samples: Samples, name: str, label: str) -> dict[str, float]:
    """What is not 0 of a metric, summed by a label."""
    sums: Counter[str] = Counter()
    for (found, labels), number in samples.items():
        if found == name and number:
            sums[dict(labels)[label]] += int(number)
    return dict(sums)


@asynccontextmanager
async def relay_with_metrics(**settings: Any) -> AsyncIterator[tuple[RelayUnderTest, int]]:
    """A relay whose metrics are served too, and on which port."""
    async with relay_under_test(metrics_listen=ON, **settings) as relay, trio.open_nursery() as nursery:
        addresses = await nursery.start(serve_metrics, relay.relay, relay.relay.emit)
        yield relay, int(addresses[0].rpartition(":")[2])
        nursery.cancel_scope.cancel()


async def asked(port: int, request: bytes) -> bytes:
    """The whole answer to a request."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        return b"".join([part async for part in stream])


async def vanish(client: Client, relay: RelayUnderTest) -> None:
    """Hang up without a Close frame, and wait until the relay is done with it."""
    before = len(relay.relay.connections)
    await client.stream.aclose()
    await relay.until(lambda: len(relay.relay.connections) < before)


async def test_frames_and_bytes_are_counted_by_direction_and_stay_when_their_connection_ends() -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary()
        phone = await relay.phone()
        for _ in range(3):
            await phone.send_text("1")
        for _ in range(3):
            envelope = await binary.next_message()
        await binary.send_text(envelope)
        assert await phone.next_message() == "1"
        live = await scraped(relay)
        await vanish(phone, relay)
        ended = await scraped(relay)
    for samples in (live, ended):
        # To each peer its 101 went as well, and to the binary a close notice in the end.
        frames = by(samples, "relayd_frames_total", "direction")
        assert frames == {
            "from_binary": 1,
            "from_phone": 3,
            "to_binary": 4 + (samples is ended),
            "to_phone": 2,
        }
    size = len(envelope)
    assert by(live, "relayd_transferred_bytes_total", "direction").items() >= {
        ("from_binary", size + 6),
        ("from_phone", 3 * 7),
    }
    assert value(ended, "relayd_transferred_bytes_total", direction="from_phone") == 3 * 7
    assert value(ended, "relayd_transferred_bytes_total", direction="to_phone") == value(
        live, "relayd_transferred_bytes_total", direction="to_phone"
    )


async def test_no_total_goes_down_while_connections_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_PER_TURN", 1)
    totals: list[float] = []

    async def look(relay: RelayUnderTest) -> None:
        while True:
            samples = await scraped(relay)
            totals.append(value(samples, "relayd_frames_total", direction="from_phone"))
            await trio.lowlevel.checkpoint()

    async def come_and_go(relay: RelayUnderTest) -> None:
        for _ in range(10):
            phone = await relay.phone()
            for _ in range(5):
                await phone.send_text("1")
            await phone.close()

    async with relay_under_test() as relay:
        binary = await relay.binary()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, relay)
            nursery.start_soon(binary.answer_pings)
            async with trio.open_nursery() as phones:
                for _ in range(8):
                    phones.start_soon(come_and_go, relay)
            nursery.cancel_scope.cancel()
        await relay.until(lambda: len(relay.relay.connections) == 1)
        last = await scraped(relay)
    assert totals == sorted(totals)
    assert len(set(totals)) > 10
    assert value(last, "relayd_frames_total", direction="from_phone") == 8 * 10 * 5
    assert value(last, "relayd_closes_total", kind="phone", side="peer", code="1000") == 80


async def test_connections_are_counted_by_kind_and_state(autojump_clock: MockClock) -> None:
    def states(samples: Samples) -> dict[str, float]:
        return {
            f"{kind} {state}": value(samples, "relayd_connections", kind=kind, state=state)
            for kind in ("binary", "phone", "unknown")
            for state in ("connected", "transit", "grace", "handshake")
            if value(samples, "relayd_connections", kind=kind, state=state)
        }

    async with relay_under_test() as relay:
        stranger = await relay.connect()
        await relay.until(lambda: relay.relay.admission.handshakes)
        assert states(await scraped(relay)) == {"unknown handshake": 1}
        await stranger.stream.aclose()
        binary = await relay.binary()
        await relay.phone()
        await relay.until(lambda: relay.relay.registry.connected_phones)
        await relay.binary()
        await relay.until(lambda: len(relay.relay.connections) == 3)
        # The second binary waits for what becomes of the first.
        assert states(await scraped(relay)) == {
            "binary connected": 1,
            "binary transit": 1,
            "phone connected": 1,
        }
        await vanish(binary, relay)
    async with relay_under_test() as relay:
        await vanish(await relay.binary(), relay)
        assert states(await scraped(relay)) == {"binary grace": 1}
        await trio.sleep(31)
        assert states(await scraped(relay)) == {}
        assert value(await scraped(relay), "relayd_grace_expiries_total") == 1


async def test_claims_and_registrations_are_counted_by_outcome(autojump_clock: MockClock) -> None:
    async with relay_under_test(max_phones=1) as relay:
        phone = await relay.phone()
        assert (await phone.closed())[0] == 4404
        silent = await relay.binary()
        newcomer = await relay.binary()
        assert (await silent.closed())[0] == 1011
        async with trio.open_nursery() as nursery:
            nursery.start_soon(newcomer.answer_pings)
            refused = await relay.binary()
            assert (await refused.closed())[0] == 4409
            nursery.cancel_scope.cancel()
        await vanish(newcomer, relay)
        await relay.binary()
        await relay.phone()
        crowded = await relay.phone()
        assert (await crowded.closed())[0] == 4429
        await relay.until(lambda: len(relay.relay.connections) == 2)
        samples = await scraped(relay)
    assert by(samples, "relayd_claims_total", "outcome") == {
        "claimed": 1,
        "took_over": 1,
        "refused": 1,
        "reclaimed": 1,
    }
    assert by(samples, "relayd_registrations_total", "outcome") == {
        "no_server": 1,
        "registered": 1,
        "too_many_phones": 1,
    }
    closes = [
        dict(labels) for (name, labels), number in samples.items() if name == "relayd_closes_total" and number
    ]
    assert sorted((labels["kind"], labels["side"], labels["code"]) for labels in closes) == [
        ("binary", "network", "1006"),
        ("binary", "relay", "1011"),
        ("binary", "relay", "4409"),
        ("phone", "relay", "4404"),
        ("phone", "relay", "4429"),
    ]


async def test_close_is_counted_by_kind_side_and_code_and_a_code_that_nobody_knows_as_other() -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary()
        for code in (3777, 4999, 1000, 4404):
            phone = await relay.phone()
            await phone.close(code)
        await binary.close(1001)
        await relay.until(lambda: not relay.relay.connections)
        lonely = await relay.phone("elsewhere")
        assert (await lonely.closed())[0] == 4404
        await relay.until(lambda: not relay.relay.connections)
        samples = await scraped(relay)
    closes = {
        tuple(sorted(labels)): number
        for (name, labels), number in samples.items()
        if name == "relayd_closes_total" and number
    }
    assert closes == {
        (("code", "other"), ("kind", "phone"), ("side", "peer")): 2,
        (("code", "1000"), ("kind", "phone"), ("side", "peer")): 1,
        (("code", "4404"), ("kind", "phone"), ("side", "peer")): 1,
        (("code", "1001"), ("kind", "binary"), ("side", "peer")): 1,
        (("code", "4404"), ("kind", "phone"), ("side", "relay")): 1,
    }


async def test_envelopes_that_go_nowhere_are_counted_by_reason() -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary()
        for text in ("{", '{"conn_id":"c-x","frame":1}', '{"conn_id":"c-y","frame":1}', '{"push_wake":{}}'):
            await binary.send_text(text)
        await relay.until(lambda: sum(relay.relay.tally.drops.values()) == 4)
        drops = by(await scraped(relay), "relayd_dropped_envelopes_total", "reason")
    assert drops == {"malformed": 1, "unknown_phone": 2, "push_wake": 1}


async def test_pauses_of_accepting_and_faults_are_counted() -> None:
    async with relay_under_test() as relay:
        relay.relay.emit(AcceptPaused("127.0.0.1:1", "EMFILE"))
        relay.relay.emit(InternalError("127.0.0.1:2", "ZeroDivisionError"))
        samples = await scraped(relay)
    assert value(samples, "relayd_accept_pauses_total") == 1
    assert value(samples, "relayd_internal_errors_total") == 1
    assert [event.name for event in relay.events[-2:]] == ["accept_paused", "internal_error"]


async def test_certificates_are_counted_by_what_was_read_from_their_files(tmp_path: Path) -> None:
    pair = Pair.made_in(tmp_path)
    async with under_tls(pair) as relay:
        # From the start: an alert on what is new would miss a series' first value.
        refused = ("relayd_certificates_read_total", frozenset({("outcome", "refused")}))
        assert (await scraped(relay))[refused] == 0
        pair.chain.write_text("rubbish")
        relay.relay.apply(relay.settings)
        relay.relay.apply(relay.settings)
        read = by(await scraped(relay), "relayd_certificates_read_total", "outcome")
        assert read == {"loaded": 1, "refused": 2}


async def test_requests_are_counted_by_endpoint_and_status_even_those_that_the_log_does_not_show() -> None:
    async with relay_under_test() as relay:
        await relay.binary()
        upgrade = (
            b"GET /v2/client HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        for request, status in (
            (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            (b"GET /secret HTTP/1.1\r\nHost: a\r\n\r\n", 404),
            (b"PUT /v1/server HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (b"rubbish\r\n\r\n", 400),
            (upgrade, 400),
        ):
            assert (await asked(relay.port, request)).startswith(b"HTTP/1.1 %d " % status)
        requests = {
            (dict(labels)["endpoint"], dict(labels)["status"]): number
            for (name, labels), number in (await scraped(relay)).items()
            if name == "relayd_http_requests_total" and number
        }
    assert requests == {
        ("server", "101"): 1,
        ("healthz", "200"): 1,
        ("other", "404"): 1,
        ("server", "405"): 1,
        ("other", "400"): 1,
        ("client", "400"): 1,
    }
    assert sorted(event.status for event in relay.seen(RequestRefused)) == [400, 404, 405]


async def test_round_trip_is_from_the_ping_to_the_pong(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with relay_under_test(metrics_listen=ON) as relay:
        binary = await relay.binary()
        ping = await binary.next_event()
        assert isinstance(ping, Ping)
        await trio.sleep(2)
        await binary.send(ping.response())
        await relay.until(lambda: relay.relay.tally.round_trips.sum)
        samples = await scraped(relay)
    name = "relayd_heartbeat_round_trip_seconds"
    assert value(samples, f"{name}_bucket", le="1.0") == 0
    assert value(samples, f"{name}_bucket", le="2.5") == value(samples, f"{name}_count") == 1
    assert value(samples, f"{name}_sum") == pytest.approx(2, abs=0.5)


async def flooded_phone(relay: RelayUnderTest, clock: MockClock) -> tuple[Client, Client, str]:
    """A binary, a phone that does not read what has come for it, and a short envelope for it."""
    # What the kernel's own timers owe us (delayed acknowledgements) comes in real time.
    clock.autojump_threshold = 0.1
    binary = await relay.binary()
    phone = await relay.phone()
    phone.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    await phone.send_text("1")
    envelope = await binary.next_message()
    for _ in range(MESSAGES):
        await binary.send_text(envelope.replace('"frame":1', f'"frame":"{"x" * 200_000}"'))
    await trio.sleep(1)
    return binary, phone, envelope


async def test_time_inside_lasts_until_the_peer_has_taken_the_last_of_it(autojump_clock: MockClock) -> None:
    async with relay_under_test(metrics_listen=ON, outbox_bytes=MESSAGES * 300_000) as relay:
        inside, timing = relay.relay.tally.inside, relay.relay._shared.timing
        assert timing is not None
        timing._until_next = 10**9
        binary, phone, envelope = await flooded_phone(relay, autojump_clock)
        assert inside.buckets()[-1][1] == 0
        timing._until_next = 1
        await binary.send_text(envelope)
        await trio.sleep(1)
        await relay.until(lambda: timing._under_way)
        await trio.sleep(3)
        assert inside.buckets()[-1][1] == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(phone.answer_pings)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert inside.buckets()[-1][1] == 1
        assert inside.sum >= 3


async def test_time_inside_of_what_goes_out_at_once_is_short_and_of_what_never_does_is_not_told(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test(metrics_listen=ON, outbox_bytes=MESSAGES * 300_000) as relay:
        inside, timing = relay.relay.tally.inside, relay.relay._shared.timing
        assert timing is not None
        binary, phone, envelope = await flooded_phone(relay, autojump_clock)
        # The very first read is always timed, and the binary took it at once.
        assert inside.buckets()[0][1] >= 1
        timing._until_next = 1
        await binary.send_text(envelope)
        await trio.sleep(1)
        await relay.until(lambda: timing._under_way)
        counted = inside.buckets()[-1][1]
        await vanish(phone, relay)
        await relay.until(lambda: not timing._under_way)
        assert inside.buckets()[-1][1] == counted


def test_what_a_dead_socket_never_takes_has_no_time() -> None:
    class Dead(FakeConnection):
        def try_send(self, frames: object) -> int:
            raise BrokenPipeError

    async def main() -> None:
        times: list[float] = []
        timing = Timing(times.append, times.append)
        async with trio.open_nursery() as nursery:
            for connection in (FakeConnection(), Dead()):
                connection.outbox.put(b"1")
                connection.outbox.flush()
                timing.handed_on(trio.current_time(), [connection.outbox], nursery)
        assert len(times) == 1

    trio.run(main)


def test_one_read_in_64_is_timed_and_never_in_a_rhythm() -> None:
    async def main() -> list[int]:
        timing = Timing(lambda seconds: None, lambda seconds: None)
        return [number for number in range(64_000) if timing.sample() is not None]

    timed = trio.run(main)
    assert 800 < len(timed) < 1250
    assert len({later - earlier for earlier, later in pairwise(timed)}) > 30


async def test_nothing_is_timed_without_metrics() -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary()
        phone = await relay.phone()
        await phone.send_text("1")
        await binary.next_message()
        samples = await scraped(relay)
    assert value(samples, "relayd_frame_inside_seconds_count") == 0
    assert relay.relay._shared.timing is None


async def test_backlog_is_seen_in_the_sum_and_in_the_fullest(autojump_clock: MockClock) -> None:
    async with relay_with_metrics(outbox_bytes=MESSAGES * 300_000) as (relay, _):
        await flooded_phone(relay, autojump_clock)
        await trio.sleep(3)
        samples = await scraped(relay)
        held = sum(connection.outbox.charge for connection in relay.relay.connections)
    assert value(samples, "relayd_outbox_bytes", kind="phone") == held > 1_000_000
    name = "relayd_outbox_fullest_bytes"
    above = value(samples, f"{name}_count") - value(samples, f"{name}_bucket", le="1.048576e+06")
    assert above >= 1
    assert value(samples, f"{name}_sum") >= held


async def test_loop_lag_is_how_late_a_task_wakes(mock_clock: MockClock) -> None:
    async with relay_with_metrics() as (relay, _):
        lag = relay.relay.tally.loop_lag
        await trio.testing.wait_all_tasks_blocked()
        # Nobody else had a turn for 0.55 s, of which 0.25 s were to be slept.
        mock_clock.jump(0.55)
        await relay.until(lambda: lag.sum)
        assert lag.sum == pytest.approx(0.3)
        assert dict(lag.buckets())[0.25] == 0
        assert dict(lag.buckets())[0.5] == 1


def test_histogram_counts_a_value_on_a_bound_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for number in (0.0, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(number)
    assert histogram.buckets() == [(1.0, 2), (2.0, 4), (float("inf"), 5)]
    assert histogram.sum == 7.5


async def test_every_label_is_of_its_closed_set_whatever_peers_send(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        binary = await relay.binary("evil-server", **{"x-pyrycode-version": "evil-version"})
        phone = await relay.phone("evil-server", **{"x-pyrycode-device-name": "evil-device"})
        await relay.until(lambda: relay.relay.registry.connected_phones)
        await phone.close(4666)
        await asked(relay.port, b"GET /evil HTTP/1.1\r\nHost: evil\r\n\r\n")
        await asked(relay.port, b"EVIL /v1/server HTTP/1.1\r\nHost: evil\r\n\r\n")
        await vanish(binary, relay)
        text = (await Metrics(relay.relay).text(as_openmetrics=False)).decode()
        samples = await scraped(relay)
    assert "evil" not in text.lower()
    assert "4666" not in text
    families = {family.name: family for family in FAMILIES}
    checked = 0
    for name, labels in samples:
        if name in families:
            assert {label for label, _ in labels} == set(families[name].labels), name
            assert all(text in families[name].labels[label] for label, text in labels), (name, labels)
            checked += 1
    assert checked > 50


GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n%b\r\n"


async def test_scrape_is_text_and_openmetrics_if_asked_for() -> None:
    async with relay_with_metrics() as (_, port):
        plain = await asked(port, GET % b"")
        head, _, body = plain.partition(b"\r\n\r\n")
        assert b"\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8" in head
        assert b"\nrelayd_draining 0.0\n" in body
        prometheus = b"Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3\r\n"
        opened = await asked(port, GET % prometheus)
        assert b"\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8" in opened
        assert opened.endswith(b"\n# EOF\n")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET /v1/server HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (GET % (b"A: b\r\n" * 101), 431),
        (b"GET /metrics?name[]=x HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (GET % b"Accept: text/plain;version=abc;escaping=x\r\n", 200),
        (GET % b"Accept: application/openmetrics-text;version=\xff\r\n", 200),
    ],
)
async def test_another_request_gets_its_error(request_head: bytes, status: int) -> None:
    async with relay_with_metrics() as (_, port):
        assert (await asked(port, request_head)).startswith(b"HTTP/1.1 %d " % status)


async def test_slow_scraper_is_sent_away_and_for_one_more_than_eight_the_oldest_is(
    autojump_clock: MockClock,
) -> None:
    # A busy kernel may take a moment to hand on what one end of a loopback connection sent the other.
    autojump_clock.autojump_threshold = 0.02
    async with relay_with_metrics(handshake_timeout=7.0) as (relay, port):
        began = trio.current_time()
        slow = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(8)]
        for stream in slow:
            await stream.send_all(b"GET /met")
        await trio.testing.wait_all_tasks_blocked()
        oldest = slow.pop(0)
        text = (await asked(port, GET % b"")).decode()
        assert text.startswith("HTTP/1.1 200 ")
        assert await oldest.receive_some() == b""
        assert trio.current_time() < began + 7
        assert '\nrelayd_limited_total{limit="scrapes"} 1.0\n' in text
        (event,) = relay.seen(LimitReached)
        host, port_of_oldest = oldest.socket.getsockname()
        assert event == LimitReached("scrapes", f"{host}:{port_of_oldest}")
        await oldest.aclose()
        for stream in slow:
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 408 ")
            await stream.aclose()
        assert began + 7 <= trio.current_time() < began + 14
        assert (await asked(port, GET % b"")).startswith(b"HTTP/1.1 200 ")


async def test_fault_in_a_scrape_costs_that_scrape_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> bytes:
        raise ZeroDivisionError("secret")

    async with relay_with_metrics() as (relay, port):
        with monkeypatch.context() as patched:
            patched.setattr(Metrics, "text", broken)
            assert await asked(port, GET % b"") == b""
        assert [event.name for event in relay.events[-1:]] == ["internal_error"]
        assert "secret" not in str(relay.events)
        assert (await asked(port, GET % b"")).startswith(b"HTTP/1.1 200 ")
        await (await relay.binary()).stream.aclose()


async def test_metrics_are_there_until_the_drain_is_over(autojump_clock: MockClock) -> None:
    async with relay_with_metrics() as (relay, port), trio.open_nursery() as nursery:
        await relay.binary()
        nursery.start_soon(relay.relay.drain, "SIGTERM")
        await relay.until(lambda: relay.relay.draining)
        assert b"\nrelayd_draining 1.0\n" in await asked(port, GET % b"")


def test_without_metrics_the_library_is_not_even_loaded() -> None:
    program = "import sys, relayd.cli; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_a_reload_changes_how_long_the_metrics_listener_waits_for_a_request(
    autojump_clock: MockClock,
) -> None:
    async def waited() -> float:
        """Seconds until half a request is answered with 408."""
        begun = trio.current_time()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\n")
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 408 ")
        return trio.current_time() - begun

    async with relay_with_metrics(handshake_timeout=5.0) as (relay, port):
        assert await waited() == pytest.approx(5.0)
        relay.relay.apply(evolve(relay.relay.settings, handshake_timeout=50.0))
        assert await waited() == pytest.approx(50.0)
