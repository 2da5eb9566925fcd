"""``/readyz``: for whoever asks whether to send clients here."""

import json

import trio
from trio.testing import MockClock

from relayd import __version__
from tests.admin.conftest import AdminRelay
from tests.contract.test_endpoints import curl
from tests.trio_client import relay_under_test

GET = b"GET /readyz HTTP/1.1\r\nHost: relay\r\n\r\n"


async def asked(stream: trio.SocketStream) -> tuple[bytes, dict[str, object]]:
    """Status line and document of what ``/readyz`` says."""
    await stream.send_all(GET)
    answer = b"".join([part async for part in stream])
    await stream.aclose()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], json.loads(body)


def test_readyz_of_a_relay_that_serves_is_200_without_counts_and_is_not_stored(admin: AdminRelay) -> None:
    status, head, body = curl(admin.relay, "/readyz", {})
    assert status == 200
    assert "\r\ncache-control: no-store" in head
    document = json.loads(body)
    assert document.keys() == {"status", "version", "uptime_seconds"}
    assert (document["status"], document["version"]) == ("ok", __version__)
    assert curl(admin.relay, "/readyz", {}, "POST")[0] == 405


async def test_readyz_is_503_while_draining(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        binary = await relay.binary()
        assert (await asked((await relay.connect()).stream))[0] == b"HTTP/1.1 200 OK"
        nursery.start_soon(relay.relay.drain, "test")
        await relay.until(lambda: relay.relay.draining)
        status, document = await asked((await relay.connect()).stream)
        assert status == b"HTTP/1.1 503 Service Unavailable"
        assert document["status"] == "draining"
        await binary.stream.aclose()
