"""Contract, "Routing envelope", with clients that are not ours."""

from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed

from tests.contract.peers import Peers, closing, peers_at, received, unused_server_id
from tests.relay_process import WAIT, RelayProcess

FRAMES = ['"s"', "7", "1.0e2", "false", "{}", "[]", '{"a":1,"a":2}', '{ "k" :\t[ "\\u00e9\\/" ,1 ] }', '"é"']


@pytest.fixture
def peers(relay: RelayProcess) -> Iterator[Peers]:
    with peers_at(relay, unused_server_id()) as found:
        yield found


def dropped(peers: Peers, **count: int) -> None:
    peers.relay.event("envelopes_dropped", server_id=peers.server_id, **count)


@pytest.mark.parametrize("frame", [*FRAMES, "null"])
def test_phone_to_binary_is_conn_id_and_the_message_verbatim(peers: Peers, frame: str) -> None:
    phone, conn_id = peers.phone()
    phone.send(frame)
    assert peers.binary.recv(WAIT) == f'{{"conn_id":"{conn_id}","frame":{frame}}}'


@pytest.mark.parametrize("frame", FRAMES)
def test_binary_to_phone_sends_the_bytes_of_frame_verbatim(peers: Peers, frame: str) -> None:
    phone, conn_id = peers.phone()
    peers.binary.send(f'{{"unknown":[1],"frame":{frame},"conn_id":"{conn_id}"}}')
    assert phone.recv(WAIT) == frame


def test_conn_id_is_never_reused(peers: Peers) -> None:
    seen = set()
    for _ in range(20):
        phone, conn_id = peers.phone()
        seen.add(conn_id)
        phone.close(4000)
        assert received(peers.binary) == {"conn_id": conn_id, "close_code": 4000}
    assert len(seen) == 20
    assert all(conn_id.startswith("c-") and len(conn_id) >= 20 for conn_id in seen)


@pytest.mark.parametrize("no_frame", ["", ',"frame":null'])
def test_no_frame_with_close_code_only_closes(peers: Peers, no_frame: str) -> None:
    phone, conn_id = peers.phone()
    peers.binary.send(f'{{"conn_id":"{conn_id}","close_code":4401{no_frame}}}')
    assert closing(phone) == (4401, "")


@pytest.mark.parametrize("no_frame", ["", ',"frame":null'])
def test_no_frame_and_no_close_code_is_malformed(peers: Peers, no_frame: str) -> None:
    phone, conn_id = peers.phone()
    peers.binary.send(f'{{"conn_id":"{conn_id}"{no_frame}}}')
    dropped(peers, malformed=1)
    peers.to(conn_id, "next")
    assert received(phone) == "next"


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1013, 1014, 3000, 4421, 4999])
def test_close_code_that_may_travel_closes_the_phone_with_it(peers: Peers, code: int) -> None:
    phone, conn_id = peers.phone()
    peers.binary.send(f'{{"conn_id":"{conn_id}","close_code":{code}}}')
    assert closing(phone)[0] == code


@pytest.mark.parametrize(
    "code", ["999", "1004", "1005", "1006", "1015", "2999", "5000", "-1", '"1000"', "1000.5", "true"]
)
def test_close_code_that_may_not_travel_makes_the_envelope_malformed(peers: Peers, code: str) -> None:
    phone, conn_id = peers.phone()
    peers.binary.send(f'{{"conn_id":"{conn_id}","frame":"lost","close_code":{code}}}')
    dropped(peers, malformed=1)
    peers.to(conn_id, "next")
    assert received(phone) == "next"


def test_push_wake_without_conn_id_is_counted_and_dropped(peers: Peers) -> None:
    phone, conn_id = peers.phone()
    peers.binary.send('{"push_wake":{}}')
    dropped(peers, push_wake=1, malformed=0)
    peers.to(conn_id, "next")
    assert received(phone) == "next"


def test_all_before_a_close_directive_is_delivered_and_all_after_it_dropped(peers: Peers) -> None:
    phone, conn_id = peers.phone()
    for number in range(50):
        peers.to(conn_id, number)
    peers.binary.send(f'{{"conn_id":"{conn_id}","frame":50,"close_code":4426}}')
    peers.to(conn_id, "late")
    assert [received(phone) for _ in range(51)] == list(range(51))
    with pytest.raises(ConnectionClosed):
        phone.recv(WAIT)
    assert phone.close_code == 4426


@pytest.mark.parametrize(
    "envelope",
    [
        pytest.param('{"conn_id":"c-nobody","conn_id":"%s","frame":1,"frame":2}', id="the last of equal keys"),
        pytest.param(' {"conn_id"\n:"%s" , "frame" : 2 }\t', id="white space"),
        pytest.param('{"conn_\\u0069d":"%s","frame":2}', id="escape in a key"),
        pytest.param('{"conn_id":"%s","frame":2,"push_wake":{}}', id="push_wake with a conn_id is unknown"),
        pytest.param('{"conn_id":"%s","frame":2,"n":123456789012345678901234567890e999}', id="huge number"),
    ],
)
def test_envelope_is_read_as_json_and_unknown_fields_are_ignored(peers: Peers, envelope: str) -> None:
    phone, conn_id = peers.phone()
    peers.binary.send(envelope % conn_id)
    assert phone.recv(WAIT) == "2"


def test_escapes_in_conn_id_are_read(peers: Peers) -> None:
    phone, conn_id = peers.phone()
    escaped = "".join(f"\\u{ord(character):04x}" for character in conn_id)
    peers.binary.send(f'{{"conn_id":"{escaped}","frame":2}}')
    assert phone.recv(WAIT) == "2"
