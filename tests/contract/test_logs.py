"""Contract, "Logs": what strangers send is not in the log, whatever way they send it."""

import re
import socket
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.contract.peers import closing, peers_at, unused_server_id
from tests.relay_process import WAIT, RelayProcess

MARK = "zq7xj"
DOCUMENTED = {
    match[1]: set(re.findall(r"`(\w+)`", match[2]))
    for match in re.finditer(
        r"^\| `(\w+)` \| \w+ \| (.*?) \|", (Path(__file__).parents[2] / "docs/events.md").read_text(), re.M
    )
}
RAW = [
    f"GET /{MARK}?{MARK} HTTP/1.1\r\nHost: {MARK}\r\n\r\n",
    f"POST /v1/server HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{MARK}",
    f"GET /v1/client HTTP/1.1\r\nHost: a\r\nx-pyrycode-token: {MARK}\r\nCookie: {MARK}\r\n\r\n",
    f"{MARK} \0\x01 nonsense\r\n\r\n",
    f"GET / HTTP/1.1\r\n{MARK}\r\n\r\n",
    f"GET /healthz?{MARK} HTTP/1.1\r\nHost: a\r\nAuthorization: {MARK}\r\n\r\n",
    f"GET /v1/client HTTP/1.1\r\nHost: a\r\nx: {MARK * 4000}\r\n\r\n",
    f"\x16\x03\x01{MARK}\r\n\r\n",
]


def test_nothing_that_was_sent_is_logged_and_events_have_the_documented_fields_alone(
    relay: RelayProcess,
) -> None:
    for request in RAW:
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            client.settimeout(WAIT)
            client.sendall(request.encode("latin-1"))
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 ")
            assert MARK.encode() not in answer
    with peers_at(relay, unused_server_id()) as peers:
        with pytest.raises(InvalidStatus):
            peers.connect("/v1/client", {"x-pyrycode-token": MARK, "x-pyrycode-server": ""})
        peers.connect("/v1/client", {"x-pyrycode-token": MARK, "cookie": MARK}, user_agent_header=MARK)
        phone, conn_id = peers.phone()
        for message in (
            f'{{"conn_id":"{MARK}","frame":1}}',
            f'{{"conn_id":"{conn_id}","frame":"{MARK}"}}',
            f'{{"conn_id":"{conn_id}","close_code":"{MARK}"}}',
            f'{{"push_wake":{{"token":"{MARK}"}}}}',
            f"{{{MARK}",
        ):
            peers.binary.send(message)
        peers.binary.send(f'"{MARK}\xff"'.encode("latin-1"), text=True)
        peers.to(conn_id, "all of it was read")
        assert [phone.recv(WAIT), phone.recv(WAIT)] == [f'"{MARK}"', '"all of it was read"']
        leaving, leaving_id = peers.phone()
        phone.send(MARK)
        assert closing(phone)[0] == 1007
        leaving.close(4000, MARK)
        relay.event("phone_unregistered", conn_id=leaving_id, code=4000)
        peers.binary.socket.sendall(f"\x83\x85\0\0\0\0{MARK}".encode("latin-1"))
        assert closing(peers.binary)[0] == 1002
        relay.event("binary_released", server_id=peers.server_id, code=1002)
    assert MARK not in relay.log_text()
    seen = relay.events()
    assert {"request_refused", "envelopes_dropped", "phone_unregistered"} <= {event["event"] for event in seen}
    for event in seen:
        assert event.keys() - {"time", "level", "event"} == DOCUMENTED[event["event"]]
