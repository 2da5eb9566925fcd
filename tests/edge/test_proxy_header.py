"""Listeners that require a PROXY header: what a connection gets that has one, and one that has none."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from typing import Any

import pytest
import trio
from attrs import evolve
from trio.testing import MockClock
from wsproto.events import AcceptConnection, RejectConnection, Request

from relayd.edge.tally import Tally
from relayd.ops.events import BinaryClaimed, ProxyRefused, RequestRefused
from relayd.values import Address
from tests.proxy_headers import LOCAL, SIGNATURE, v1, v2
from tests.trio_client import BINARY_HEADERS, Client, RelayUnderTest, relay_under_test

HERE = IPv4Network("127.0.0.1/32")
ELSEWHERE = IPv4Network("192.0.2.0/24")

LINE = v1("198.51.100.7", "127.0.0.1", 5000)
BLOCK = v2(("2001:db8::9", 5000), ("2001:db8::1", 443), checksum=True)
READY = b"GET /readyz HTTP/1.1\r\nHost: relay\r\n\r\n"


@asynccontextmanager
async def requiring(**settings: Any) -> AsyncIterator[RelayUnderTest]:
    """A relay whose only listener requires a PROXY header, from 127.0.0.1."""
    listen = (Address("127.0.0.1", 0, proxy=True),)
    async with relay_under_test(**{"listen": listen, "trusted_proxies": (HERE,), **settings}) as relay:
        yield relay


async def sent(relay: RelayUnderTest, *parts: bytes, pause: float = 0) -> Client:
    """A connection that has sent ``parts``, each so many seconds after the other."""
    client = await relay.connect()
    for part in parts:
        await client.stream.send_all(part)
        if pause:
            await trio.sleep(pause)
    return client


async def rest(client: Client) -> bytes:
    """All that the relay sends until it hangs up."""
    received = b""
    try:
        async for part in client.stream:
            received += part
    except trio.BrokenResourceError:
        pass  # reset, since there was more to read
    return received


def problems(relay: RelayUnderTest) -> list[str]:
    return [event.problem for event in relay.seen(ProxyRefused)]


def counts(relay: RelayUnderTest) -> dict[str, int]:
    tally: Tally = relay.relay.tally
    return dict(tally.proxy_headers)


async def upgraded(client: Client, **headers: str) -> int:
    """The status of the answer to a binary's upgrade."""
    fields = {**BINARY_HEADERS, "x-pyrycode-server": "server", **headers}
    extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    await client.send(Request(host="relay", target="/v1/server", extra_headers=extra))
    event = await client.next_event()
    assert isinstance(event, AcceptConnection | RejectConnection)
    return event.status_code if isinstance(event, RejectConnection) else 101


@pytest.mark.parametrize(
    ("header", "remote"), [(LINE, "198.51.100.7:5000"), (BLOCK, "[2001:db8::9]:5000")], ids=["1", "2"]
)
async def test_a_connection_is_whose_its_header_says(header: bytes, remote: str) -> None:
    async with requiring() as relay:
        client = await sent(relay, header)
        assert await upgraded(client, x_forwarded_for="6.6.6.6", forwarded="for=6.6.6.6") == 101
        await relay.until(lambda: relay.seen(BinaryClaimed))
        assert [event.remote for event in relay.seen(BinaryClaimed)] == [remote]
        assert [connection.remote for connection in relay.relay.connections] == [remote]
        assert counts(relay) == {"address": 1}


async def test_a_header_may_come_byte_by_byte_and_with_what_follows_it(autojump_clock: MockClock) -> None:
    async with requiring(handshake_timeout=20.0) as relay:
        begun = trio.current_time()
        client = await sent(relay, *(bytes([byte]) for byte in BLOCK), pause=0.01)
        await client.stream.send_all(READY)
        assert (await rest(client)).startswith(b"HTTP/1.1 200 ")
        client = await sent(relay, BLOCK + READY)
        assert (await rest(client)).startswith(b"HTTP/1.1 200 ")
        assert trio.current_time() - begun < 5
        assert counts(relay) == {"address": 2}


GARBAGE = [
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
    READY,
    b"PROXY TCP4 198.51.100.7 127.0.0.1 5000 0443\r\n" + READY,
    b"PROXY TCP4 2001:db8::9 2001:db8::1 5000 443\r\n" + READY,
    b"PROXY TCP4 198.51.100.7 127.0.0.1 5000 443\n" + READY,
    b"PROXY UNKNOWN " + b"x" * 200,
    SIGNATURE + b"\x21\x11\xff\xff",
    SIGNATURE + b"\x31\x11\0\x0c" + bytes(12) + READY,
    BLOCK[:-1] + bytes([BLOCK[-1] ^ 1]) + READY,
    bytes(5000),
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_gets_no_answer_and_does_not_wait(garbage: bytes, autojump_clock: MockClock) -> None:
    async with requiring() as relay:
        begun = trio.current_time()
        assert await rest(await sent(relay, garbage)) == b""
        assert trio.current_time() == begun
        assert problems(relay) == ["malformed"]
        assert relay.seen(ProxyRefused)[0].remote.startswith("127.0.0.1:")
        assert counts(relay) == {"malformed": 1}


async def test_a_header_cut_short_is_malformed_and_no_word_at_all_is_nothing_to_log() -> None:
    async with requiring() as relay:
        client = await sent(relay, LINE[:-1])
        await client.stream.send_eof()
        assert await rest(client) == b""
        silent = await relay.connect()
        await silent.stream.send_eof()
        assert await rest(silent) == b""
        assert problems(relay) == ["malformed"]
        assert counts(relay) == {"malformed": 1, "none": 1}


@pytest.mark.parametrize(("timeout", "seconds"), [(20.0, 5), (5.0, 5), (2.0, 2)])
@pytest.mark.parametrize("parts", [(), (b"P",), tuple(bytes([byte]) for byte in BLOCK)])
async def test_a_header_has_5_s_in_all_or_the_handshake_timeout_if_that_is_shorter(
    timeout: float, seconds: float, parts: Sequence[bytes], autojump_clock: MockClock
) -> None:
    async with requiring(handshake_timeout=timeout) as relay, trio.open_nursery() as nursery:
        client = await relay.connect()
        begun = trio.current_time()

        async def dribble() -> None:
            for part in parts:
                await client.stream.send_all(part)
                await trio.sleep(1)

        nursery.start_soon(dribble)
        assert await rest(client) == b""
        assert trio.current_time() - begun == seconds
        assert problems(relay) == ["late"]
        assert counts(relay) == {"late": 1}
        nursery.cancel_scope.cancel()


async def test_a_header_and_then_nothing_is_hung_up_on_with_the_handshake_timeout(
    autojump_clock: MockClock,
) -> None:
    async with requiring(handshake_timeout=7.0) as relay:
        client = await relay.connect()
        begun = trio.current_time()
        await client.stream.send_all(BLOCK)
        assert await rest(client) == b""
        assert trio.current_time() - begun == 7
        assert problems(relay) == []


@pytest.mark.parametrize("claimed", ["192.0.2.1", "127.0.0.1", "198.51.100.7"])
async def test_whoever_is_not_trusted_gets_no_answer_whatever_his_header_claims(claimed: str) -> None:
    async with requiring(trusted_proxies=(ELSEWHERE,)) as relay:
        assert await rest(await sent(relay, v1(claimed, "127.0.0.1") + READY)) == b""
        assert problems(relay) == ["untrusted"]
        assert counts(relay) == {"untrusted": 1}


async def test_a_second_header_is_no_request(autojump_clock: MockClock) -> None:
    """A client that sends one through a proxy which passes bytes on must not be taken for another."""
    for second in (v1("6.6.6.6", "127.0.0.1"), v2(("6.6.6.6", 1), ("127.0.0.1", 2)), LOCAL):
        async with requiring() as relay:
            assert (await rest(await sent(relay, LINE + second + READY))).startswith(b"HTTP/1.1 400 ")
            assert relay.seen(RequestRefused) == [RequestRefused("198.51.100.7:5000", 400)]


NAMELESS = [LOCAL, b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x21\0\0\0", SIGNATURE + b"\x21\x31\0\xd8" + bytes(216)]


@pytest.mark.parametrize("header", NAMELESS, ids=["LOCAL", "UNKNOWN", "UNSPEC", "AF_UNIX"])
async def test_a_header_without_an_address_is_good_for_checks_and_for_no_upgrade(header: bytes) -> None:
    async with requiring() as relay:
        for path in (b"/readyz", b"/healthz"):
            answer = await rest(await sent(relay, header, READY.replace(b"/readyz", path)))
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert problems(relay) == []
        client = await sent(relay, header)
        assert await upgraded(client, x_forwarded_for="198.51.100.7") == 403
        assert problems(relay) == ["no_address"]
        assert relay.seen(BinaryClaimed) == []
        assert counts(relay) == {"no_address": 3}


async def test_headers_of_http_that_contradict_each_other_are_good_for_checks_and_for_no_upgrade() -> None:
    async with relay_under_test(trusted_proxies=(HERE,)) as relay:
        lies = READY[:-2] + b"X-Forwarded-For: 6.6.6.6\r\nForwarded: for=198.51.100.7\r\n\r\n"
        assert (await rest(await sent(relay, lies))).startswith(b"HTTP/1.1 200 ")
        assert problems(relay) == []
        client = await relay.connect()
        assert await upgraded(client, x_forwarded_for="6.6.6.6", forwarded="for=198.51.100.7") == 403
        assert problems(relay) == ["contradiction"]
        assert counts(relay) == {}


async def test_a_proxy_is_trusted_or_not_by_the_list_of_now() -> None:
    async with requiring(trusted_proxies=(ELSEWHERE,)) as relay:
        assert await rest(await sent(relay, LINE + READY)) == b""
        relay.relay.apply(evolve(relay.settings, trusted_proxies=(ELSEWHERE, HERE)))
        assert (await rest(await sent(relay, LINE + READY))).startswith(b"HTTP/1.1 200 ")
        relay.relay.apply(relay.settings)
        assert await rest(await sent(relay, LINE + READY)) == b""
        assert problems(relay) == ["untrusted", "untrusted"]


async def test_refused_requests_are_whose_the_proxy_says() -> None:
    async with relay_under_test(trusted_proxies=(HERE,)) as relay:
        lost = b"GET /lost HTTP/1.1\r\nHost: relay\r\nX-Forwarded-For: 6.6.6.6, 198.51.100.7\r\n\r\n"
        assert (await rest(await sent(relay, lost))).startswith(b"HTTP/1.1 404 ")
        assert relay.seen(RequestRefused) == [RequestRefused("198.51.100.7", 404)]


@pytest.mark.parametrize(
    ("proxy_protocol", "marked", "required"),
    [
        ("off", None, False),
        ("off", True, True),
        ("off", False, False),
        ("require", None, True),
        ("require", True, True),
        ("require", False, False),
    ],
)
async def test_each_listener_may_go_its_own_way(
    proxy_protocol: str, marked: bool | None, required: bool
) -> None:
    listen = (Address("127.0.0.1", 0, proxy=marked),)
    async with requiring(listen=listen, proxy_protocol=proxy_protocol) as relay:
        with_header = await rest(await sent(relay, LINE + READY))
        without = await rest(await sent(relay, READY))
        assert (with_header[9:12], without[9:12]) == ((b"200", b"") if required else (b"400", b"200"))
