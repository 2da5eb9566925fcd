"""The seven cases of the original relay's forwarder, by name, with clients that are not ours."""

import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from tests.contract.peers import Peers, closing, peers_at, received, unused_server_id
from tests.relay_process import RelayProcess, until


@pytest.fixture
def peers(relay: RelayProcess) -> Iterator[Peers]:
    with peers_at(relay, unused_server_id()) as found:
        yield found


def test_routes_to_the_addressed_phone_alone(peers: Peers) -> None:
    (first, first_id), (second, second_id) = peers.phone(), peers.phone()
    peers.to(first_id, "for the first")
    peers.to(second_id, "for the second")
    assert received(first) == "for the first"
    assert received(second) == "for the second"


def test_many_phones_exact_one_to_one(peers: Peers) -> None:
    phones = [peers.phone() for _ in range(16)]
    for number in range(50):
        for _, conn_id in phones:
            peers.to(conn_id, [conn_id, number])
    for phone, conn_id in phones:
        assert [received(phone) for _ in range(50)] == [[conn_id, number] for number in range(50)]


@pytest.mark.parametrize("known_elsewhere", [False, True])
def test_unknown_conn_id_dropped_loop_lives(peers: Peers, relay: RelayProcess, known_elsewhere: bool) -> None:
    phone, conn_id = peers.phone()
    with peers_at(relay, unused_server_id()) as others:
        stranger, stranger_id = others.phone()
        peers.to(stranger_id if known_elsewhere else "c-nobody", "lost")
        peers.to(conn_id, "found")
        assert received(phone) == "found"
        relay.event("envelopes_dropped", unknown_phone=1)
        others.to(stranger_id, "only mine")
        assert received(stranger) == "only mine"


@pytest.mark.parametrize(
    "message",
    ["{", "[]", '"x"', "{}", '{"frame":1}', '{"conn_id":7,"frame":1}', '{"conn_id":"c-x","close_code":1005}'],
)
def test_malformed_envelope_dropped_loop_lives(peers: Peers, relay: RelayProcess, message: str) -> None:
    phone, conn_id = peers.phone()
    before = sum(event["malformed"] for event in relay.events("envelopes_dropped"))
    peers.binary.send(message)
    peers.to(conn_id, "still here")
    assert received(phone) == "still here"
    until(
        lambda: sum(event["malformed"] for event in relay.events("envelopes_dropped")) == before + 1,
        "dropped envelope in the log",
    )


def test_phone_whose_send_fails_is_dropped_its_sibling_still_served(peers: Peers, relay: RelayProcess) -> None:
    (failing, failing_id), (sibling, sibling_id) = peers.phone(), peers.phone()
    failing.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    failing.socket.shutdown(socket.SHUT_RD)
    failing.close_socket()
    for number in range(20):
        peers.to(failing_id, "lost")
        peers.to(sibling_id, number)
    assert [received(sibling) for _ in range(20)] == list(range(20))
    relay.event("phone_unregistered", conn_id=failing_id)


def test_binary_disconnect_ends_the_forwarder_and_starts_grace(
    start_relay: Callable[..., RelayProcess],
) -> None:
    relay = start_relay("--grace", "0.3")
    with peers_at(relay, "server") as peers:
        phone, _ = peers.phone()
        peers.binary.close()
        relay.event("binary_released", code=1000, by="peer", phones=1)
        assert closing(phone) == (4404, "binary is gone")
        relay.event("grace_expired", phones=1)


def test_cancellation_ends_it_at_once(start_relay: Callable[..., RelayProcess]) -> None:
    relay = start_relay()
    with peers_at(relay, "server") as peers:
        phone, _ = peers.phone()
        assert relay.stop() == 0
        assert closing(phone) == (1001, "shutting down")
        assert closing(peers.binary) == (1001, "shutting down")
