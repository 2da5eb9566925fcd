"""Accepting connections when the system has none to give."""

import contextlib
import resource
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.relay_process import RelayProcess, until


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
