"""Contract, "Heartbeat" and "Shutdown", with clients that are not ours."""

import signal
from collections.abc import Callable

import pytest

from tests.contract.peers import closing, deaf_peer, output_until, peers_at, received
from tests.relay_process import WAIT, RelayProcess

EVENT = {"/v1/server": "binary_released", "/v1/client": "phone_unregistered"}


@pytest.mark.parametrize("path", EVENT)
def test_peer_that_answers_no_ping_is_closed_with_1011_and_those_that_answer_live_on(
    start_relay: Callable[..., RelayProcess], path: str
) -> None:
    relay = start_relay("--heartbeat-interval", "0.2", "--heartbeat-timeout", "0.3")
    with peers_at(relay, "server") as peers:
        phone, conn_id = peers.phone()
        server_id = "server" if path == "/v1/client" else "deaf"
        for _ in range(3):
            with deaf_peer(relay, path, server_id) as heard:
                got = output_until(heard, b"\x03\xf3heartbeat timeout")
            assert b"\x89\x00" in got
        relay.event(EVENT[path], server_id=server_id, code=1011, reason="heartbeat timeout")
        peers.to(conn_id, "alive")
        assert received(phone) == "alive"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_closes_every_connection_with_1001_and_exits_0(
    start_relay: Callable[..., RelayProcess], number: signal.Signals
) -> None:
    relay = start_relay()
    with peers_at(relay, "a") as some, peers_at(relay, "b") as others:
        everybody = [some.binary, some.phone()[0], others.binary, *(others.phone()[0] for _ in range(3))]
        assert relay.stop(number) == 0
        assert [closing(peer) for peer in everybody] == [(1001, "shutting down")] * len(everybody)


def test_peer_that_never_answers_delays_no_other_and_a_second_signal_exits_at_once(
    start_relay: Callable[..., RelayProcess],
) -> None:
    relay = start_relay("--drain-timeout", "600")
    with peers_at(relay, "server") as peers, deaf_peer(relay, "/v1/client", "server"):
        relay.event("phone_registered")
        phone, _ = peers.phone()
        relay.process.send_signal(signal.SIGTERM)
        assert closing(phone) == (1001, "shutting down")
        assert closing(peers.binary) == (1001, "shutting down")
        assert not relay.events("stopped")
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(WAIT) == 128 + signal.SIGTERM


def test_peer_that_never_answers_is_cut_off_when_the_drain_timeout_passes(
    start_relay: Callable[..., RelayProcess],
) -> None:
    relay = start_relay("--drain-timeout", "0.3")
    with deaf_peer(relay, "/v1/server", "deaf") as heard:
        relay.event("binary_claimed")
        assert relay.stop() == 0
        output_until(heard, b"\x03\xe9shutting down")
    relay.event("stopped", unfinished=1)
