"""Whom a request is for, with ``--domain``: another host than those gets 421."""

import ssl
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from relayd.acme.cache import open_cache
from relayd.ops.events import LimitReached
from relayd.settings import Settings
from relayd.values import Address
from tests.acme.fakes import made_certificate
from tests.trio_client import RelayUnderTest, relay_under_test

DOMAIN = "relay.example.org"

KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
HEADERS = "x-pyrycode-server: s\r\nx-pyrycode-version: 1\r\nuser-agent: test"
UPGRADE = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{KEY}\r\n{HEADERS}\r\n"


class Asking:
    """A relay with a certificate from an earlier run, behind a proxy, and a client that trusts it."""

    def __init__(self, relay: RelayUnderTest, trusting: ssl.SSLContext) -> None:
        self.relay = relay
        self._trusting = trusting
        self._plain_port = int(relay.relay.listening[1].partition("+")[0].rpartition(":")[2])

    async def status(self, request: str) -> int:
        """What a request is answered."""
        tcp = await trio.open_tcp_stream("127.0.0.1", self.relay.port)
        async with trio.SSLStream(tcp, self._trusting, server_hostname=DOMAIN, https_compatible=True) as tls:
            await tls.send_all(f"{request}\r\n".encode())
            answer = bytes(await tls.receive_some(4096))
        assert b"another.example" not in answer
        return int(answer.split()[1])

    async def without_tls(self, request: str) -> int:
        """What a request to the other listener is answered."""
        async with await trio.open_tcp_stream("127.0.0.1", self._plain_port) as tcp:
            await tcp.send_all(f"{request}\r\n".encode())
            return int(bytes(await tcp.receive_some(4096)).split()[1])

    async def check(self, path: str, host: str = "", version: str = "1.0", method: str = "GET") -> int:
        """What a request as a load balancer's is answered."""
        return await self.status(f"{method} {path} HTTP/{version}\r\n{host}")

    async def attempt(self, host: str, client: str) -> int:
        """What a binary of the proxy's ``client`` is answered that dials for ``host``."""
        forwarded = f"X-Forwarded-For: {client}\r\n"
        return await self.status(f"GET /v1/server HTTP/1.1\r\nHost: {host}\r\n{forwarded}{UPGRADE}")


@pytest.fixture
async def asking(mock_clock: MockClock, tmp_path: Path) -> AsyncIterator[Asking]:
    """On a clock that stands still no token comes while a test runs."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    certificate = made_certificate(DOMAIN)
    cache = open_cache(state, Settings().acme_directory)
    cache.write(f"{DOMAIN}.pem", certificate.pem)
    cache.close()
    async with relay_under_test(
        listen=(Address("127.0.0.1"), Address("127.0.0.1", tls=False)),
        domain=(DOMAIN,),
        state_dir=str(state),
        trusted_proxies=(IPv4Network("127.0.0.1"),),
        upgrade_rate=1,
        upgrade_burst=2,
    ) as relay:
        yield Asking(relay, ssl.create_default_context(cadata=certificate.chain_pem.decode()))


async def test_a_request_for_another_host_gets_421_and_no_more(asking: Asking) -> None:
    for host in (DOMAIN, DOMAIN.upper(), f"{DOMAIN}.", f"{DOMAIN}:443"):
        assert await asking.check("/healthz", f"Host: {host}\r\n", "1.1") == 200
    for host in ("another.example", f"a.{DOMAIN}", f"{DOMAIN}.another.example", "127.0.0.1", f"x{DOMAIN}:80"):
        for path in ("/healthz", "/v1/client", "/nowhere"):
            assert await asking.check(path, f"Host: {host}\r\n", "1.1") == 421
    # A health check of this machine's own.
    assert await asking.without_tls("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n") == 200


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


async def test_an_attempt_for_another_host_is_an_attempt(asking: Asking) -> None:
    assert await asking.attempt("another.example", "192.0.2.1") == 421
    assert await asking.attempt(DOMAIN, "192.0.2.1") == 101
    for host in (DOMAIN, "another.example", DOMAIN):
        assert await asking.attempt(host, "192.0.2.1") == 429
    assert [event.bound for event in asking.relay.seen(LimitReached)] == ["upgrade_rate"] * 3
    assert await asking.attempt(DOMAIN, "192.0.2.2") == 101
    # What is no attempt is not counted, for whomever it is.
    for _ in range(3):
        assert await asking.check("/v1/server", "X-Forwarded-For: 192.0.2.3\r\n", method="POST") == 421
        assert await asking.check("/healthz", "X-Forwarded-For: 192.0.2.3\r\n") == 200
    assert [await asking.attempt(DOMAIN, "192.0.2.3") for _ in range(3)] == [101, 101, 429]
