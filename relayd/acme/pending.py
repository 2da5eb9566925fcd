"""The challenges that a CA may look at now. Listeners ask here; whoever is not the CA finds nothing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from relayd.acme.authority import Challenge

__all__ = ["Pending"]


class Pending:
    """Challenges from before their answer is announced until the CA has looked."""

    def __init__(self) -> None:
        self._responses: dict[str, str] = {}
        self._certificates: dict[str, bytes] = {}

    @property
    def responses(self) -> Mapping[str, str]:
        """Of http-01: what to answer, by token."""
        return self._responses

    @property
    def certificates(self) -> Mapping[str, bytes]:
        """Of tls-alpn-01: key and certificate in PEM, by domain."""
        return self._certificates

    @contextmanager
    def offering(self, challenge: Challenge) -> Iterator[None]:
        """Have ``challenge`` be found for the length of the body."""
        if challenge.kind == "http-01":
            found: dict[str, str] | dict[str, bytes] = self._responses
            self._responses[challenge.token] = challenge.authorization
            name = challenge.token
        else:
            found, name = self._certificates, challenge.domain
            self._certificates[name] = challenge.pem
        try:
            yield
        finally:
            del found[name]
