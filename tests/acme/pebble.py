"""Pebble, Let's Encrypt's test CA, as a process on loopback, with a DNS server that knows every name."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import trustme

from tests.relay_process import until


def free_port() -> int:
    """A port that nobody listens on, and that no connection is given for its own end."""
    while True:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class Pebble:
    """A CA whose directory is at `directory`, trusted by `ca_file`.

    It looks for challenges at ``http_port`` and ``tls_port`` of this machine, whatever the name.
    """

    def __init__(self, home: Path, *, env: Mapping[str, str] | None = None, **config: object) -> None:
        for tool in ("pebble", "pebble-challtestsrv"):
            assert shutil.which(tool), f"no {tool}: install the Debian package pebble"
        self._home = home
        self._env = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", **(env or {})}
        ports: set[int] = set()
        while len(ports) < 5:
            ports.add(free_port())
        self._port, self._management, self.http_port, self.tls_port, self._dns = ports
        home.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(home / "ca.pem"))
        own = authority.issue_cert("127.0.0.1")
        own.cert_chain_pems[0].write_to_path(str(home / "cert.pem"))
        own.private_key_pem.write_to_path(str(home / "key.pem"))
        settings = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(home / "cert.pem"),
            "privateKey": str(home / "key.pem"),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            **config,
        }
        (home / "pebble.json").write_text(json.dumps({"pebble": settings}))
        self.directory = f"https://127.0.0.1:{self._port}/dir"
        self.ca_file = home / "ca.pem"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start it, with nothing left of an earlier run; return when it answers."""
        dns = f"127.0.0.1:{self._dns}"
        self._spawn(
            *("pebble-challtestsrv", "-defaultIPv6", "", "-dns01", dns, "-management", ""),
            *("-http01", "", "-https01", "", "-tlsalpn01", ""),
        )
        self._spawn("pebble", "-config", str(self._home / "pebble.json"), "-dnsserver", dns)
        until(self._answers, "Pebble")

    def stop(self) -> None:
        """Stop it at once."""
        while self._processes:
            process = self._processes.pop()
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """For the body, it can be dialled and does not answer."""
        for process in self._processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in self._processes:
                process.send_signal(signal.SIGCONT)

    def root(self) -> str:
        """The root of what it issues, in PEM. Other after each start."""
        return self._get(f"https://127.0.0.1:{self._management}/roots/0").decode()

    def log(self) -> str:
        """What it has said so far."""
        return (self._home / "pebble.log").read_text()

    def _spawn(self, *command: str) -> None:
        with (self._home / f"{command[0]}.log").open("ab") as log:
            self._processes.append(subprocess.Popen(command, env=self._env, stdout=log, stderr=log))

    def _answers(self) -> bool:
        assert all(process.poll() is None for process in self._processes), self.log()
        with contextlib.suppress(OSError):
            return bool(self._get(self.directory))
        return False

    def _get(self, url: str) -> bytes:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(url, context=context, timeout=10) as answer:
            found: bytes = answer.read()
            return found


@contextlib.contextmanager
def running_pebble(home: Path, *, env: Mapping[str, str] | None = None, **config: Any) -> Iterator[Pebble]:
    """A `Pebble` that has been started."""
    pebble = Pebble(home, env=env, **config)
    try:
        pebble.start()
        yield pebble
    finally:
        pebble.stop()
