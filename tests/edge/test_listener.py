"""Accepting connections when the system has none to give, or has one that is no good."""

import contextlib
import errno
import os
import resource
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from relayd.edge.descriptors import Reserve
from relayd.edge.listener import Listener, accept_connections
from relayd.ops.events import Event, InternalError
from relayd.values import Address
from tests.relay_process import RelayProcess, until
from tests.trio_client import relay_under_test


def healthy(relay: RelayProcess) -> bool:
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(relay.url("/healthz", "http"), timeout=1) as answer,
    ):
        return bool(answer.status == 200)
    return False


def test_running_out_of_file_descriptors_pauses_accepting_says_so_once_and_passes(
    start_relay: Callable[..., RelayProcess],
) -> None:
    relay = start_relay("--handshake-timeout", "60")
    address = ("127.0.0.1", relay.port)
    in_use = len(list(Path(f"/proc/{relay.pid}/fd").iterdir()))
    resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (in_use + 5, in_use + 5))
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(address))
        relay.event("accept_paused", error="EMFILE")
    until(lambda: healthy(relay), "answer once the connections are gone")
    assert len(relay.events("accept_paused")) == 1
    assert relay.stop() == 0


def test_limit_of_file_descriptors_is_raised_as_far_as_it_may(start_relay: Callable[..., RelayProcess]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard - 1), hard))
    try:
        relay = start_relay()
        relay.event("listening")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(relay.pid, resource.RLIMIT_NOFILE) == (hard, hard)


async def test_a_socket_that_cannot_be_served_costs_nobody_else_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with relay_under_test() as relay:
        honest = await relay.binary()
        with monkeypatch.context() as patched:
            # The kernel refuses this, as it does others for some kinds of sockets.
            patched.setattr("relayd.edge.stream._UNSENT", b"")
            refused = await relay.connect()
            with contextlib.suppress(trio.BrokenResourceError):
                assert await refused.stream.receive_some(1) == b""
        faults = relay.seen(InternalError)
        _, port = refused.stream.socket.getsockname()
        assert [fault.remote for fault in faults] == [f"127.0.0.1:{port}"]
        assert faults[0].error.startswith("OSError at stream.py:")
        assert relay.relay.admission.handshakes == 0
        phone = await relay.phone()
        await phone.send_text("1")
        assert '"frame":1' in await honest.next_message()


async def test_a_socket_that_cannot_be_served_gives_its_descriptor_back_to_the_reserve() -> None:
    events: list[Event] = []

    def arrive(sock: socket.socket) -> None:
        # As if it had been accepted on the reserve.
        reserve.close()
        raise OSError

    async def handle(arrived: None) -> None:
        raise AssertionError

    with contextlib.closing(Reserve()) as reserve, socket.create_server(("127.0.0.1", 0)) as real:
        real.setblocking(False)
        listener = Listener(real, Address("127.0.0.1", 0), reserve=reserve)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_connections, listener, arrive, handle, nursery, events.append)
            for count in (1, 2):
                client = await trio.open_tcp_stream(*real.getsockname())
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await client.receive_some(1) == b""
                await client.aclose()
                assert reserve.held
                assert len(events) == count
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES])
def test_a_reserve_that_cannot_be_had_now_is_had_later(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    with contextlib.closing(Reserve()) as reserve:
        reserve.close()
        with monkeypatch.context() as patched:
            patched.setattr("os.open", refuse)
            reserve.hold()
            assert not reserve.held
        reserve.hold()
        assert reserve.held
