"""TLS: what is spoken, what is refused, and how certificates change."""

import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from websockets.sync.client import connect

from relayd.cli import main
from relayd.ops.events import CertificateLoaded, CertificateRefused, TlsRefused
from tests.edge.pairs import Pair, under_tls
from tests.relay_process import WAIT, RelayProcess
from tests.trio_client import BINARY_HEADERS, RelayUnderTest


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What relayd says with these arguments instead of starting, in one line."""
    monkeypatch.setenv("RELAYD_CONFIG", "/dev/null")

    def refuse(*arguments: str) -> str:
        assert main(arguments) == 2
        said = capfd.readouterr().err
        assert said.startswith("relayd: ")
        assert said.count("\n") == 1
        return said

    return refuse


def shake(port: int, context: ssl.SSLContext, name: str = "127.0.0.1") -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), WAIT)
    try:
        return context.wrap_socket(raw, server_hostname=name, suppress_ragged_eofs=False)
    except BaseException:
        raw.close()
        raise


def self_signed(pair: Pair, *more: str) -> None:
    """Have OpenSSL make a certificate and its key, into the same files."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=relay", "-keyout", str(pair.key), "-out", str(pair.chain), *more),
        ],
        check=True,
        capture_output=True,
    )


def names_served(port: int, pair: Pair) -> list[str]:
    with shake(port, pair.client()) as connection:
        found = connection.getpeercert()
        assert found is not None
        return [str(value) for _, value in cast("tuple[tuple[str, str], ...]", found["subjectAltName"])]


def test_curl_gets_an_answer_by_http_1_1_and_the_log_says_until_when_the_certificate_is(
    start_relay: Callable[..., RelayProcess], pair: Pair
) -> None:
    relay = start_relay(*pair.flags)
    loaded = relay.event("certificate_loaded", file=str(pair.chain))
    assert loaded["names"] == "127.0.0.1, relay.example.org"
    assert loaded["expires"].endswith("Z")
    assert relay.address.endswith("+tls")
    ca = pair.chain.with_name("ca.pem")
    pair.ca.cert_pem.write_to_path(ca)
    done = subprocess.run(
        ["curl", "-sSv", "--cacert", ca, f"https://127.0.0.1:{relay.port}/healthz"],
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert done.returncode == 0, done.stderr
    assert '"status":"ok"' in done.stdout
    assert (
        "ALPN: server accepted http/1.1" in done.stderr
        or "ALPN, server accepted to use http/1.1" in done.stderr
    )


def test_tls_1_2_and_1_3_are_spoken_by_the_suite_that_the_client_prefers_and_nothing_older(
    start_relay: Callable[..., RelayProcess], pair: Pair
) -> None:
    relay = start_relay(*pair.flags)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = pair.client()
        context.minimum_version = context.maximum_version = version
        with shake(relay.port, context) as connection:
            cipher = connection.cipher()
            assert cipher is not None
            assert version is ssl.TLSVersion.TLSv1_3 or cipher[0].startswith("ECDHE-")
            assert connection.compression() is None
    context = pair.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    suites = ["ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256"]
    for wanted in (suites, suites[::-1]):
        context.set_ciphers(":".join(wanted))
        with shake(relay.port, context) as connection:
            cipher = connection.cipher()
            assert cipher is not None
            assert cipher[0] == wanted[0]
    # OpenSSL's own client would not speak it either, unless told that it may.
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{relay.port}", "-tls1_1", "-cipher", "ALL@SECLEVEL=0"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=WAIT,
    )
    assert done.returncode != 0
    assert "alert protocol version" in done.stderr
    relay.event("tls_refused", reason="UNSUPPORTED_PROTOCOL")


def test_http_on_a_tls_port_is_hung_up_on(start_relay: Callable[..., RelayProcess], pair: Pair) -> None:
    relay = start_relay(*pair.flags)
    with socket.create_connection(("127.0.0.1", relay.port), WAIT) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
        assert not client.recv(4096).startswith(b"HTTP")
    relay.event("tls_refused", reason="HTTP_REQUEST")


def test_listener_marked_plain_speaks_no_tls_beside_one_that_does(
    start_relay: Callable[..., RelayProcess], pair: Pair, tmp_path: Path
) -> None:
    path = tmp_path / "relay.sock"
    relay = start_relay(*pair.flags, "--listen", "127.0.0.1:0", "--listen", f"unix:{path}+plain")
    relay.event("listening", address=f"unix:{path}+plain")
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", path, "http://relay/healthz"], capture_output=True, timeout=WAIT
    )
    assert done.returncode == 0
    assert names_served(relay.port, pair) == ["127.0.0.1", "relay.example.org"]


def test_connection_ends_with_a_close_notify(start_relay: Callable[..., RelayProcess], pair: Pair) -> None:
    relay = start_relay(*pair.flags)
    with shake(relay.port, pair.client()) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
        answer = b""
        # A ragged end would raise.
        while data := connection.recv(4096):
            answer += data
    assert answer.endswith(b"}")
    with connect(
        relay.url("/v1/server"),
        ssl=pair.threaded_client(),
        additional_headers={**BINARY_HEADERS, "x-pyrycode-server": "bye"},
    ) as binary:
        binary.close()
        assert binary.close_code == 1000


def test_changed_files_are_taken_on_sighup_and_no_connection_is_lost(
    start_relay: Callable[..., RelayProcess], pair: Pair
) -> None:
    relay = start_relay(*pair.flags)
    headers = {**BINARY_HEADERS, "x-pyrycode-server": "reload"}
    with connect(relay.url("/v1/server"), ssl=pair.threaded_client(), additional_headers=headers) as binary:
        relay.event("binary_claimed")
        pair.write(pair.issue("127.0.0.1", "first.example.org"))
        relay.process.send_signal(signal.SIGHUP)
        relay.event("certificate_loaded", names="127.0.0.1, first.example.org")
        assert names_served(relay.port, pair) == ["127.0.0.1", "first.example.org"]
        binary.ping().wait(WAIT)
    assert len(relay.events("binary_released")) <= 1


async def test_pair_that_does_not_fit_is_refused_loudly_and_the_one_before_stays(
    autojump_clock: MockClock, pair: Pair
) -> None:
    async with under_tls(pair) as relay:
        old = pair.key.read_bytes()
        pair.key.write_bytes(pair.issue().private_key_pem.bytes())
        await trio.sleep(30)
        assert [event.error for event in relay.seen(CertificateRefused)] == [
            f"{pair.key}: is not the key of {pair.chain}"
        ]
        assert await served(relay, pair) == b"HTTP/1.1 200 OK"
        # What comes right again is taken again.
        pair.key.write_bytes(old)
        await trio.sleep(30)
        assert len(relay.seen(CertificateLoaded)) == 2
        assert len(relay.seen(CertificateRefused)) == 1


async def test_changed_files_are_taken_by_themselves_when_both_are_there(
    autojump_clock: MockClock, pair: Pair
) -> None:
    async with under_tls(pair) as relay:
        new = pair.issue("127.0.0.1", "second.example.org")
        pair.chain.write_bytes(b"".join(blob.bytes() for blob in new.cert_chain_pems))
        await trio.sleep(6)
        pair.key.write_bytes(new.private_key_pem.bytes())
        await trio.sleep(30)
        assert [event.names for event in relay.seen(CertificateLoaded)][1:] == ["127.0.0.1, second.example.org"]
        assert relay.seen(CertificateRefused) == []
        assert await served(relay, pair) == b"HTTP/1.1 200 OK"


async def test_files_that_vanish_are_refused_and_come_back(autojump_clock: MockClock, pair: Pair) -> None:
    async with under_tls(pair) as relay:
        away = pair.chain.rename(pair.chain.with_suffix(".away"))
        await trio.sleep(30)
        assert [event.error for event in relay.seen(CertificateRefused)] == [
            f"{pair.chain}: cannot be read: No such file or directory"
        ]
        away.rename(pair.chain)
        await trio.sleep(30)
        assert len(relay.seen(CertificateLoaded)) == 2


@pytest.mark.parametrize("between", ["für".encode(), b"MIIB"])
async def test_certificate_is_the_one_that_is_served_whatever_else_looks_like_one(
    autojump_clock: MockClock, pair: Pair, between: bytes
) -> None:
    async with under_tls(pair) as relay:
        comment = b"# -----BEGIN CERTIFICATE----- %b -----END CERTIFICATE-----\n" % between
        pair.chain.write_bytes(comment + pair.chain.read_bytes())
        await trio.sleep(30)
        assert relay.seen(CertificateRefused) == []
        assert [event.names for event in relay.seen(CertificateLoaded)] == ["127.0.0.1, relay.example.org"] * 2
        assert await served(relay, pair) == b"HTTP/1.1 200 OK"


async def test_certificate_with_a_name_that_cannot_be_read_is_refused_and_the_one_before_stays(
    autojump_clock: MockClock, pair: Pair
) -> None:
    async with under_tls(pair) as relay:
        # A DNS name of 3 bytes: "für" in Latin-1.
        self_signed(pair, "-addext", "subjectAltName=DER:3005820366fc72")
        await trio.sleep(30)
        assert [event.error for event in relay.seen(CertificateRefused)] == [
            f"{pair.chain}: has a name that is not ASCII; have it issued with the xn-- form of that name"
        ]
        assert await served(relay, pair) == b"HTTP/1.1 200 OK"


async def test_handshake_and_head_share_one_time_limit(autojump_clock: MockClock, pair: Pair) -> None:
    async with under_tls(pair, handshake_timeout=5.0) as relay:
        start = trio.current_time()
        silent = await relay.connect()
        await silent.stream.send_all(b"\x16\x03\x01")
        assert await silent.stream.receive_some(10) == b""
        assert trio.current_time() - start == pytest.approx(5.0)
        assert [event.reason for event in relay.seen(TlsRefused)] == ["TIMEOUT"]
        start = trio.current_time()
        raw = await relay.connect()
        await trio.sleep(4.0)
        client = trio.SSLStream(raw.stream, pair.client(), server_hostname="127.0.0.1", https_compatible=True)
        await client.send_all(b"GET /healthz HTTP/1.1\r\n")
        assert (await client.receive_some(100)).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - start == pytest.approx(5.0)


@pytest.mark.parametrize("command", [(), ("check",)], ids=["start", "check"])
def test_key_that_others_can_read_is_refused_with_the_command_that_mends_it(
    pair: Pair, command: Sequence[str], refused: Callable[..., str]
) -> None:
    pair.key.chmod(0o644)
    said = refused(*command, *pair.flags)
    assert f"{pair.key}: others can read this key; mend it with: chmod o= {pair.key}" in said
    subprocess.run(said.rpartition("with: ")[2], shell=True, check=True)
    assert pair.key.stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_served_is_refused_at_the_start_in_one_line(
    pair: Pair, tmp_path: Path, refused: Callable[..., str]
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(pair.issue().private_key_pem.bytes())
    other.chmod(0o600)
    assert f"{other}: is not the key of {pair.chain}" in refused(
        "--tls-cert", str(pair.chain), "--tls-key", str(other)
    )
    pair.chain.chmod(0o600)
    assert "there is no private key in PEM" in refused(
        "--tls-cert", str(pair.chain), "--tls-key", str(pair.chain)
    )
    assert "there is no certificate in PEM" in refused("--tls-cert", str(pair.key), "--tls-key", str(pair.key))
    assert "/dev/null: is no file" in refused("--tls-cert", str(pair.chain), "--tls-key", "/dev/null")
    assert "No such file" in refused("--tls-cert", "/nowhere/c.pem", "--tls-key", str(pair.key))
    assert "tls-key: is not set" in refused("--tls-cert", str(pair.chain))
    assert "tls-cert: is not set" in refused("--tls-key", str(pair.key))
    assert "127.0.0.1:0+tls is to speak TLS" in refused("--listen", "127.0.0.1:0+tls")
    subprocess.run(
        ["openssl", "pkey", "-in", pair.key, "-aes256", "-passout", "pass:secret", "-out", other], check=True
    )
    assert "is encrypted" in refused("--tls-cert", str(pair.chain), "--tls-key", str(other))


def test_certificate_for_clients_only_is_refused_and_an_expired_one_is_served_loudly(
    start_relay: Callable[..., RelayProcess], pair: Pair, refused: Callable[..., str]
) -> None:
    self_signed(pair, "-addext", "extendedKeyUsage=clientAuth")
    assert "no client would accept it" in refused(*pair.flags)
    pair.write(pair.ca.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC)))
    relay = start_relay(*pair.flags)
    assert relay.event("certificate_loaded")["expires"] == "has expired"


async def served(relay: RelayUnderTest, pair: Pair) -> bytes:
    """The status line of ``/healthz``."""
    raw = (await relay.connect()).stream
    client = trio.SSLStream(raw, pair.client(), server_hostname="127.0.0.1", https_compatible=True)
    await client.send_all(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
    return bytes((await client.receive_some(4096)).partition(b"\r\n")[0])
