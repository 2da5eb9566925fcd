"""The relay that is looked at: its URL, taken apart."""

import ipaddress
import ssl
from typing import Final
from urllib.parse import urlsplit

from attrs import frozen

__all__ = ["BadTarget", "Plan", "Target", "parse", "trusting"]

_PORTS: Final = {"ws": 80, "wss": 443}


class BadTarget(Exception):
    """A URL or a file of certificates that nothing can be done with."""


@frozen
class Target:
    """Where the relay is. ``prefix`` goes before every path, and is empty or begins with a slash."""

    url: str
    host: str
    port: int
    prefix: str
    secure: bool

    @property
    def authority(self) -> str:
        """The value of a Host header (RFC 9110, section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["wss" if self.secure else "ws"] else f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether nobody but this machine can listen on the way."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")


@frozen
class Plan:
    """A target, and how to look at it. ``timeout`` bounds each wait, ``idle`` is a time of silence; seconds."""

    target: Target
    timeout: float
    idle: float
    tls: ssl.SSLContext


def parse(url: str) -> Target:
    """``wss://relay.example.org/prefix`` as a `Target`. Raises BadTarget."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadTarget(f"{url!r} is no URL: {error}") from None
    if parts.scheme not in _PORTS or not host:
        raise BadTarget(f"{url!r} does not name a relay: give ws://HOST:PORT or wss://HOST")
    if parts.username is not None or parts.password is not None:
        raise BadTarget("the URL holds a user or a password, which no relay asks for: leave it out")
    if parts.query or parts.fragment:
        raise BadTarget(f"{url!r} has more than a path: leave out what begins with ? or #")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise BadTarget(f"{url!r} holds characters that a URL may not: write a name as xn--…, a path with %XX")
    prefix = parts.path.rstrip("/")
    for endpoint in ("/v1/server", "/v1/client", "/v2/server", "/v2/client"):
        if prefix.endswith(endpoint):
            raise BadTarget(f"{url!r} names an endpoint: leave {endpoint} out")
    return Target(url, host, port or _PORTS[parts.scheme], prefix, parts.scheme == "wss")


def trusting(ca_file: str | None) -> ssl.SSLContext:
    """TLS that trusts the system's authorities, or only those in ``ca_file`` (PEM). Raises BadTarget."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # SSLError is one
        raise BadTarget(
            f"--ca-file {ca_file}: {error.strerror or error}: give a file of PEM certificates"
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context
