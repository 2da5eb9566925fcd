"""The real daemon and a real CA: how certificates come to be used. More of it in faults.py."""

import socket
import ssl
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.acme.fakes import DAY, made_certificate
from tests.acme.issuing import DOMAIN, Start, flags, served, store, stored
from tests.acme.pebble import Pebble, running_pebble
from tests.relay_process import RelayProcess, until


@pytest.mark.parametrize("challenge", ["tls-alpn-01", "http-01"])
def test_a_certificate_is_issued_by_either_challenge_and_used_at_once(
    pebble: Pebble, start_relay: Start, tmp_path: Path, challenge: str
) -> None:
    http = challenge == "http-01"
    relay = start_relay(*flags(pebble, tmp_path / "state", http=http, tls=not http))
    relay.event("certificate_awaited", domain=DOMAIN, authority=pebble.directory)
    relay.event("certificate_issued", domain=DOMAIN)
    served(relay, pebble.root())
    opened = relay.event("acme_account_opened")
    assert opened["terms"].startswith("data:text/plain,")
    assert relay.events("certificate_failed") == []
    assert relay.stop() == 0


def test_while_there_is_no_certificate_a_handshake_ends_with_an_alert_and_the_log_says_what_is_awaited(
    start_relay: Start, tmp_path: Path
) -> None:
    nobody = Pebble(tmp_path / "pebble")
    relay = start_relay(*flags(nobody, tmp_path / "state"))
    relay.event("certificate_awaited", domain=DOMAIN, authority=nobody.directory)
    failed = relay.event("certificate_failed", domain=DOMAIN, problem="caUnreachable")
    assert 60 <= failed["retry_in"] <= 75
    with pytest.raises(ssl.SSLError, match="alert"):
        served(relay, nobody.ca_file.read_text())
    assert relay.stop() == 0


def test_the_cached_certificate_is_used_after_a_restart_and_no_ca_is_asked(
    start_relay: Start, tmp_path: Path
) -> None:
    with running_pebble(tmp_path / "pebble") as pebble:
        relay = start_relay(*flags(pebble, tmp_path / "state"))
        relay.event("certificate_issued")
        root = pebble.root()
        serial = served(relay, root)
        until(lambda: list((tmp_path / "state").glob(f"*/{DOMAIN}.pem")), "file")
        relay.stop()
    again = start_relay(*flags(pebble, tmp_path / "state"))
    again.event("certificate_restored", domain=DOMAIN)
    assert served(again, root) == serial
    again.stop()
    assert [event["event"] for event in again.events() if event["event"].startswith(("cert", "acme"))] == [
        "certificate_restored"
    ]


def test_a_certificate_past_two_thirds_of_its_life_is_renewed_without_a_break(
    pebble: Pebble, start_relay: Start, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    old = made_certificate(DOMAIN, now - 70 * DAY, now + 20 * DAY)
    store(tmp_path / "state", pebble, f"{DOMAIN}.pem", old.pem)
    relay = start_relay(*flags(pebble, tmp_path / "state"))
    relay.event("certificate_restored", expires=old.ends.strftime("%Y-%m-%dT%H:%M:%SZ"))
    relay.event("certificate_renewed", domain=DOMAIN)
    served(relay, pebble.root())
    until(lambda: stored(tmp_path / "state", pebble) != old, "renewed file")
    assert relay.events("certificate_awaited") == []


def test_a_ca_that_never_answers_does_not_hold_up_the_end(start_relay: Start, tmp_path: Path) -> None:
    pebble = Pebble(tmp_path / "pebble")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pebble.directory = f"https://127.0.0.1:{silent.getsockname()[1]}/dir"
        relay = start_relay(*flags(pebble, tmp_path / "state"))
        silent.settimeout(20)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1) == b"\x16"
            started = time.monotonic()
            assert relay.stop() == 0
            # The limit of a question is 15 s.
            assert time.monotonic() - started < 10


def test_a_state_directory_that_others_can_enter_is_refused_with_the_command_that_mends_it(
    pebble: Pebble, start_relay: Start, tmp_path: Path
) -> None:
    arguments = flags(pebble, tmp_path / "state")
    (tmp_path / "state").chmod(0o755)
    relay = start_relay(*arguments)
    assert relay.process.wait(20) == 2
    command = relay.log_text().partition("mend it with: ")[2]
    subprocess.run(command, shell=True, check=True)
    start_relay(*arguments).event("certificate_issued")


def test_without_the_library_a_domain_is_refused_with_the_command_that_installs_it(tmp_path: Path) -> None:
    hidden = tmp_path / "acme"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'acme'\", name='acme')")
    relay = RelayProcess(
        tmp_path / "log",
        *("--domain", DOMAIN, "--state-dir", str(tmp_path)),
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert relay.process.wait(20) == 2
    assert "pip install 'relayd-VERSION.whl[acme]'" in relay.log_text()
