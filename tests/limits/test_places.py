"""How many may be there at a time, and what becomes of one more."""

import errno
import json
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from relayd.edge.listener import Listener, accept_connections
from relayd.ops.events import AcceptPaused, Event
from relayd.values import Address
from tests.command_line import relayd
from tests.contract.peers import Peers, peers_at, received
from tests.limits.clients import LOOPBACK, Answer, answer_on, asked, dialled, get, held, upgrade
from tests.relay_process import RelayProcess, until

Start = Callable[..., RelayProcess]

NO_RATE = ("--upgrade-rate", "0")
PATIENT = ("--handshake-timeout", "600")


@contextmanager
def honest_pair(relay: RelayProcess) -> Iterator[Callable[[], None]]:
    """A binary and its phone, and a function that has a frame go each way between them."""
    with peers_at(relay, "honest") as peers:
        yield partial(exchange, peers, *peers.phone())


def exchange(peers: Peers, phone: object, conn_id: str) -> None:
    """A frame each way."""
    phone.send('"up"')  # type: ignore[attr-defined]
    assert json.loads(peers.binary.recv(20)) == {"conn_id": conn_id, "frame": "up"}
    peers.to(conn_id, "down")
    assert received(phone) == "down"  # type: ignore[arg-type]


def silent(relay: RelayProcess, stack: ExitStack, sources: list[str]) -> None:
    """A connection of each of ``sources`` that says nothing, and is in a handshake."""
    for source in sources:
        stack.enter_context(held(relay, source))


def in_handshake(relay: RelayProcess, admin: Path) -> int:
    """How many the relay counts."""
    found: int = status_of(admin)["limits"]["handshakes"]["now"]
    return found


def status_of(admin: Path) -> dict[str, Any]:
    """The document of the admin socket."""
    done = relayd("status", "--json", "--admin-socket", str(admin))
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def unread(relay: RelayProcess, source: str, said: bytes = b"") -> bytes:
    """All that ``source`` is told who has ``said`` no more than that."""
    with dialled(relay, source) as connection:
        connection.sendall(said)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def limited(relay: RelayProcess) -> dict[str, float]:
    """Who was turned away, as the metrics say."""
    address = relay.event("metrics_listening")["address"]
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as scrape:
        scrape.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        body = b"".join(iter(lambda: scrape.recv(65536), b"")).partition(b"\r\n\r\n")[2]
    samples = (
        sample
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name == "relayd_limited_total"
    )
    return {sample.labels["limit"]: sample.value for sample in samples if sample.value}


def test_one_more_connection_than_there_may_be_gets_503_with_retry_after_until_somebody_leaves(
    start_public: Start,
) -> None:
    relay = start_public("--max-connections", "3", *NO_RATE)
    with honest_pair(relay) as exchanged:
        with held(relay, LOOPBACK, upgrade("/v1/server", "third")) as third:
            assert answer_on(third).status == 101
            for source in (LOOPBACK, "10.77.1.1"):
                answer = asked(relay, source, upgrade())
                assert (answer.status, answer.retry_after) == (503, 30)
            # Those who ask how it is are no connections.
            assert asked(relay, "10.77.1.1", get("/healthz")).status == 200
            exchanged()
        assert until(lambda: asked(relay, "10.77.1.1", upgrade()).status == 101, "place that is free")
        relay.event("limit_reached", bound="connections")
        exchanged()


def test_one_address_may_have_so_many_connections_and_no_more(start_public: Start) -> None:
    relay = start_public("--max-connections-per-address", "2", *NO_RATE)
    with ExitStack() as stack:
        for number in range(2):
            source = f"fd77:0:0:5::{number + 1}"
            mine = stack.enter_context(held(relay, source, upgrade("/v1/server", f"mine-{number}")))
            assert answer_on(mine).status == 101
        answer = asked(relay, "fd77:0:0:5::3", upgrade())
        assert (answer.status, answer.retry_after) == (503, 30)
        assert asked(relay, "fd77:0:0:6::1", upgrade()).status == 101
        # Whoever comes by way of a proxy on this machine may be anybody.
        for number in range(3):
            other = stack.enter_context(held(relay, LOOPBACK, upgrade("/v1/server", f"other-{number}")))
            assert answer_on(other).status == 101
    assert until(lambda: asked(relay, "fd77:0:0:5::3", upgrade()).status == 101, "place that is free")
    assert relay.event("limit_reached", bound="connections_per_address")["remote"].startswith(
        "[fd77:0:0:5::3]:"
    )


def test_one_more_in_a_handshake_than_there_may_be_gets_503_without_having_said_a_word(
    start_public: Start, tmp_path: Path
) -> None:
    relay = start_public("--max-handshakes", "4", "--admin-socket", str(tmp_path / "a"), *PATIENT, *NO_RATE)
    with honest_pair(relay) as exchanged, ExitStack() as stack:
        silent(relay, stack, [LOOPBACK, LOOPBACK, "10.77.1.1", "10.77.1.2"])
        until(lambda: in_handshake(relay, tmp_path / "a") == 4, "four in a handshake")
        for source in (LOOPBACK, "10.77.1.3", "fd77::5"):
            assert unread(relay, source) == (
                b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 600\r\n"
                b"content-length: 0\r\n\r\n"
            )
        exchanged()
        relay.event("limit_reached", bound="handshakes")
        stack.close()
        assert until(lambda: let_in(relay, "10.77.1.3"), "place that is free")
        until(lambda: in_handshake(relay, tmp_path / "a") == 0, "end of every handshake")
        exchanged()


def let_in(relay: RelayProcess, source: str) -> bool:
    """Whether ``source`` gets its upgrade."""
    with suppress(OSError):
        return asked(relay, source, upgrade()).status == 101
    return False


def test_one_address_cannot_hold_all_places_of_a_handshake(start_public: Start, tmp_path: Path) -> None:
    relay = start_public("--max-handshakes", "4", "--admin-socket", str(tmp_path / "a"), *PATIENT, *NO_RATE)
    with ExitStack() as stack:
        silent(relay, stack, ["fd77:0:0:5::1", "fd77:0:0:5::2"])
        until(lambda: in_handshake(relay, tmp_path / "a") == 2, "two in a handshake")
        for _ in range(5):
            assert unread(relay, "fd77:0:0:5::3").startswith(b"HTTP/1.1 503 ")
        assert let_in(relay, "fd77:0:0:6::1")
        assert let_in(relay, "10.77.1.1")
        assert relay.event("limit_reached")["bound"] == "handshakes_per_address"
        assert status_of(tmp_path / "a")["limits"]["handshakes_per_address"] == {"most": 2, "limit": 2}


def test_nor_can_one_by_way_of_a_proxy_that_says_who_he_is(start_public: Start, tmp_path: Path) -> None:
    proxied = ("--proxy-protocol", "require", "--trusted-proxies", "10.77.9.9")
    limits = ("--max-handshakes", "8", "--admin-socket", str(tmp_path / "a"))
    relay = start_public(*limits, *proxied, *PATIENT, *NO_RATE)

    def announced(client: str) -> bytes:
        return f"PROXY TCP4 {client} 192.0.2.99 5000 443\r\n".encode()

    with ExitStack() as stack:
        for number in range(4):
            stack.enter_context(held(relay, "10.77.9.9", announced("192.0.2.1")))
            until(
                partial(lambda n: most_handshakes(tmp_path / "a") == n + 1, number),
                "one more of his handshakes",
            )
        assert unread(relay, "10.77.9.9", announced("192.0.2.1")).startswith(b"HTTP/1.1 503 ")
        assert relay.event("limit_reached", bound="handshakes_per_address")["remote"] == "192.0.2.1:5000"
        answer = asked(relay, "10.77.9.9", announced("192.0.2.2") + upgrade())
        assert answer.status == 101
    until(lambda: in_handshake(relay, tmp_path / "a") == 0, "end of every handshake")
    assert most_handshakes(tmp_path / "a") == 0


def most_handshakes(admin: Path) -> int:
    """Of the address that has most."""
    found: int = status_of(admin)["limits"]["handshakes_per_address"]["most"]
    return found


def test_the_503_for_the_unread_is_read_even_by_those_who_have_asked_before_they_were_accepted(
    start_public: Start, tmp_path: Path
) -> None:
    relay = start_public("--max-handshakes", "1", "--admin-socket", str(tmp_path / "a"), *PATIENT)
    with held(relay, LOOPBACK):
        until(lambda: in_handshake(relay, tmp_path / "a") == 1, "one in a handshake")
        relay.process.send_signal(signal.SIGSTOP)
        try:
            with dialled(relay, LOOPBACK) as early:
                early.sendall(upgrade())
                relay.process.send_signal(signal.SIGCONT)
                assert answer_on(early).status == 503
                assert early.recv(1) == b""
        finally:
            relay.process.send_signal(signal.SIGCONT)


def test_one_too_many_for_a_handshake_in_tls_is_hung_up_on(start_public: Start, tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = tmp_path / "pair.pem"
    pem.touch(mode=0o600)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    files = ("--tls-cert", str(pem), "--tls-key", str(pem))
    relay = start_public("--max-handshakes", "1", "--admin-socket", str(tmp_path / "a"), *files, *PATIENT)
    with held(relay, LOOPBACK) as first:
        # The place is taken while TLS is not there yet, and given back with the upgrade.
        until(lambda: in_handshake(relay, tmp_path / "a") == 1, "one in a handshake")
        assert unread(relay, LOOPBACK) == b""
        relay.event("limit_reached", bound="handshakes")
        with trusting.wrap_socket(first, server_hostname="127.0.0.1") as secured:
            secured.sendall(upgrade("/v1/server", "a"))
            assert answer_on(secured).status == 101
            until(lambda: in_handshake(relay, tmp_path / "a") == 0, "end of a handshake")


def test_a_handshake_ends_with_its_answer_and_its_connection(start_public: Start, tmp_path: Path) -> None:
    relay = start_public("--max-handshakes", "1", "--admin-socket", str(tmp_path / "a"), *NO_RATE)
    # One who has his answer and does not hang up is in a handshake still; a WebSocket is not.
    with held(relay, LOOPBACK, upgrade("/v1/server", "a")) as first:
        assert answer_on(first).status == 101
        until(lambda: in_handshake(relay, tmp_path / "a") == 0, "end of a handshake")
        with held(relay, LOOPBACK, get("/healthz")) as second:
            assert answer_on(second).status == 200
            assert in_handshake(relay, tmp_path / "a") == 1
        until(lambda: in_handshake(relay, tmp_path / "a") == 0, "end of a handshake")


def test_status_and_metrics_say_how_many_there_are_and_who_was_turned_away(
    start_public: Start, tmp_path: Path
) -> None:
    flags = ("--max-connections", "2", "--max-handshakes", "9", "--upgrade-burst", "3", "--upgrade-rate", "1")
    relay = start_public(*flags, "--metrics-listen", "0", "--admin-socket", str(tmp_path / "a"))
    with held(relay, "10.77.1.1", upgrade("/v1/server", "a")) as binary:
        assert answer_on(binary).status == 101
        with held(relay, "10.77.1.2", upgrade("/v1/server", "b")) as other:
            assert answer_on(other).status == 101
            answers = [asked(relay, "10.77.1.1", upgrade()).status for _ in range(4)]
            assert answers == [503, 503, 429, 429]
            assert limited(relay) == {"connections": 2, "upgrade_rate": 2}
            limits = status_of(tmp_path / "a")["limits"]
            assert limits["connections"] == {"now": 2, "limit": 2}
            assert limits["connections_per_address"] == {"most": 1, "limit": 256}
            assert limits["handshakes"]["limit"] == 9
            assert limits["upgrade_rate"] == {"addresses": 2, "per_minute": 1, "burst": 3}
            assert limits["turned_away"] == {"connections": 2, "upgrade_rate": 2}
            page = relayd("status", "--admin-socket", str(tmp_path / "a")).stdout
            assert "places      2 of 2, by one address at most 1 of 256\n" in page
            assert "refused     connections 2, upgrade_rate 2\n" in page


def test_sighup_changes_how_many_there_may_be(start_public: Start, tmp_path: Path) -> None:
    path = tmp_path / "relayd.toml"
    path.write_text("max-connections = 1\nmax-handshakes = 50\n")
    relay = start_public("--config", str(path))
    assert relay.event("capacity")["connections"] == 1
    with held(relay, LOOPBACK, upgrade("/v1/server", "a")) as binary:
        assert answer_on(binary).status == 101
        assert asked(relay, LOOPBACK, upgrade()).status == 503
        path.write_text("max-connections = 2\nmax-handshakes = 50\n")
        relay.process.send_signal(signal.SIGHUP)
        relay.event("capacity", connections=2, handshakes=50)
        assert asked(relay, LOOPBACK, upgrade()).status == 101


def limited_to(relay: RelayProcess, limit: int) -> None:
    """From now on it may have so many files open."""
    resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (limit, limit))


def test_full_by_its_own_limits_a_relay_has_descriptors_left_for_metrics_and_operators(tmp_path: Path) -> None:
    # The hard limit is what counts, and to lower one's own is for ever. So a shell does it.
    admin = tmp_path / "a"
    relay = RelayProcess(
        tmp_path / "few.log",
        *("--metrics-listen", "0", "--admin-socket", str(admin), *PATIENT),
        wrapper=("sh", "-c", 'ulimit -n 256; exec "$@"', "sh"),
    )
    try:
        capacity = relay.event("capacity")
        assert (capacity["descriptors"], capacity["connections"], capacity["handshakes"]) == (256, 112, 16)
        with honest_pair(relay) as exchanged, ExitStack() as stack:
            for number in range(110):
                connection = stack.enter_context(held(relay, LOOPBACK, upgrade("/v1/server", f"s{number}")))
                assert answer_on(connection).status == 101
            assert asked(relay, LOOPBACK, upgrade()).status == 503
            until(lambda: in_handshake(relay, admin) == 0, "end of the handshake that got 503")
            silent(relay, stack, [LOOPBACK] * 16)
            until(lambda: in_handshake(relay, admin) == 16, "sixteen in a handshake")
            for _ in range(100):
                assert unread(relay, LOOPBACK).startswith(b"HTTP/1.1 503 ")
            exchanged()
            assert limited(relay) == {"connections": 1, "handshakes": 100}
            assert status_of(admin)["limits"]["connections"] == {"now": 112, "limit": 112}
        assert relay.events("accept_paused") == relay.events("internal_error") == []
        assert relay.stop() == 0
    finally:
        relay.process.kill()
        relay.process.wait()


def test_more_than_there_are_descriptors_for_is_a_warning_with_what_to_do(start_relay: Start) -> None:
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    relay = start_relay("--max-connections", str(min(descriptors, 1_000_000)), "--max-handshakes", "7")
    assert relay.event("descriptors_missing")["missing"] == 7 + 128
    assert relay.stop() == 0


def test_out_of_descriptors_those_who_are_in_go_on_and_those_who_come_wait(
    start_relay: Start, tmp_path: Path
) -> None:
    admin = tmp_path / "a"
    relay = start_relay("--metrics-listen", "0", "--admin-socket", str(admin), *PATIENT)
    relay.event("metrics_listening")
    with honest_pair(relay) as exchanged:
        limited_to(relay, len(os.listdir(f"/proc/{relay.pid}/fd")) + 3)
        with ExitStack() as stack:
            silent(relay, stack, [LOOPBACK] * 10)
            relay.event("accept_paused", error="EMFILE")
            for _ in range(20):
                exchanged()
            for _ in range(3):
                assert limited(relay) == {}
                descriptors = status_of(admin)["descriptors"]
                assert descriptors["open"] == descriptors["limit"]
            assert len(relay.events("accept_paused")) == 1
        answer: Answer | None = until(lambda: asked(relay, LOOPBACK, upgrade()), "answer once they have left")
        assert answer is not None
        assert answer.status == 101
        exchanged()
    assert len(relay.events("accept_paused")) == 1
    assert relay.stop() == 0


class Exhausted:
    """A listening socket of a process that has no descriptor left."""

    def __init__(self, sock: socket.socket, error: int) -> None:
        self._socket = sock
        self._error = error
        self.attempts = 0
        self.exhausted = True

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        self.attempts += 1
        assert self.attempts < 1_000, "tried without a pause"
        if self.exhausted:
            raise OSError(self._error, os.strerror(self._error))
        return self._socket.accept()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_out_of_something_accepting_is_tried_ten_times_a_second_and_not_more(
    autojump_clock: MockClock, error: int
) -> None:
    events: list[Event] = []
    accepted: list[socket.socket] = []

    async def handle(sock: socket.socket) -> None:
        accepted.append(sock)

    with socket.create_server(("127.0.0.1", 0)) as real:
        real.setblocking(False)
        scarce = Exhausted(real, error)
        listener = Listener(scarce, Address("127.0.0.1", 0))  # type: ignore[arg-type]
        with socket.create_connection(real.getsockname()):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    accept_connections, listener, lambda sock: sock, handle, nursery, events.append
                )
                await trio.sleep(10)
                assert 99 <= scarce.attempts <= 101
                assert events == [AcceptPaused("127.0.0.1:0", errno.errorcode[error])]
                scarce.exhausted = False
                await trio.sleep(0.2)
                assert len(accepted) == 1
                nursery.cancel_scope.cancel()
            accepted[0].close()
