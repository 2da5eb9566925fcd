"""Contract, "Frames", with `websockets`; what it would not send goes out on its socket as raw bytes."""

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.contract.peers import Peers, closing, peers_at, unused_server_id
from tests.relay_process import WAIT, RelayProcess

CAP = 262_144

legs = pytest.mark.parametrize("leg", ["binary", "phone"])


@pytest.fixture
def peers(relay: RelayProcess) -> Iterator[Peers]:
    with peers_at(relay, unused_server_id()) as found:
        yield found


def message_of(size: int, leg: str, conn_id: str, character: str = "x") -> str:
    """A message of ``size`` bytes as a peer on ``leg`` would send it."""
    around = '""' if leg == "phone" else f'{{"conn_id":"{conn_id}","frame":""}}'
    ends = '"' if leg == "phone" else '"}'
    return around.removesuffix(ends) + character * ((size - len(around)) // len(character.encode())) + ends


def of_leg(leg: str, peers: Peers) -> tuple[ClientConnection, ClientConnection, str]:
    """The sender on ``leg``, the receiver opposite, and the phone's conn_id."""
    phone, conn_id = peers.phone()
    return (peers.binary, phone, conn_id) if leg == "binary" else (phone, peers.binary, conn_id)


@legs
@pytest.mark.parametrize("as_text", [True, False])
def test_incoming_text_and_binary_are_treated_alike_and_all_that_is_sent_is_text(
    peers: Peers, leg: str, as_text: bool
) -> None:
    sender, receiver, conn_id = of_leg(leg, peers)
    message = message_of(100, leg, conn_id)
    sender.send(message.encode(), text=as_text)
    got = receiver.recv(WAIT)
    assert isinstance(got, str)
    assert "x" * 10 in got


@legs
@pytest.mark.parametrize("fragments", [1, 7])
@pytest.mark.parametrize("character", ["x", "é"])
def test_message_of_256_kib_counted_in_bytes_passes_and_a_larger_one_closes_its_sender_with_1009(
    peers: Peers, leg: str, fragments: int, character: str
) -> None:
    sender, receiver, conn_id = of_leg(leg, peers)

    def send(size: int) -> None:
        message = message_of(size, leg, conn_id, character)
        assert size - 1 <= len(message.encode()) <= size
        step = len(message) // fragments + 1
        parts = [message[at : at + step] for at in range(0, len(message), step)]
        assert len(parts) == fragments
        sender.send(parts if fragments > 1 else message)

    send(CAP)
    assert message_of(CAP, "phone", "", character)[1:1000] in receiver.recv(WAIT)
    with suppress(ConnectionClosed):  # which may come while the last fragments still go out
        send(CAP + 2)
    assert closing(sender) == (1009, "message too big")


@legs
def test_message_that_has_begun_and_is_not_complete_in_time_closes_its_sender_with_1008(
    start_relay: Callable[..., RelayProcess], leg: str
) -> None:
    with peers_at(start_relay("--message-timeout", "0.2"), "server") as peers:
        sender, _, _ = of_leg(leg, peers)
        sender.socket.sendall(b"\x01\x81maskx")
        assert closing(sender) == (1008, "message too slow")


@legs
def test_no_compression_is_negotiated_though_offered(peers: Peers, leg: str) -> None:
    sender, _, _ = of_leg(leg, peers)
    assert sender.request is not None
    assert sender.response is not None
    assert "permessage-deflate" in sender.request.headers["sec-websocket-extensions"]
    assert "sec-websocket-extensions" not in sender.response.headers


@legs
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1007, 1011, 1014, 3000, 4000, 4999])
def test_close_frame_is_answered_with_its_own_code(peers: Peers, leg: str, code: int) -> None:
    sender, _, _ = of_leg(leg, peers)
    sender.socket.sendall(b"\x88\x82\0\0\0\0" + code.to_bytes(2, "big"))
    assert closing(sender)[0] == code


@legs
def test_close_frame_without_a_code_is_answered_with_one_without_a_code(peers: Peers, leg: str) -> None:
    sender, _, _ = of_leg(leg, peers)
    sender.socket.sendall(b"\x88\x80mask")
    assert closing(sender)[0] == 1005


@legs
@pytest.mark.parametrize(
    ("raw", "code"),
    [
        pytest.param(b"\x81\x01x", 1002, id="not masked"),
        pytest.param(b"\xc1\x81maskx", 1002, id="RSV1, as compression would set it"),
        pytest.param(b"\x83\x81maskx", 1002, id="reserved opcode"),
        pytest.param(b"\x80\x81maskx", 1002, id="continuation of nothing"),
        pytest.param(b"\x81\xfe\x00\x01maskx", 1002, id="length not minimal"),
        pytest.param(b"\x09\x80mask", 1002, id="fragmented ping"),
        pytest.param(b"\x88\x81maskx", 1002, id="Close with half a code"),
        pytest.param(b"\x88\x82\0\0\0\0\x03\xed", 1002, id="Close with 1005"),
        pytest.param(b"\x88\x83\0\0\0\0\x03\xe8\xff", 1007, id="Close with a reason that is not UTF-8"),
        pytest.param(b"\x81\xff" + (CAP + 1).to_bytes(8, "big") + b"mask", 1009, id="oversize by its header"),
    ],
)
def test_broken_frame_closes_its_sender_and_nobody_else(peers: Peers, leg: str, raw: bytes, code: int) -> None:
    sender, _, _ = of_leg(leg, peers)
    sibling, sibling_id = peers.phone()
    sender.socket.sendall(raw)
    assert closing(sender)[0] == code
    if leg == "phone":
        peers.to(sibling_id, "next")
        assert sibling.recv(WAIT) == '"next"'


@legs
def test_ping_gets_a_pong_with_its_payload(peers: Peers, leg: str) -> None:
    sender, _, _ = of_leg(leg, peers)
    assert sender.ping(b"payload").wait(WAIT)
