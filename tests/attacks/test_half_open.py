"""Peers that are cut off: no packet of theirs arrives any more, not even a FIN."""

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.attacks.bounds import MIB, RelayStarter, UnderAttack, size
from tests.attacks.peers import Peer, frame, introduce, over
from tests.network import Network, network_of_two
from tests.relay_process import until


@pytest.fixture
def wires() -> Iterator[Network]:
    with network_of_two() as made:
        yield made


def test_peers_that_are_cut_off_are_closed_in_time_whatever_they_were_doing(
    start_relay: RelayStarter, under_attack: UnderAttack, wires: Network
) -> None:
    count = size(5, 200)
    relay = start_relay(
        *("--heartbeat-interval", "0.2", "--heartbeat-timeout", "2", "--write-timeout", "1"),
        *("--handshake-timeout", "2", "--probe-timeout", "0.5", "--listen", ":0"),
        # So long that a phone is found dead before its binary is nobody's.
        *("--grace", str(size(1, 3))),
        wrapper=wires.wrapper,
    )
    port = relay.port
    sockets = 5 * count
    memory = 12 * MIB + sockets * 32 * 1024
    attacking = under_attack(relay, memory=memory, sockets=sockets, wrapper=wires.wrapper)
    with attacking as attack, ExitStack() as stack:

        def binary(server_id: str) -> Peer:
            peer = stack.enter_context(closing(Peer(over(wires.connect(port)), "/v1/server", server_id)))
            peer.settle()
            return peer

        def phone(server_id: str) -> Peer:
            return stack.enter_context(closing(Peer(over(wires.connect(port)), "/v1/client", server_id)))

        for number in range(count):
            binary(f"idle-{number}")
            phone(f"idle-{number}")
            binary(f"mid-message-{number}").socket.sendall(frame(b"x" * 5000)[:3000])
            stack.enter_context(over(wires.connect(port))).sendall(b"GET /v1/client HTTP/1.1\r\n")
        # What it sends is sent back, and it takes none of it.
        fed = stack.enter_context(closing(Peer(over(wires.connect(port, 4096)), "/v1/client", "honest")))
        for _ in range(30):
            fed.send(b'"%b"' % (b"x" * 100_000))
        binary("held")
        attack.look()
        wires.pull_the_cable()
        # The server-id of one who is cut off goes to whoever asks, once its holder has not answered.
        with closing(Peer(over(wires.connect_locally(port)), "/v1/server", "held")) as heir:
            heir.settle()
            assert relay.event("binary_took_over")["server_id"] == "held"
        until(attack.over, "end of all who are cut off")
        ends = relay.events("binary_released") + relay.events("phone_unregistered")
        codes = {(event["server_id"], event["code"]) for event in ends if event["server_id"] != "held"}
        names = {f"{what}-{number}" for what in ("idle", "mid-message") for number in range(count)}
        assert codes == {(name, 1011) for name in names | {"honest"}}


def test_outage_shorter_than_a_heartbeat_costs_nobody_a_frame(
    start_relay: RelayStarter, under_attack: UnderAttack, wires: Network
) -> None:
    relay = start_relay("--listen", ":0", wrapper=wires.wrapper)
    with (
        under_attack(relay, memory=8 * MIB, sockets=2, wrapper=wires.wrapper) as attack,
        closing(Peer(over(wires.connect(relay.port)), "/v1/server", "away")) as binary,
        closing(Peer(over(wires.connect(relay.port)), "/v1/client", "away")) as phone,
    ):
        binary.settle()
        conn_id = introduce(binary, phone)
        wires.pull_the_cable()
        for number in range(100):
            phone.send(b'"up %d"' % number)
            binary.send(b'{"conn_id":"%b","frame":"down %d"}' % (conn_id, number))
        attack.honest.exchange(50)
        assert not binary.waiting()
        assert not phone.waiting()
        wires.plug_it_in()
        for number in range(100):
            assert binary.text() == b'{"conn_id":"%b","frame":"up %d"}' % (conn_id, number)
            assert phone.text() == b'"down %d"' % number
