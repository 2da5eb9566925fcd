"""Contract, "What an error does", with clients that are not ours."""

from collections.abc import Iterator

import pytest

from tests.contract.peers import Peers, closing, peers_at, received, unused_server_id
from tests.relay_process import RelayProcess


@pytest.fixture
def peers(relay: RelayProcess) -> Iterator[Peers]:
    with peers_at(relay, unused_server_id()) as found:
        yield found


BAD = [b"{", b'"\xff"', b"", b"1 2"]


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("text", [True, False])
def test_bad_utf8_or_json_from_a_binary_is_logged_and_dropped(peers: Peers, message: bytes, text: bool) -> None:
    phone, conn_id = peers.phone()
    peers.binary.send(message, text=text)
    peers.to(conn_id, "next")
    assert received(phone) == "next"
    peers.relay.event("envelopes_dropped", server_id=peers.server_id, malformed=1)


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("text", [True, False])
def test_bad_utf8_or_json_from_a_phone_closes_it_alone_with_1007(
    peers: Peers, message: bytes, text: bool
) -> None:
    (sender, _), (sibling, sibling_id) = peers.phone(), peers.phone()
    sender.send(message, text=text)
    assert closing(sender)[0] == 1007
    peers.to(sibling_id, "next")
    assert received(sibling) == "next"


def test_unknown_phone_is_logged_and_dropped(peers: Peers) -> None:
    phone, conn_id = peers.phone()
    peers.to("c-nobody", "lost")
    peers.to(conn_id, "next")
    assert received(phone) == "next"
    peers.relay.event("envelopes_dropped", server_id=peers.server_id, unknown_phone=1)


def test_no_live_binary_closes_the_phone_that_sends_with_4404(peers: Peers) -> None:
    phone, _ = peers.phone()
    peers.binary.close()
    peers.relay.event("binary_released", server_id=peers.server_id)
    phone.send('"lost"')
    assert closing(phone)[0] == 4404
