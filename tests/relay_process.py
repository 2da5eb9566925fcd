"""The real daemon, as a process, for tests that speak to it from outside."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

WAIT = 20.0
"""Seconds until a test gives up on something that takes milliseconds on an idle machine."""


class RelayProcess:
    """``python -m relayd`` on a free port of 127.0.0.1, with its JSON log in a file."""

    def __init__(
        self,
        log: Path,
        *flags: str,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "relayd"),
        wrapper: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._log = log
        command = [*wrapper, sys.executable, *program, "--log-format", "json", "--log-level", "debug", *flags]
        if not any(flag.startswith("--listen") for flag in flags):
            command += ["--listen", "127.0.0.1:0"]
        # Whatever this machine's own relay is set to is not what is tested here.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
        clean["RELAYD_CONFIG"] = "/dev/null"
        clean["RELAYD_ADMIN_SOCKET"] = "off"
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                env={**clean, **(env or {})},
                pass_fds=pass_fds,
            )

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.process.pid

    @property
    def address(self) -> str:
        """The first address that it listens on, as its ``listening`` event says."""
        address: str = self.event("listening")["address"]
        return address

    @cached_property
    def port(self) -> int:
        """The port of `address`."""
        match = re.search(r":(\d+)(?:\+|$)", self.address)
        assert match
        return int(match[1])

    def url(self, path: str, scheme: str = "ws") -> str:
        """``ws://127.0.0.1:PORT`` and ``path``, or ``wss:`` if the relay speaks TLS there."""
        return f"{scheme}{'s' if '+tls' in self.address else ''}://127.0.0.1:{self.port}{path}"

    def log_text(self) -> str:
        """All of stderr so far."""
        return self._log.read_text()

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The events logged so far, or those called ``name``."""
        lines = [line for line in self.log_text().splitlines(keepends=True) if line.endswith("\n")]
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in events if name in (None, event["event"])]

    def event(self, name: str, **fields: object) -> dict[str, Any]:
        """Wait for an event called ``name`` that has ``fields``; return it."""

        def found() -> dict[str, Any] | None:
            return next((e for e in self.events(name) if fields.items() <= e.items()), None)

        return until(found, f"event {name} with {fields}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WAIT)


def free_port() -> int:
    """A port that nobody has, nor is given by the kernel before it is used: those are from 32768 on."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def until(probe: Callable[[], T | None], what: str, *, pause: float = 0.005) -> T:
    """Call ``probe`` until it returns something true; return that. Fails after `WAIT` seconds.

    ``pause`` is between two calls, in seconds: longer where each costs a process.
    """
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(pause)
    raise AssertionError(f"no {what} within {WAIT:g} s")


RelayT = TypeVar("RelayT", bound=RelayProcess)


@contextlib.contextmanager
def factory_of(make: Callable[..., RelayT], directory: Path) -> Iterator[Callable[..., RelayT]]:
    """A function that starts relays, all of which are stopped in the end; none may fail by itself.

    It has the parameters of ``make``, without the log.
    """
    relays: list[RelayT] = []

    def start(*flags: str, **options: Any) -> RelayT:
        relays.append(make(directory / f"relay-{len(relays)}.log", *flags, **options))
        return relays[-1]

    try:
        yield start
    finally:
        for relay in relays:
            relay.process.kill()
            relay.process.wait()
    for relay in relays:
        faults = [event for event in relay.events() if event["event"] == "internal_error"]
        assert not faults, faults
        assert "Traceback" not in relay.log_text(), relay.log_text()


def relay_factory(directory: Path) -> contextlib.AbstractContextManager[Callable[..., RelayProcess]]:
    """`factory_of` the plain `RelayProcess`."""
    return factory_of(RelayProcess, directory)
