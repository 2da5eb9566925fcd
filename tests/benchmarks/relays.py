"""The relays that are measured: how each starts, and the load against one that runs."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Final

import trustme
from attrs import frozen

__all__ = [
    "COMPILED",
    "DESCRIPTORS",
    "HAPROXY",
    "HERE",
    "PEERS",
    "RELAYS",
    "TOOLS",
    "LoadFailed",
    "Peer",
    "Running",
    "build_load",
    "finish",
    "free_port",
    "running",
    "settle",
]

HERE: Final = Path(__file__).parent
TOOLS: Final = HERE.parent / ".tools"
PEERS: Final = HERE / "peers"
HAPROXY: Final = which("haproxy") or which("haproxy", path="/usr/sbin") or ""

PATIENCE: Final = 240.0

DESCRIPTORS: Final = 20_000
"""What the largest crowd needs, at either end. Many systems allow no more to a process."""

AUTHORITY: Final = TOOLS / "bench-ca.pem"
CHAIN: Final = TOOLS / "bench-chain.pem"
KEY: Final = TOOLS / "bench-key.pem"
NAME: Final = "relay.test"
"""Whom the certificate is for."""


@frozen
class Peer:
    """A program to measure; ``{port}``, ``{tls_port}`` and ``{backend}`` are filled in."""

    command: tuple[str, ...]
    floor: bool = False
    directory: Path = HERE.parent.parent
    """Where to start it: Python finds relayd there."""

    @property
    def tls(self) -> bool:
        """Whether it listens for TLS as well."""
        return any("{tls_port}" in part for part in self.command)


# As many as there are descriptors: left to itself, relayd keeps some for others than the load.
RELAYD: Final = (
    *(sys.executable, "-m", "relayd", "--max-connections", str(DESCRIPTORS)),
    *("--listen", "127.0.0.1:{port}+plain", "--listen", "127.0.0.1:{tls_port}+tls"),
    *("--tls-cert", str(CHAIN), "--tls-key", str(KEY)),
)
COMPILED: Final = HERE.parent.parent / "build/compiled"

RELAYS: Final = {
    "relayd": Peer(RELAYD),
    "relayd, compiled": Peer(RELAYD, directory=COMPILED),
    "Go, coder/websocket": Peer(
        (str(TOOLS / "bench-go"), "127.0.0.1:{port}", "127.0.0.1:{tls_port}", str(CHAIN), str(KEY))
    ),
    "Node, ws": Peer(("node", str(PEERS / "ws/relay.js"), "{port}")),
    "websockets, uvloop": Peer((sys.executable, str(PEERS / "websockets_relay.py"), "{port}")),
    "trio-websocket": Peer((sys.executable, str(PEERS / "trio_websocket_relay.py"), "{port}")),
    "floor: trio forwarder": Peer(
        (sys.executable, str(PEERS / "trio_forwarder.py"), "{port}", "{backend}"), floor=True
    ),
    "floor: HAProxy, TCP": Peer((HAPROXY, "-db", "-f", str(PEERS / "haproxy.cfg")), floor=True),
}


@frozen
class Running:
    """A relay that listens."""

    process: subprocess.Popen[bytes]
    port: int
    tls_port: int
    backend: int

    def load(
        self, flags: tuple[str, ...], seconds: float, seed: int, *, tls: bool = False
    ) -> subprocess.Popen[str]:
        """Start the load against this relay."""
        port = self.tls_port if tls else self.port
        command = [str(TOOLS / "bench-load"), *flags, "-target", f"127.0.0.1:{port}"]
        command += ["-pid", str(self.process.pid), "-seconds", str(seconds), "-seed", str(seed)]
        if tls:
            command += ["-ca", str(AUTHORITY), "-name", NAME]
        if self.backend:
            command += ["-backend", f"127.0.0.1:{self.backend}"]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    @contextlib.contextmanager
    def crowded(self, phones: int) -> Iterator[None]:
        """Have that many idle phones on this relay. Raises `LoadFailed`."""
        load = self.load(("-work", "crowd", "-phones", str(phones)), 0.0, 0)
        assert load.stdout is not None
        try:
            if load.stdout.readline() != "here\n":
                finish(load)
            yield
        finally:
            load.communicate(timeout=PATIENCE)


class LoadFailed(Exception):
    """The load saw something wrong; the text says what."""


def finish(load: subprocess.Popen[str]) -> dict[str, float]:
    """What the load measured. Raises `LoadFailed`."""
    out, errors = load.communicate(timeout=PATIENCE)
    if load.returncode:
        raise LoadFailed(errors.strip())
    report: dict[str, float] = json.loads(out)
    return report


def build_load() -> None:
    """Build the load, and make the certificate that it trusts: P-256, as most are, under a CA of its own."""
    TOOLS.mkdir(exist_ok=True)
    subprocess.run(["go", "build", "-o", str(TOOLS / "bench-load"), "."], cwd=HERE / "load", check=True)
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    leaf = authority.issue_cert(NAME, key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(AUTHORITY)
    leaf.cert_chain_pems[0].write_to_path(CHAIN)
    KEY.touch(0o600)
    leaf.private_key_pem.write_to_path(KEY)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(name: str) -> Iterator[Running]:
    """Start the relay called ``name`` with its default settings, its output in a file; stop it in the end."""
    peer, port = RELAYS[name], free_port()
    backend = free_port() if peer.floor else 0
    tls_port = free_port() if peer.tls else 0
    command = [part.format(port=port, tls_port=tls_port, backend=backend) for part in peer.command]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RELAYD_")}
    log = TOOLS / f"bench-{list(RELAYS).index(name)}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=peer.directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**clean, "PORT": str(port), "BACKEND": str(backend)},
        )
    try:
        for awaited in filter(None, (port, tls_port)):
            for _ in range(400):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", awaited)):
                    break
                if process.poll() is not None:
                    sys.exit(f"{name} did not start: see {log}")
                time.sleep(0.05)
        yield Running(process, port, tls_port, backend)
    finally:
        process.kill()
        process.wait()


def settle(relay: Running) -> None:
    """Wait until the relay has put away what the last work left, at most 10 s."""
    before = ""
    for _ in range(100):
        stat = Path(f"/proc/{relay.process.pid}/stat").read_text()
        used = " ".join(stat.rsplit(")", 1)[1].split()[11:13])
        if used == before:
            return
        before = used
        time.sleep(0.05)
