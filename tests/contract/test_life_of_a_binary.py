"""Contract, "Life of a binary", with clients that are not ours."""

from collections.abc import Iterator

import pytest
from websockets.sync.client import ClientConnection

from tests.contract.peers import (
    Peers,
    closing,
    deaf_peer,
    output_until,
    peers_at,
    received,
    unused_server_id,
)
from tests.relay_process import RelayProcess, relay_factory, until

TAKEN = (4409, "server-id already claimed")
RECLAIMED = (4404, "binary reclaimed server-id")
GONE = (4404, "binary is gone")
NO_SERVER = (4404, "no server with that id")


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A relay with a short probe and a short grace window."""
    with relay_factory(tmp_path_factory.mktemp("hasty")) as start:
        yield start("--probe-timeout", "0.3", "--grace", "0.3")


@pytest.fixture
def peers(relay: RelayProcess) -> Iterator[Peers]:
    with peers_at(relay, unused_server_id()) as found:
        yield found


@pytest.fixture
def hasty_peers(hasty: RelayProcess) -> Iterator[Peers]:
    with peers_at(hasty, unused_server_id()) as found:
        yield found


def newcomer(peers: Peers) -> ClientConnection:
    return peers.connect("/v1/server", {"x-pyrycode-version": "2"})


def phone_of(peers: Peers) -> ClientConnection:
    return peers.connect("/v1/client", {"x-pyrycode-token": "t"})


def test_first_claim_wins_and_a_newcomer_gets_4409_while_the_holder_answers_pings(peers: Peers) -> None:
    phone, conn_id = peers.phone()
    assert closing(newcomer(peers)) == TAKEN
    peers.to(conn_id, "still mine")
    assert received(phone) == "still mine"


def test_holder_that_does_not_answer_is_closed_with_1011_and_its_phones_with_4404(
    hasty_peers: Peers,
) -> None:
    relay, server_id = hasty_peers.relay, unused_server_id()
    with deaf_peer(relay, "/v1/server", server_id) as heard:
        relay.event("binary_claimed", server_id=server_id, version="deaf")
        hasty_peers.server_id = server_id
        phone = phone_of(hasty_peers)
        relay.event("phone_registered", server_id=server_id)
        hasty_peers.binary = newcomer(hasty_peers)
        relay.event("binary_took_over", server_id=server_id, version="2", phones=1)
        assert closing(phone) == RECLAIMED
        assert b"\x89\x00" in output_until(heard, b"\x03\xf3")
        phone, conn_id = hasty_peers.phone()
        hasty_peers.to(conn_id, "from the successor")
        assert received(phone) == "from the successor"


def test_phones_stay_and_new_ones_are_admitted_in_the_window_and_a_reclaim_closes_both_with_4404(
    peers: Peers,
) -> None:
    old, _ = peers.phone()
    peers.binary.close()
    peers.relay.event("binary_released", server_id=peers.server_id, phones=1)
    new = phone_of(peers)
    mine = {"event": "phone_registered", "server_id": peers.server_id}
    until(lambda: sum(mine.items() <= event.items() for event in peers.relay.events()) == 2, "second phone")
    peers.binary = newcomer(peers)
    peers.relay.event("binary_reclaimed", server_id=peers.server_id, version="2", phones=2)
    assert closing(old) == closing(new) == RECLAIMED
    phone, conn_id = peers.phone()
    peers.to(conn_id, "served")
    assert received(phone) == "served"


def test_window_that_passes_closes_the_phones_with_4404_and_frees_the_id(hasty_peers: Peers) -> None:
    phone, _ = hasty_peers.phone()
    hasty_peers.binary.close()
    assert closing(phone) == GONE
    assert closing(phone_of(hasty_peers)) == NO_SERVER
    hasty_peers.binary = newcomer(hasty_peers)
    hasty_peers.relay.event("binary_claimed", server_id=hasty_peers.server_id, version="2")
    hasty_peers.phone()


def test_phone_that_sends_into_the_window_is_closed_with_4404(peers: Peers) -> None:
    phone, _ = peers.phone()
    peers.binary.close()
    peers.relay.event("binary_released", server_id=peers.server_id)
    phone.send("1")
    assert closing(phone) == GONE
