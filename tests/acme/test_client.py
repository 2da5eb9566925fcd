"""A CA that does not behave: over real TLS, asked by the real client in its thread."""

import gzip
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme
from attrs import define

from relayd.acme import client
from relayd.acme.certificate import new_key
from relayd.acme.client import AcmeAuthority
from relayd.acme.keeper import Ask, one_thread
from relayd.acme.problems import Failed
from tests.relay_process import WAIT

Answer = Callable[[trio.abc.SendStream], Awaitable[None]]

BUSY = b'{"type":"urn:ietf:params:acme:error:serverInternal"}'


@define
class StrangeCA:
    """Answers every request as it is told."""

    authority: AcmeAuthority
    answer: Answer
    url: str = ""
    asked: int = 0

    async def serve(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            async with stream:
                while b"\r\n\r\n" not in await stream.receive_some():
                    pass
                self.asked += 1
                await self.answer(stream)
        except trio.BrokenResourceError:
            pass


@asynccontextmanager
async def ca_that(answer: Answer, tmp_path: Path) -> AsyncIterator[StrangeCA]:
    """A CA on loopback that gives this answer."""
    ours = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    ours.cert_pem.write_to_path(str(ca_file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.issue_cert("127.0.0.1").configure_cert(context)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
        ca = StrangeCA(AcmeAuthority(f"{url}/directory", new_key(), str(ca_file)), answer, url)
        nursery.start_soon(trio.serve_listeners, ca.serve, [trio.SSLListener(listener, context)])
        yield ca
        nursery.cancel_scope.cancel()


async def problem_of(ca: StrangeCA, ask: Ask) -> str:
    """What keeps us from signing in."""
    with trio.fail_after(WAIT), pytest.raises(Failed) as failed:
        await ask(ca.authority.sign_in)
    return failed.value.problem


def dripping(beginning: bytes, drop: bytes) -> Answer:
    """That, and then one drop after the other."""

    async def answer(stream: trio.abc.SendStream) -> None:
        await stream.send_all(beginning)
        while True:
            await stream.send_all(drop)
            await trio.sleep(0.02)

    return answer


def giving(body: bytes, headers: bytes = b"", status: bytes = b"200 OK") -> Answer:
    """One response."""

    async def answer(stream: trio.abc.SendStream) -> None:
        length = b"Connection: close\r\nContent-Length: %d\r\n" % len(body)
        await stream.send_all(b"HTTP/1.1 " + status + b"\r\n" + length + headers + b"\r\n" + body)

    return answer


LENGTH = b"Content-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    ("beginning", "drop"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n" + LENGTH, b" ", id="body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"x", id="header"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="interim responses"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: /\r\n" + LENGTH, b" ", id="body of a redirect"),
    ],
)
async def test_a_ca_whose_answer_never_ends_is_asked_again_and_then_may_be_well(
    beginning: bytes, drop: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = one_thread()
    async with ca_that(dripping(beginning, drop), tmp_path) as ca:
        with monkeypatch.context() as patch:
            patch.setattr(client, "_CALL", 0.2)
            assert await problem_of(ca, ask) == "caUnreachable"
        ca.answer = giving(BUSY, status=b"503 Service Unavailable")
        # By the same thread, of which there is one.
        assert await problem_of(ca, ask) == "serverInternal"
        assert ca.asked == 2


async def test_a_ca_that_sends_without_end_is_not_listened_to_for_more_than_a_mebibyte(tmp_path: Path) -> None:
    sent = 0

    async def answer(stream: trio.abc.SendStream) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b" " * 65536)
            sent += 65536

    async with ca_that(answer, tmp_path) as ca:
        assert await problem_of(ca, one_thread()) == "caMalformed"
        # Beside that, what two sockets hold.
        assert sent < 16 * 1024 * 1024


async def test_a_document_that_is_compressed_is_not_taken(tmp_path: Path) -> None:
    async with ca_that(giving(b""), tmp_path) as ca:
        directory = json.dumps(dict.fromkeys(("newNonce", "newAccount", "newOrder"), ca.url)).encode()
        ca.answer = giving(gzip.compress(directory), b"Content-Encoding: gzip\r\n")
        assert await problem_of(ca, one_thread()) == "caMalformed"
        assert ca.asked == 1
        ca.answer = giving(directory)
        assert await problem_of(ca, one_thread()) == "caMalformed"
        assert ca.asked > 2


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        pytest.param(b"[" * 100_000, b"", b"200 OK", id="JSON deeper than Python's limit"),
        pytest.param(b"", b"Location: http://127.0.0.1:1/\r\n", b"302 Found", id="away from TLS"),
    ],
)
async def test_what_no_ca_sends_is_no_fault_of_ours(
    body: bytes, headers: bytes, status: bytes, tmp_path: Path
) -> None:
    async with ca_that(giving(body, headers, status), tmp_path) as ca:
        assert await problem_of(ca, one_thread()) == "caMalformed"
