"""Contract, "Life of a phone" and "Outbox", with clients that are not ours."""

import json
from collections.abc import Callable

import pytest

from tests.contract.peers import closing, peers_at, received, unused_server_id
from tests.relay_process import WAIT, RelayProcess

TOKEN = {"x-pyrycode-token": "t"}


def test_phone_without_a_binary_gets_4404(relay: RelayProcess) -> None:
    with peers_at(relay, unused_server_id()) as peers:
        peers.server_id = unused_server_id()
        assert closing(peers.connect("/v1/client", TOKEN)) == (4404, "no server with that id")
        relay.event("phone_refused", server_id=peers.server_id, code=4404)


@pytest.mark.parametrize(("flags", "most"), [((), 16), (("--max-phones", "2"), 2)])
def test_one_phone_too_many_gets_4429_until_a_place_is_free(
    start_relay: Callable[..., RelayProcess], flags: tuple[str, ...], most: int
) -> None:
    with peers_at(start_relay(*flags), "server") as peers:
        phones = [peers.phone() for _ in range(most)]
        assert closing(peers.connect("/v1/client", TOKEN)) == (4429, "too many phones")
        first, first_id = phones[0]
        first.close()
        peers.relay.event("phone_unregistered", conn_id=first_id)
        assert received(peers.binary) == {"conn_id": first_id, "close_code": 1000}
        peers.phone()


def test_phones_of_a_binary_in_its_grace_window_count(start_relay: Callable[..., RelayProcess]) -> None:
    with peers_at(start_relay("--max-phones", "1"), "server") as peers:
        peers.phone()
        peers.binary.close()
        peers.relay.event("binary_released")
        assert closing(peers.connect("/v1/client", TOKEN)) == (4429, "too many phones")


def test_burst_of_thousands_of_small_frames_to_a_phone_that_reads_never_closes_it(relay: RelayProcess) -> None:
    with peers_at(relay, unused_server_id()) as peers:
        phone, conn_id = peers.phone()
        for number in range(5_000):
            peers.to(conn_id, number)
        assert [received(phone) for _ in range(5_000)] == list(range(5_000))


def test_phone_whose_backlog_is_full_is_closed_with_1011_and_its_sibling_is_served_on(
    start_relay: Callable[..., RelayProcess],
) -> None:
    with peers_at(start_relay("--outbox-bytes", "100000"), "server") as peers:
        # It stops reading its socket once one message waits to be taken.
        hoarder = peers.connect("/v1/client", TOKEN, max_queue=1)
        hoarder.send('"hello"')
        conn_id = json.loads(peers.binary.recv(WAIT))["conn_id"]
        sibling, sibling_id = peers.phone()
        sent = 0
        # More than any kernel buffers by default: 60 MB.
        while sent < 1000 and not peers.relay.events("phone_unregistered"):
            peers.to(conn_id, "x" * 60_000)
            peers.to(sibling_id, sent)
            assert received(sibling) == sent
            sent += 1
        peers.relay.event("phone_unregistered", conn_id=conn_id, code=1011, reason="phone backlog full")
        assert closing(hoarder) == (1011, "phone backlog full")
        peers.to(sibling_id, "still here")
        assert received(sibling) == "still here"
