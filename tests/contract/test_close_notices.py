"""Contract, "Close notice" and "close_code", with clients that are not ours."""

import json
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from websockets.sync.client import ClientConnection

from tests.contract.peers import Peers, closing, peers_at, received, unused_server_id
from tests.relay_process import WAIT, RelayProcess


@pytest.fixture
def peers(relay: RelayProcess) -> Iterator[Peers]:
    with peers_at(relay, unused_server_id()) as found:
        yield found


def vanish(phone: ClientConnection, *, reset: bool) -> None:
    """End the phone's TCP connection, without a Close frame."""
    if reset:
        phone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    phone.socket.shutdown(socket.SHUT_RDWR if not reset else socket.SHUT_RD)
    phone.socket.close()


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4000, 4999])
def test_notice_has_the_code_that_the_phone_sent_and_no_frame_key(peers: Peers, code: int) -> None:
    phone, conn_id = peers.phone()
    phone.close(code)
    assert peers.binary.recv(WAIT) == f'{{"conn_id":"{conn_id}","close_code":{code}}}'


def test_notice_for_a_close_without_a_code_says_1000(peers: Peers) -> None:
    phone, conn_id = peers.phone()
    phone.socket.sendall(b"\x88\x80mask")
    assert peers.binary.recv(WAIT) == f'{{"conn_id":"{conn_id}","close_code":1000}}'


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
def test_notice_for_a_phone_that_vanished_says_1001(peers: Peers, reset: bool) -> None:
    phone, conn_id = peers.phone()
    vanish(phone, reset=reset)
    assert received(peers.binary) == {"conn_id": conn_id, "close_code": 1001}


def test_notice_for_a_phone_that_relayd_closed_says_1001(peers: Peers) -> None:
    phone, conn_id = peers.phone()
    phone.send("no JSON")
    assert closing(phone)[0] == 1007
    assert received(peers.binary) == {"conn_id": conn_id, "close_code": 1001}


def test_notice_comes_once_and_after_the_last_frame(peers: Peers) -> None:
    phone, conn_id = peers.phone()
    for number in range(500):
        phone.send(str(number))
    phone.close(3000)
    for number in range(500):
        assert received(peers.binary) == {"conn_id": conn_id, "frame": number}
    assert received(peers.binary) == {"conn_id": conn_id, "close_code": 3000}
    peers.phone()


def test_no_notice_for_a_close_that_the_binary_ordered(peers: Peers) -> None:
    phone, conn_id = peers.phone()
    peers.binary.send(json.dumps({"conn_id": conn_id, "close_code": 4401}))
    assert closing(phone) == (4401, "")
    peers.relay.event("phone_unregistered", conn_id=conn_id)
    peers.phone()  # of which the binary hears first


def test_no_notice_to_a_successor(peers: Peers) -> None:
    _, conn_id = peers.phone()
    peers.binary.close()
    peers.relay.event("binary_released", server_id=peers.server_id)
    peers.binary = peers.connect("/v1/server", {"x-pyrycode-version": "2"})
    peers.relay.event("phone_unregistered", conn_id=conn_id)
    peers.phone()  # of which the binary hears first


def test_frame_of_a_close_directive_is_delivered_before_it(peers: Peers) -> None:
    phone, conn_id = peers.phone()
    peers.to(conn_id, "before")
    peers.binary.send(json.dumps({"conn_id": conn_id, "frame": "last", "close_code": 4426}))
    peers.to(conn_id, "after")
    assert [received(phone), received(phone)] == ["before", "last"]
    assert closing(phone) == (4426, "")


def test_directive_that_overflows_the_outbox_closes_with_its_own_code(
    start_relay: Callable[..., RelayProcess],
) -> None:
    relay = start_relay("--outbox-bytes", "1000")
    with peers_at(relay, unused_server_id()) as peers:
        phone, conn_id = peers.phone()
        peers.binary.send(json.dumps({"conn_id": conn_id, "frame": "x" * 2000, "close_code": 4421}))
        assert closing(phone) == (4421, "")
