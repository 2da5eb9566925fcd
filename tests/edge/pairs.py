"""A certificate in files, and a relay that serves it in the test's own loop."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trustme
from attrs import frozen

from tests.trio_client import RelayUnderTest, relay_under_test

__all__ = ["Pair", "under_tls"]


@frozen
class Pair:
    """A certificate and its key in files, and its CA."""

    ca: trustme.CA
    chain: Path
    key: Path

    @classmethod
    def made_in(cls, directory: Path) -> "Pair":
        """A new one."""
        made = cls(trustme.CA(), directory / "chain.pem", directory / "key.pem")
        made.write(made.issue())
        return made

    @property
    def flags(self) -> tuple[str, str, str, str]:
        return "--tls-cert", str(self.chain), "--tls-key", str(self.key)

    def write(self, cert: trustme.LeafCert) -> None:
        """Put another one into the same files, as tools do that renew: by renaming."""
        for path, blobs in ((self.chain, cert.cert_chain_pems), (self.key, [cert.private_key_pem])):
            new = path.with_suffix(".new")
            new.write_bytes(b"".join(blob.bytes() for blob in blobs))
            new.chmod(0o600)
            new.rename(path)

    def issue(self, *names: str, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> trustme.LeafCert:
        return self.ca.issue_cert(*(names or ("127.0.0.1", "relay.example.org")), key_type=key_type)

    def server(self) -> ssl.SSLContext:
        """What serves it, by Python's own defaults."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        """What trusts the CA."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context

    def threaded_client(self) -> ssl.SSLContext:
        """For `websockets.sync`, which reads in one thread and writes in another, as OpenSSL does not allow.

        In TLS 1.3, which sends tickets just then, one dial in 300 or so gets no answer, be it from relayd or
        from a server of `websockets`.
        """
        context = self.client()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context


@asynccontextmanager
async def under_tls(pair: Pair, **settings: Any) -> AsyncIterator[RelayUnderTest]:
    """A relay in the test's own loop that speaks TLS alone."""
    async with relay_under_test(tls_cert=str(pair.chain), tls_key=str(pair.key), **settings) as relay:
        yield relay
