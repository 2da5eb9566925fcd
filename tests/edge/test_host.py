"""Whom a request is for, with ``--domain``: another host than those gets 421."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from relayd.acme.cache import open_cache
from relayd.settings import Settings
from tests.acme.fakes import made_certificate
from tests.trio_client import RelayUnderTest, relay_under_test

DOMAIN = "relay.example.org"


class Asking:
    """A relay with a certificate from an earlier run, and a client that trusts it."""

    def __init__(self, relay: RelayUnderTest, trusting: ssl.SSLContext) -> None:
        self.relay = relay
        self._trusting = trusting

    async def status(self, request: str) -> int:
        """What a request is answered."""
        tcp = await trio.open_tcp_stream("127.0.0.1", self.relay.port)
        async with trio.SSLStream(tcp, self._trusting, server_hostname=DOMAIN, https_compatible=True) as tls:
            await tls.send_all(f"{request}\r\n".encode())
            return int(bytes(await tls.receive_some(4096)).split()[1])

    async def check(self, path: str, host: str = "", version: str = "1.0", method: str = "GET") -> int:
        """What a request as a load balancer's is answered."""
        return await self.status(f"{method} {path} HTTP/{version}\r\n{host}")


@pytest.fixture
async def asking(tmp_path: Path) -> AsyncIterator[Asking]:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    certificate = made_certificate(DOMAIN)
    cache = open_cache(state, Settings().acme_directory)
    cache.write(f"{DOMAIN}.pem", certificate.pem)
    cache.close()
    async with relay_under_test(
        domain=(DOMAIN,),
        state_dir=str(state),
    ) as relay:
        yield Asking(relay, ssl.create_default_context(cadata=certificate.chain_pem.decode()))


async def test_a_check_that_names_no_host_is_answered_and_nothing_else_is(asking: Asking) -> None:
    for path in ("/healthz", "/readyz", "/readyz?from=haproxy"):
        assert await asking.check(path) == 200
        # How HTTP/1.1 says that there is no name (RFC 9112, section 3.2).
        assert await asking.check(path, "Host:\r\n", "1.1") == 200
        for host in ("another.example", "127.0.0.1", f"127.0.0.1:{asking.relay.port}", f"a.{DOMAIN}"):
            assert await asking.check(path, f"Host: {host}\r\n", "1.1") == 421
            assert await asking.check(path, f"Host: {host}\r\n", "1.0") == 421
    assert await asking.check("/healthz", method="HEAD") == 405
    for path in ("/", "/nowhere", "/healthz/", "/v1/client", "/v2/server"):
        assert await asking.check(path) == 421
        assert await asking.check(path, "Host:\r\n", "1.1") == 421
