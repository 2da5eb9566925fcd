"""A relay that asks Pebble for certificates: its flags, what it serves, and what it keeps."""

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from relayd.acme.cache import open_cache
from relayd.acme.certificate import Certificate
from tests.acme.pebble import Pebble
from tests.relay_process import RelayProcess

DOMAIN = "relay.example.org"

Start = Callable[..., RelayProcess]
"""The fixture start_relay."""


def flags(pebble: Pebble, state: Path, *domains: str, http: bool = False, tls: bool = True) -> list[str]:
    """What has a relay ask ``pebble`` for certificates, and meet its challenges by the ways given."""
    state.mkdir(mode=0o700, exist_ok=True)
    port = pebble.tls_port if tls else 0
    return [
        *("--listen", f"127.0.0.1:{port}"),
        *(("--http-listen", f"127.0.0.1:{pebble.http_port}") if http else ()),
        *("--acme-directory", pebble.directory, "--acme-ca-file", str(pebble.ca_file)),
        *("--state-dir", str(state)),
        *(flag for domain in domains or (DOMAIN,) for flag in ("--domain", domain)),
    ]


def served(relay: RelayProcess, root: str, name: str = DOMAIN, *, by: int = 0) -> str:
    """Ask for /healthz by TLS, trusting ``root`` alone; the serial number of the certificate.

    ``by``: the port of a proxy to ask.
    """
    context = ssl.create_default_context(cadata=root)
    with (
        socket.create_connection(("127.0.0.1", by or relay.port), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname=name) as tls,
    ):
        tls.sendall(f"GET /healthz HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        assert tls.recv(4096).startswith(b"HTTP/1.1 200 ")
        found = tls.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def stored(state: Path, pebble: Pebble, domain: str = DOMAIN) -> Certificate:
    """What the state directory has for ``domain``."""
    cache = open_cache(state, pebble.directory)
    try:
        found = cache.read(f"{domain}.pem")
    finally:
        cache.close()
    assert found is not None
    return Certificate.from_pem(domain, found)


def store(state: Path, pebble: Pebble, file: str, content: bytes) -> None:
    """Have ``content`` in the state directory, as if an earlier run had left it there."""
    state.mkdir(mode=0o700, exist_ok=True)
    cache = open_cache(state, pebble.directory)
    cache.write(file, content)
    cache.close()
