"""Who is calling, as the edge makes it out; and a PROXY header taken off a socket to the byte."""

import socket
from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from relayd.configuration import load
from relayd.edge.caller import Caller, read_proxy_header
from relayd.edge.client import Client
from relayd.edge.stream import PlainStream
from relayd.values import TrustedProxy
from relayd.wire.head import Head
from relayd.wire.proxy import BadProxyHeader, ProxyHeader, decode_proxy_header
from tests.proxy_headers import LOCAL, SIGNATURE, tlv, v1, v2

PROXY = Client.at("10.0.0.1", 4000)
UNIX = Client()
LINE = v1("192.0.2.7", "198.51.100.1")
HEADERS = [
    LINE,
    v1("2001:db8::9", "2001:db8::1"),
    v2(("192.0.2.7", 5000), ("198.51.100.1", 443), tlvs=tlv(2, b"relay.test"), checksum=True),
    LOCAL,
    b"PROXY UNKNOWN\r\n",
]


def trusting(text: str) -> tuple[TrustedProxy, ...]:
    return load({"trusted_proxies": text}, {}).settings.trusted_proxies


def head(**fields: str) -> Head:
    return Head(
        b"GET", b"/", 1, [(name.replace("_", "-").encode(), text.encode()) for name, text in fields.items()]
    )


def called(peer: Client, trusted: str, header: bytes = b"", **fields: str) -> str | None:
    """Who is calling, or the problem."""
    caller = Caller(peer, trusting(trusted))
    if header:
        decoded = decode_proxy_header(header)
        assert decoded
        caller.announced(decoded)
    caller.asked(head(**fields))
    if caller.problem is None:
        return str(caller.client)
    assert caller.client == peer
    return caller.problem


@pytest.mark.parametrize(
    ("trusted", "peer", "answer"),
    [
        ("off", PROXY, "10.0.0.1:4000"),
        ("10.0.0.0/8", PROXY, "192.0.2.7"),
        ("10.0.0.1", PROXY, "192.0.2.7"),
        ("10.0.0.2", PROXY, "10.0.0.1:4000"),
        ("::/0", PROXY, "10.0.0.1:4000"),
        ("10.0.0.1", Client.at("::ffff:10.0.0.1", 4000), "192.0.2.7"),
        ("fd00::/8", Client.at("fd00::1", 4000), "192.0.2.7"),
        ("10.0.0.0/8", UNIX, "unix"),
        ("unix", UNIX, "192.0.2.7"),
        ("unix", PROXY, "10.0.0.1:4000"),
    ],
)
def test_headers_of_http_are_believed_from_trusted_proxies_alone(
    trusted: str, peer: Client, answer: str
) -> None:
    assert called(peer, trusted, x_forwarded_for="6.6.6.6, 192.0.2.7") == answer
    assert called(peer, trusted, forwarded="for=6.6.6.6, for=192.0.2.7") == answer


def test_behind_a_proxy_header_the_headers_of_http_are_those_of_whom_it_names() -> None:
    """A proxy that passes bytes on passes its client's headers on too."""
    assert called(PROXY, "10.0.0.0/8", LINE, x_forwarded_for="6.6.6.6") == "192.0.2.7:5000"
    assert called(PROXY, "10.0.0.0/8", LINE, forwarded="for=6.6.6.6") == "192.0.2.7:5000"
    inner = v1("10.0.0.2", "10.0.0.1")
    assert called(PROXY, "10.0.0.0/8", inner, x_forwarded_for="6.6.6.6, 192.0.2.8") == "192.0.2.8"
    assert called(UNIX, "10.0.0.0/8", inner, x_forwarded_for="6.6.6.6, 192.0.2.8") == "192.0.2.8"
    assert called(UNIX, "unix", inner, x_forwarded_for="6.6.6.6") == "10.0.0.2:5000"


def test_where_nobody_says_who_calls_it_is_a_problem_and_headers_of_http_are_no_help() -> None:
    for header in (
        LOCAL,
        b"PROXY UNKNOWN\r\n",
        SIGNATURE + b"\x21\0\0\0",
        SIGNATURE + b"\x21\x31\0\xd8" + bytes(216),
    ):
        assert called(PROXY, "10.0.0.0/8", header, x_forwarded_for="192.0.2.7") == "no_address"
    assert called(PROXY, "10.0.0.0/8", x_forwarded_for="6.6.6.6", forwarded="for=192.0.2.7") == "contradiction"
    assert called(PROXY, "off", x_forwarded_for="6.6.6.6", forwarded="for=192.0.2.7") == "10.0.0.1:4000"


def test_what_a_proxy_does_not_tell_leaves_the_proxy() -> None:
    assert called(PROXY, "10.0.0.0/8") == "10.0.0.1:4000"
    assert called(PROXY, "10.0.0.0/8", x_forwarded_for="unknown") == "10.0.0.1:4000"


def test_a_proxy_header_is_for_trusted_proxies_and_unix_sockets_to_send() -> None:
    assert Caller(PROXY, trusting("10.0.0.0/8")).may_announce
    assert Caller(UNIX, trusting("off")).may_announce
    assert not Caller(PROXY, trusting("off")).may_announce
    assert not Caller(PROXY, trusting("unix 10.0.0.2")).may_announce


@pytest.fixture
async def ends() -> AsyncIterator[tuple[PlainStream, socket.socket]]:
    """A stream, and the socket at its other end."""
    ours, theirs = socket.socketpair()
    stream = PlainStream(ours)
    yield stream, theirs
    stream.close()
    theirs.close()


Ends = tuple[PlainStream, socket.socket]


@pytest.mark.parametrize("header", HEADERS)
async def test_a_header_is_taken_to_the_byte_and_what_follows_it_is_left(ends: Ends, header: bytes) -> None:
    stream, theirs = ends
    theirs.send(header + b"\x16\x03\x01")
    found = await read_proxy_header(stream)
    assert found == decode_proxy_header(header)
    assert stream.try_receive(100) == b"\x16\x03\x01"


@pytest.mark.parametrize("header", HEADERS)
async def test_a_header_may_come_byte_by_byte_and_does_not_wake_anybody_without_one(
    ends: Ends, header: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, theirs = ends
    waits = 0
    wait_readable = PlainStream.wait_readable

    async def counted(self: PlainStream) -> None:
        nonlocal waits
        waits += 1
        await wait_readable(self)

    monkeypatch.setattr(PlainStream, "wait_readable", counted)
    found: list[ProxyHeader | None] = []

    async def read() -> None:
        found.append(await read_proxy_header(stream))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for byte in header:
            assert found == []
            await wait_all_tasks_blocked()
            theirs.send(bytes([byte]))
    assert found == [decode_proxy_header(header)]
    assert waits == len(header)
    theirs.send(b"next")
    assert await stream.receive_some(100) == b"next"


@settings(deadline=None)
@given(st.sampled_from(HEADERS), st.data())
async def test_a_header_may_come_in_any_pieces(header: bytes, data: st.DataObject) -> None:
    sent = header + b"next"
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=4).map(sorted))
    ours, theirs = socket.socketpair()
    stream = PlainStream(ours)
    found: list[ProxyHeader | None] = []

    async def read() -> None:
        found.append(await read_proxy_header(stream))

    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
                theirs.send(sent[begin:end])
                await wait_all_tasks_blocked()
        assert found == [decode_proxy_header(header)]
        assert stream.try_receive(100) == b"next"
    stream.close()


async def test_whoever_hangs_up_without_a_word_has_sent_no_header(ends: Ends) -> None:
    stream, theirs = ends
    theirs.close()
    assert await read_proxy_header(stream) is None


@pytest.mark.parametrize("header", [LINE[:1], LINE[:-1], LOCAL[:13]])
async def test_a_header_that_is_never_finished_is_a_bad_one(ends: Ends, header: bytes) -> None:
    stream, theirs = ends
    theirs.send(header)
    theirs.close()
    with pytest.raises(BadProxyHeader):
        await read_proxy_header(stream)
