"""Handshakes of TLS: what a client may do to begin one, and what many who do so cost whoever is in."""

import contextlib
import os
import select
import socket
import ssl

import trio
import trio.testing

from relayd.edge.stream import PlainStream
from relayd.edge.tls_handshake import accept_tls
from relayd.edge.turns import NEWCOMERS_AT_ONCE, Gate
from relayd.wire.client_hello import ClientHello
from tests.attacks.tls import client_hello
from tests.edge.pairs import Pair, under_tls
from tests.relay_process import WAIT


async def test_handshakes_that_come_all_at_once_are_begun_a_few_at_a_time_and_others_run_between_them(
    pair: Pair,
) -> None:
    hello = client_hello()
    async with under_tls(pair, max_handshakes=800) as relay:
        clients = [await relay.connect() for _ in range(200)]
        await trio.testing.wait_all_tasks_blocked()
        poll = select.poll()
        for client in clients:
            poll.register(client.stream.socket.fileno(), select.POLLIN)
            os.write(client.stream.socket.fileno(), hello)
        counts: list[int] = []
        with trio.fail_after(WAIT):
            while sum(counts) < 200:
                await trio.lowlevel.checkpoint()
                counts.append(len(poll.poll(0)) - sum(counts))
        # We look in the middle of a pass of the loop, before some of its tasks and behind others.
        assert max(counts) <= 64


async def test_client_that_takes_nothing_of_a_handshake_keeps_no_place_from_others(pair: Pair) -> None:
    server = pair.server()
    ours, theirs = socket.socketpair()
    gate = Gate()
    with ours, theirs, gate.approached() as place:
        below = PlainStream(ours)
        with contextlib.suppress(BlockingIOError):
            while ours.send(bytes(65_536)):
                pass
        theirs.sendall(client_hello())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_tls, below, lambda _: server, place, lambda: None)
            await trio.testing.wait_all_tasks_blocked()
            with contextlib.ExitStack() as stack, trio.fail_after(WAIT):
                for _ in range(NEWCOMERS_AT_ONCE):
                    await stack.enter_context(gate.approached()).enter()
            nursery.cancel_scope.cancel()


async def test_client_that_is_asked_for_another_hello_gets_its_answer(pair: Pair) -> None:
    server = pair.server()
    # A client's first key is for X25519.
    server.set_ecdh_curve("prime256v1")
    ours, theirs = socket.socketpair()
    raw = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    client = trio.SSLStream(raw, pair.client(), server_hostname="127.0.0.1", https_compatible=True)
    hellos = []

    def choose(hello: ClientHello | None) -> ssl.SSLContext:
        hellos.append(hello)
        return server

    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, b"hello")
            with Gate().approached() as place:
                stream = await accept_tls(PlainStream(ours), choose, place, lambda: None)
            assert await stream.receive_some(100) == b"hello"
    assert hellos == [ClientHello("", ())]
