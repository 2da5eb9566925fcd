"""Peers that read nothing, whatever is sent to them."""

import socket
from contextlib import ExitStack, closing, suppress

from tests.attacks.bounds import MIB, RelayStarter, UnderAttack, size
from tests.attacks.peers import Peer, binary, frame, introduce, phone
from tests.relay_process import until

MOST_TO_ONE = 64 * MIB
"""Bytes after which a phone that was sent them and is not closed never will be: what the kernel's buffers
take of them is for the kernel to say."""


def test_phones_that_never_read_hold_no_more_than_their_outboxes_and_are_closed_with_1011(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    outbox = 256 * 1024
    relay = start_relay("--outbox-bytes", str(outbox))
    binaries, each = size(2, 20), 16
    sockets = binaries * (each + 1)
    memory = 8 * MIB + binaries * each * outbox + sockets * 32 * 1024
    with under_attack(relay, memory=memory, sockets=sockets) as attack, ExitStack() as stack:
        feeders: dict[Peer, set[bytes]] = {}
        for number in range(binaries):
            feeder = stack.enter_context(closing(binary(relay.port, f"feeder-{number}")))
            stalled = [phone(relay.port, f"feeder-{number}", receive_buffer=4096) for _ in range(each)]
            for peer in stalled:
                stack.enter_context(closing(peer))
            feeders[feeder] = {introduce(feeder, peer) for peer in stalled}
        attack.look()
        sent = 0
        while any(feeders.values()):
            assert sent <= MOST_TO_ONE, "phones that never read are not closed"
            for feeder, alive in feeders.items():
                for conn_id in alive:
                    feeder.send(b'{"conn_id":"%b","frame":"%b"}' % (conn_id, b"x" * 16384))
                while alive and feeder.waiting():
                    notice = feeder.text()
                    assert notice.endswith(b',"close_code":1001}'), notice
                    alive.remove(notice.split(b'"')[3])
            sent += 16384
        attack.honest.exchange()
    ends = relay.events("phone_unregistered")
    assert {(event["code"], event["reason"]) for event in ends if event["server_id"] != "honest"} == {
        (1011, "phone backlog full")
    }


def test_phone_that_stops_reading_is_closed_and_its_siblings_are_served(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay("--outbox-bytes", "65536")
    count = size(2, 15)
    with under_attack(relay, memory=8 * MIB, sockets=count) as attack, ExitStack() as stack:
        # The honest binary sends back whatever they send, so each can fill its own outbox.
        stalled = {}
        for _ in range(count):
            peer = stack.enter_context(closing(phone(relay.port, "honest", receive_buffer=4096)))
            stalled[peer.socket] = 0
        block = frame(b'"%b"' % (b"x" * 16384))
        attack.look()

        def all_closed() -> bool:
            for sock in list(stalled):
                try:
                    begun = stalled[sock] % len(block)
                    stalled[sock] += sock.send(memoryview(block)[begun:], socket.MSG_DONTWAIT)
                except BlockingIOError:
                    continue
                except OSError:
                    del stalled[sock]
            ends = relay.events("phone_unregistered")
            return len(ends) == count

        until(all_closed, "end of the phones that never read")
        attack.honest.exchange()
    ends = relay.events("phone_unregistered")
    assert {(event["code"], event["reason"]) for event in ends[:count]} == {(1011, "phone backlog full")}


def test_phone_with_a_full_outbox_that_resets_is_noticed(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay("--outbox-bytes", str(64 * MIB))
    with (
        under_attack(relay, memory=32 * MIB, sockets=2) as attack,
        closing(binary(relay.port, "full")) as sender,
    ):
        attacker = phone(relay.port, "full", receive_buffer=4096)
        conn_id = introduce(sender, attacker)
        # More than any socket buffer takes, so that some of it waits in the outbox.
        envelope = b'{"conn_id":"%b","frame":"%b"}' % (conn_id, b"x" * 200_000)
        for _ in range(100):
            sender.send(envelope)
        attack.look()
        attack.honest.exchange()
        attacker.reset()
        assert sender.text() == b'{"conn_id":"%b","close_code":1001}' % conn_id
        assert relay.event("phone_unregistered", conn_id=conn_id.decode())["code"] == 1006


def test_binary_that_never_reads_holds_its_phones_back_until_the_write_timeout_closes_it(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay("--write-timeout", "1", "--grace", "0.1")
    count = 16
    with under_attack(relay, memory=16 * MIB, sockets=count + 1) as attack, ExitStack() as stack:
        deaf = stack.enter_context(closing(binary(relay.port, "deaf", receive_buffer=4096)))
        phones = [stack.enter_context(closing(phone(relay.port, "deaf"))) for _ in range(count)]
        block = frame(b'"%b"' % (b"x" * 65536))
        sent = [0] * count

        def released() -> bool:
            for number, peer in enumerate(phones):
                # Held back, they are not to be sent for; in the end they are closed.
                with suppress(OSError):
                    part = memoryview(block)[sent[number] % len(block) :]
                    sent[number] += peer.socket.send(part, socket.MSG_DONTWAIT)
            attack.look()
            return bool(relay.events("binary_released"))

        until(released, "end of the binary that never reads")
        relay.event("binary_released", server_id="deaf", code=1011)
        assert {peer.close_code() for peer in phones} == {4404}
        deaf.close()
