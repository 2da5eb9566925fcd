"""Everything that can go wrong between a relay and its CA, and is to cost nobody anything: `make acme`."""

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import asdict
from trio.testing import MockClock

from relayd.acme.certificate import Certificate
from relayd.ops.events import (
    AcmeAccountOpened,
    CertificateFailed,
    CertificateIssued,
    CertificateRenewed,
    Event,
    InternalError,
)
from relayd.values import Address
from tests.acme.fakes import DAY, ON_A_SMALL_DISK, made_certificate
from tests.acme.issuing import DOMAIN, Start, flags, served, store, stored
from tests.acme.pebble import Pebble, running_pebble
from tests.network import network_of_its_own
from tests.relay_process import WAIT, RelayProcess, until
from tests.trio_client import RelayUnderTest, relay_under_test


def test_a_short_lived_certificate_is_renewed_again_and_again(start_relay: Start, tmp_path: Path) -> None:
    with running_pebble(tmp_path / "pebble", certificateValidityPeriod=6) as pebble:
        relay = start_relay(*flags(pebble, tmp_path / "state", http=True))
        relay.event("certificate_issued")
        first = stored_once(tmp_path / "state", pebble)
        relay.event("certificate_renewed")
        until(lambda: stored(tmp_path / "state", pebble).ends > first.ends, "renewed file")
        assert len(relay.events("acme_account_opened")) == 1


def stored_once(state: Path, pebble: Pebble) -> Certificate:
    """What the state directory has as soon as it has anything."""
    until(lambda: list(state.glob(f"*/{DOMAIN}.pem")), "file")
    return stored(state, pebble)


def test_each_domain_has_its_own_certificate_and_one_that_fails_holds_up_no_other(
    pebble: Pebble, start_relay: Start, tmp_path: Path
) -> None:
    names = ("one.example.org", "blocked.example", "two.example.org")
    relay = start_relay(*flags(pebble, tmp_path / "state", *names))
    for name in (names[0], names[2]):
        relay.event("certificate_issued", domain=name)
    relay.event("certificate_failed", domain=names[1], problem="rejectedIdentifier")
    serials = {served(relay, pebble.root(), name) for name in (names[0], names[2])}
    assert len(serials) == 2


async def test_a_wrong_answer_to_a_challenge_is_refused_and_the_other_kind_is_next(
    pebble: Pebble, tmp_path: Path, mock_clock: MockClock
) -> None:
    mock_clock.rate = 20  # Three seconds for the minute until the next attempt.
    wrong = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwrong"

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65_536)
            await stream.send_all(wrong)

    # The relay's own port is another one: the CA meets somebody else.
    impostors = await trio.open_tcp_listeners(pebble.http_port, host="127.0.0.1")
    settings = {**in_this_loop(pebble, tmp_path / "state"), "http_listen": (Address("127.0.0.1", 0),)}
    async with trio.open_nursery() as nursery, relay_under_test(**settings) as relay:
        nursery.start_soon(trio.serve_listeners, answer, impostors)
        await seen(relay, CertificateFailed)
        # The CA comes to the relay itself, on the port of TLS.
        await seen(relay, CertificateIssued)
        (failed,) = relay.seen(CertificateFailed)
        assert failed.challenge == "http-01"
        assert failed.problem in ("unauthorized", "incorrectResponse")
        assert "key authorization" not in str(relay.events)
        nursery.cancel_scope.cancel()


def in_this_loop(pebble: Pebble, state: Path) -> dict[str, Any]:
    """Settings of a relay in the test's own loop that asks ``pebble``, and meets tls-alpn-01 where it looks."""
    return {
        "listen": (Address("127.0.0.1", pebble.tls_port),),
        "domain": (DOMAIN,),
        "state_dir": str(state),
        "acme_directory": pebble.directory,
        "acme_ca_file": str(pebble.ca_file),
        "handshake_timeout": 200.0,
    }


async def seen(relay: RelayUnderTest, event_type: type[Event], **fields: object) -> None:
    """Wait for an event that has ``fields``, on a clock that is 20 times as fast."""
    with trio.fail_after(20 * WAIT):
        while True:
            found = [asdict(event).items() for event in relay.seen(event_type)]
            if any(fields.items() <= each for each in found):
                return
            await trio.sleep(0.1)


def test_nonces_that_are_refused_are_replaced(start_relay: Start, tmp_path: Path) -> None:
    with running_pebble(tmp_path / "pebble", env={"PEBBLE_WFE_NONCEREJECT": "30"}) as pebble:
        relay = start_relay(*flags(pebble, tmp_path / "state"))
        relay.event("certificate_issued")


def test_a_ca_that_takes_no_nonce_at_all_is_a_failure_and_no_endless_loop(
    start_relay: Start, tmp_path: Path
) -> None:
    with running_pebble(tmp_path / "pebble", env={"PEBBLE_WFE_NONCEREJECT": "100"}) as pebble:
        relay = start_relay(*flags(pebble, tmp_path / "state"))
        relay.event("certificate_failed", problem="badNonce")
        assert pebble.log().count("sign-me-up") < 20


HMAC_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


def test_a_ca_for_customers_only_takes_the_key_from_a_file(start_relay: Start, tmp_path: Path) -> None:
    config = {"externalAccountBindingRequired": True, "externalAccountMACKeys": {"kid-1": HMAC_KEY}}
    with running_pebble(tmp_path / "pebble", **config) as pebble:  # type: ignore[arg-type]
        without = start_relay(*flags(pebble, tmp_path / "state"))
        failed = without.event("certificate_failed", problem="externalAccountRequired")
        assert "--acme-eab-file" in failed["advice"]
        without.stop()
        file = tmp_path / "eab.toml"
        file.touch(mode=0o600)
        file.write_text(f'key-id = "kid-1"\nhmac-key = "{HMAC_KEY}"\n')
        relay = start_relay(*flags(pebble, tmp_path / "state"), "--acme-eab-file", str(file))
        relay.event("certificate_issued")
        assert HMAC_KEY not in relay.log_text()


def test_an_outage_of_the_ca_costs_nobody_anything(start_relay: Start, tmp_path: Path) -> None:
    pebble = Pebble(tmp_path / "pebble")
    now = datetime.now(UTC)
    old = made_certificate(DOMAIN, now - 70 * DAY, now + 20 * DAY)
    store(tmp_path / "state", pebble, f"{DOMAIN}.pem", old.pem)
    relay = start_relay(*flags(pebble, tmp_path / "state"))
    relay.event("certificate_failed", problem="caUnreachable")
    served(relay, old.chain_pem.decode())
    assert relay.stop() == 0


@pytest.mark.parametrize("patience", [1, 30])
def test_a_name_server_that_does_not_answer_costs_nobody_anything(
    start_relay: Start, tmp_path: Path, patience: int
) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(f"nameserver 127.0.0.1\noptions timeout:{patience} attempts:1\n")
    resolver_in_place = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"')
    pebble = Pebble(tmp_path / "pebble")
    pebble.directory = "https://ca.example.org/directory"
    old = made_certificate(DOMAIN, datetime.now(UTC) - 70 * DAY, datetime.now(UTC) + 20 * DAY)
    store(tmp_path / "state", pebble, f"{DOMAIN}.pem", old.pem)
    with network_of_its_own(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 53))
        mute.settimeout(WAIT)
        relay = start_relay(*flags(pebble, tmp_path / "state"), wrapper=(*resolver_in_place, str(resolver)))
        assert b"\x02ca\x07example\x03org" in mute.recv(512)
        served(relay, old.chain_pem.decode())
        if patience == 1:
            relay.event("certificate_failed", problem="caUnknown")
            served(relay, old.chain_pem.decode())
        # In the middle of a look-up, if that takes longer than any test waits.
        assert relay.stop() == 0
    assert len(relay.events("certificate_failed")) == (1 if patience == 1 else 0)


def test_a_spoilt_cache_is_reported_and_made_anew(pebble: Pebble, start_relay: Start, tmp_path: Path) -> None:
    for file in (f"{DOMAIN}.pem", "account.key"):
        store(tmp_path / "state", pebble, file, b"-----BEGIN RUBBISH-----\n\xff")
    relay = start_relay(*flags(pebble, tmp_path / "state"))
    for file in (f"{DOMAIN}.pem", "account.key"):
        relay.event("state_not_kept", file=file, error="cannot be read")
    relay.event("certificate_issued")
    served(relay, pebble.root())


def test_on_a_full_disk_the_certificate_is_used_from_memory_and_the_log_says_so(
    pebble: Pebble, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    fill = 'dd if=/dev/zero of="$0/filling" bs=1k 2>/dev/null; exec "$@"'
    relay = RelayProcess(
        tmp_path / "log",
        *flags(pebble, state),
        wrapper=(*ON_A_SMALL_DISK, str(state), "sh", "-c", fill, str(state)),
    )
    try:
        relay.event("state_not_kept", file="account.key", error="ENOSPC")
        relay.event("certificate_issued")
        relay.event("state_not_kept", file=f"{DOMAIN}.pem", error="ENOSPC")
        served(relay, pebble.root())
        assert relay.stop() == 0
    finally:
        relay.process.kill()
        relay.process.wait()


async def test_what_an_outage_has_kept_from_us_comes_after_it_and_a_forgotten_account_is_opened_again(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    mock_clock.rate = (
        20  # Three seconds for a minute. The calendar, by which certificates live, goes on as ever.
    )
    pebble = Pebble(tmp_path / "pebble", certificateValidityPeriod=6)
    try:
        async with relay_under_test(**in_this_loop(pebble, tmp_path / "state")) as relay:
            await seen(relay, CertificateFailed, problem="caUnreachable")
            await trio.to_thread.run_sync(pebble.start)
            await seen(relay, CertificateIssued)
            assert len(relay.seen(AcmeAccountOpened)) == 1
            pebble.stop()
            await trio.to_thread.run_sync(pebble.start)
            await seen(relay, CertificateRenewed)
            assert len(relay.seen(AcmeAccountOpened)) == 2
            assert relay.seen(InternalError) == []
    finally:
        pebble.stop()


def test_while_a_ca_looks_everybody_else_gets_the_certificate_that_was_there(
    start_relay: Start, tmp_path: Path
) -> None:
    # Pebble waits before it looks, for a random time: with this, for longer than the test.
    patience = {"PEBBLE_VA_NOSLEEP": "0", "PEBBLE_VA_SLEEPTIME": "100000"}
    with running_pebble(tmp_path / "pebble", env=patience) as pebble:
        now = datetime.now(UTC)
        old = made_certificate(DOMAIN, now - 70 * DAY, now + 20 * DAY)
        store(tmp_path / "state", pebble, f"{DOMAIN}.pem", old.pem)
        relay = start_relay(*flags(pebble, tmp_path / "state"))
        root = old.chain_pem.decode()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["acme-tls/1"])

        def shown() -> bytes | None:
            with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as sock:
                try:
                    with context.wrap_socket(sock, server_hostname=DOMAIN) as tls:
                        protocol, found = tls.selected_alpn_protocol(), tls.getpeercert(binary_form=True)
                except OSError:
                    return None
            return found if protocol == "acme-tls/1" else None

        challenge = until(shown, "challenge")
        served(relay, root)
        assert ssl.DER_cert_to_PEM_cert(challenge) not in root
        assert relay.events("certificate_renewed") == []


def test_port_80_may_be_a_socket_that_was_passed_on(pebble: Pebble, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", pebble.http_port)) as passed:
        arguments = flags(pebble, tmp_path / "state", http=True, tls=False)
        arguments[arguments.index("--http-listen") + 1] = f"fd:{passed.fileno()}"
        relay = RelayProcess(tmp_path / "log", *arguments, pass_fds=(passed.fileno(),))
        try:
            relay.event("challenges_listening", passed_as=str(passed.fileno()))
            relay.event("certificate_issued")
            assert relay.stop() == 0
        finally:
            relay.process.kill()
            relay.process.wait()
