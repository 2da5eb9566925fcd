"""What the machine may do to the relay: stop it, and give it no more descriptors."""

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from tests.attacks.bounds import LARGE, MIB, RelayStarter, UnderAttack, cpu_seconds, size
from tests.attacks.peers import (
    BEGINNING,
    CONTINUATION,
    PONG,
    SWITCHING,
    Peer,
    binary,
    connect,
    frame,
    introduce,
    phone,
    request,
)
from tests.observed import descriptors
from tests.relay_process import until


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process is stopped while the body runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_relay_that_was_stopped_closes_the_dead_and_nobody_else(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    # Stopped for longer than every limit that a live peer could fall foul of. In earnest these are the
    # defaults, but for what must not pass while the first ping is waited for.
    in_earnest = "--message-timeout=60", "--write-timeout=60"
    in_short = (
        *("--heartbeat-interval=0.2", "--heartbeat-timeout=2", "--probe-timeout=2"),
        *("--message-timeout=2", "--write-timeout=2"),
    )
    seconds = 90.0 if LARGE else 2.5
    relay = start_relay(*(in_earnest if LARGE else in_short))
    with (
        under_attack(relay, memory=16 * MIB, sockets=8, bound=seconds + 5) as attack,
        ExitStack() as stack,
    ):

        def open_(peer: Peer) -> Peer:
            return stack.enter_context(closing(peer))

        reader = open_(binary(relay.port, "live"))
        live = open_(phone(relay.port, "live"))
        full = open_(phone(relay.port, "live", receive_buffer=4096))
        conn_id, full_id = introduce(reader, live), introduce(reader, full)
        dead = [open_(binary(relay.port, "dead")), open_(phone(relay.port, "dead"))]
        head = request("/v1/client", "live")
        for peer in (reader, live, full, *dead):
            peer.socket.settimeout(60 + seconds)
        # An outbox is full, a message is half here, two answers to pings are due, and the binary is asked
        # whether it is there, since somebody else wants its server-id.
        sent = 130
        for _ in range(sent):
            reader.send(b'{"conn_id":"%b","frame":"%b"}' % (full_id, b"x" * 30_000))
        attack.honest.exchange()
        attack.look()
        full.socket.sendall(frame(b"", PONG))
        live.socket.sendall(frame(b'"half', BEGINNING))
        live.settle()
        reader.settle()
        assert live.frame() == reader.frame() == (0x89, b"")
        # Whoever was not asked before is to be asked first, and is not dead until then.
        assert [peer.frame() for peer in dead] == [(0x89, b"")] * 2
        rival = open_(Peer(connect(relay.port), "/v1/server", "live"))
        attack.honest.exchange(5)
        with stopped(relay.pid):
            for peer in (reader, live, full):
                peer.socket.sendall(frame(b"", PONG))
            live.socket.sendall(frame(b' and half"', CONTINUATION | 0x80))
            # Whoever dials now waits in the kernel's queue.
            late = stack.enter_context(connect(relay.port, patient=False))
            late.sendall(head)
            # The kernel still has some of it, and hands that out.
            full.take_in(seconds)
        assert reader.text() == b'{"conn_id":"%b","frame":"half and half"}' % conn_id
        reader.send(b'{"conn_id":"%b","frame":"and back"}' % conn_id)
        assert live.text() == b'"and back"'
        for _ in range(sent):
            assert full.text() == b'"%b"' % (b"x" * 30_000)
        assert rival.close_code() == 4409
        assert late.recv(len(SWITCHING)) == SWITCHING
        attack.honest.exchange()
        ended = {(event["server_id"], event["code"]) for event in relay.events("phone_unregistered")}
        ended |= {(event["server_id"], event["code"]) for event in relay.events("binary_released")}
        assert ended <= {("dead", 1011)}
        relay.event("binary_released", server_id="dead", code=1011)
        relay.event("phone_unregistered", server_id="dead", code=1011)
        for peer in dead:
            peer.reset()


def test_relay_without_descriptors_serves_whom_it_has_does_not_spin_and_lets_others_in_later(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay("--handshake-timeout", "60")
    spare = 10
    with under_attack(relay, memory=8 * MIB, sockets=size(60, 600)) as attack, ExitStack() as stack:
        before = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
        most = descriptors(relay.pid) + spare
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (most, before[1]))
        waiting = [stack.enter_context(connect(relay.port, patient=False)) for _ in range(size(50, 500))]
        relay.event("accept_paused", error="EMFILE")
        attack.honest.exchange(100)
        # Alone with those who wait, the relay has next to nothing to do.
        with stopped(attack.honest.process.pid):
            used, begun = cpu_seconds(relay.pid), time.monotonic()
            until(lambda: time.monotonic() - begun > size(1, 3), "end of the wait")
            assert cpu_seconds(relay.pid) - used <= 0.08 * (time.monotonic() - begun)
        attack.honest.exchange(100)
        assert descriptors(relay.pid) == most
        with connect(relay.port, patient=False) as last:
            last.sendall(request("/v1/client", "honest"))
            for sock in waiting:
                sock.close()
            # Behind all of them in the queue, and it is let in as they go.
            assert last.recv(len(SWITCHING)) == SWITCHING
        until(attack.over, "end of those who waited")
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, before)
    assert len(relay.events("accept_paused")) == 1
