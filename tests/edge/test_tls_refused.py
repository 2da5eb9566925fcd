"""What no client gets by TLS, however it asks: weak ciphers, other handshakes, early data, endless answers."""

import contextlib
import hmac
import socket
import ssl
import subprocess
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import trio
import trustme
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relayd.edge.certificates import read_certificate
from relayd.edge.stream import PlainStream
from relayd.edge.tls import TlsStream
from relayd.ops.events import TlsRefused
from tests.edge.pairs import Pair, under_tls
from tests.relay_process import WAIT

HANDSHAKE, DATA = 22, 23
"""Kinds of records (RFC 5246, section 6.2.1)."""

CLIENT_HELLO = b"\x01\x00\x00\x00"
"""Begins another handshake. Nobody reads what is missing in it."""

WARNING = 5 + 8 + 2 + 16
"""Bytes of the record that says no to it."""

MOST = 64 * 1024
"""Bytes of such answers that wait for a peer, at most."""

CBC = "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA"
RSA_TRANSPORT = "AES128-GCM-SHA256:AES256-GCM-SHA384"


@pytest.mark.parametrize(
    ("ciphers", "key_type"),
    [(CBC, trustme.KeyType.ECDSA), (RSA_TRANSPORT, trustme.KeyType.RSA)],
    ids=["unauthenticated", "not-forward-secret"],
)
async def test_client_that_can_only_do_without_authenticated_encryption_or_forward_secrecy_gets_an_alert(
    pair: Pair, ciphers: str, key_type: trustme.KeyType
) -> None:
    pair.write(pair.issue(key_type=key_type))
    context = pair.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with under_tls(pair) as relay:
        for offered, refused in ((ciphers, True), (f"{ciphers}:ECDHE+AESGCM", False)):
            context.set_ciphers(offered)
            raw = (await relay.connect()).stream
            client = trio.SSLStream(raw, context, server_hostname="127.0.0.1", https_compatible=True)
            if refused:
                with pytest.raises(trio.BrokenResourceError) as error:
                    await client.do_handshake()
                assert isinstance(error.value.__cause__, ssl.SSLError)
                assert error.value.__cause__.reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"
            else:
                await client.do_handshake()
        assert [event.reason for event in relay.seen(TlsRefused)] == ["NO_SHARED_CIPHER"]


async def said_by_openssl(port: int, version: str, *lines: bytes, until: bytes) -> bytes:
    """What ``openssl s_client`` prints who types ``lines``, as far as ``until``."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-msg"]
    # What is typed too early is no command to it.
    ready, said = b"Verify return code: ", b""
    async with trio.open_nursery() as nursery:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process: trio.Process = await nursery.start(partial(trio.run_process, command, check=False, **pipes))
        assert process.stdin is not None
        assert process.stdout is not None
        with trio.fail_after(WAIT):
            async for part in process.stdout:
                said += part
                if lines and ready in said:
                    await process.stdin.send_all(b"".join(lines))
                    lines = ()
                if until in said:
                    break
        nursery.cancel_scope.cancel()
    assert until in said, said.decode("utf-8", "replace")
    return said


async def test_renegotiation_is_refused(pair: Pair) -> None:
    async with under_tls(pair) as relay:
        said = await said_by_openssl(relay.port, "-tls1_2", b"R\n", until=b" no_renegotiation\n")
    assert said.count(b", ServerHello\n") == 1
    # OpenSSL 3 refuses it by itself, and this is for those before it.
    assert read_certificate(str(pair.chain), str(pair.key)).context.options & ssl.OP_NO_RENEGOTIATION


async def test_no_ticket_allows_early_data(pair: Pair) -> None:
    async with under_tls(pair) as relay:
        said = await said_by_openssl(relay.port, "-tls1_3", until=b"\nread R BLOCK\n")
    assert b"Post-Handshake New Session Ticket arrived" in said
    assert b"    Max Early Data: 0\n" in said


class Scarce(PlainStream):
    """A socket whose peer reads only if it is told to."""

    __slots__ = ("reads",)
    reads: bool

    def try_send(self, frames: Sequence[bytes | memoryview]) -> int:
        return sum(map(len, frames)) if self.reads else 0


class Sealer:
    """Encrypts records of any kind as a client of TLS 1.2 does (RFC 5288), which no library lets one do."""

    def __init__(self, master_secret: bytes, client_random: bytes, server_random: bytes) -> None:
        seed = b"key expansion" + server_random + client_random
        block, step = b"", seed
        while len(block) < 40:
            step = hmac.digest(master_secret, step, "sha256")
            block += hmac.digest(master_secret, step + seed, "sha256")
        self._cipher = AESGCM(block[:16])
        self._salt = block[32:36]
        # The first was the client's Finished.
        self._number = 1

    def sealed(self, kind: int, content: bytes) -> bytes:
        """A record."""
        number = self._number.to_bytes(8, "big")
        self._number += 1
        head = bytes([kind]) + b"\x03\x03"
        associated = number + head + len(content).to_bytes(2, "big")
        encrypted = number + self._cipher.encrypt(self._salt + number, content, associated)
        return head + len(encrypted).to_bytes(2, "big") + encrypted


def shaken(below: PlainStream, pair: Pair, on_limit: Callable[[], None]) -> tuple[TlsStream, Sealer]:
    """Our end of TLS 1.2 above ``below``, and what its client can send."""
    server = read_certificate(str(pair.chain), str(pair.key)).context
    client = pair.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    keys = pair.chain.with_name("keys")
    client.keylog_filename = str(keys)
    received, sent, incoming, outgoing = (ssl.MemoryBIO() for _ in range(4))
    ours = server.wrap_bio(received, sent, server_side=True)
    theirs = client.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    said = b""
    for side in (theirs, ours) * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
        received.write(outgoing.read())
        said += (new := sent.read())
        incoming.write(new)
    _, client_random, master_secret = keys.read_text().splitlines()[-1].split()
    # Behind the heads of the record and of the ServerHello in it, and its version.
    sealer = Sealer(bytes.fromhex(master_secret), bytes.fromhex(client_random), said[11:43])
    return TlsStream(below, ours, received, sent, on_limit), sealer


@pytest.mark.parametrize("reads", [False, True])
def test_peer_that_begins_handshakes_and_never_reads_the_answers_is_hung_up_on(pair: Pair, reads: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        below = Scarce(ours)
        below.reads = reads
        told: list[bool] = []
        stream, sealer = shaken(below, pair, lambda: told.append(True))
        answers = 0
        # With a byte of data behind each, so that there are none too many without data.
        while answers * WARNING < 2 * MOST:
            for _ in range(30):
                theirs.sendall(sealer.sealed(HANDSHAKE, CLIENT_HELLO) + sealer.sealed(DATA, b"x"))
            data = stream.try_receive(65_536)
            answers += 30
            if data == b"":
                break
            assert data == b"x" * 30
            assert stream.kept() == (0 if reads else answers * WARNING)
        if reads:
            assert answers * WARNING >= 2 * MOST
        else:
            assert MOST < answers * WARNING <= MOST + 30 * WARNING
            assert stream.try_receive(65_536) == b""
        assert told == ([] if reads else [True])
