"""The real daemon behind a real HAProxy, as docs/operations.md configures it, with certificates from a CA."""

import subprocess
from contextlib import ExitStack
from pathlib import Path

from tests.acme.fakes import made_certificate
from tests.acme.issuing import DOMAIN, Start, flags, served, store
from tests.acme.pebble import Pebble
from tests.edge.proxies import documented, haproxy
from tests.relay_process import RelayProcess, free_port, until

BELIEVING = ("--trusted-proxies", "127.0.0.1", "--metrics-listen", "0")


def test_the_first_certificate_is_issued_through_haproxy_whose_checks_are_answered_before(
    pebble: Pebble, start_relay: Start, tmp_path: Path
) -> None:
    checks = free_port()
    with ExitStack() as stack:
        # HAProxy takes a relay for up until it has asked, so let it ask before the CA does.
        with pebble.paused():
            arguments = flags(pebble, tmp_path / "state", tls=False)
            arguments[arguments.index("127.0.0.1:0")] += "+proxy"
            relay = start_relay(*arguments, "--listen", f"127.0.0.1:{checks}+plain+proxy", *BELIEVING)
            changes = {
                "bind :443": f"bind 127.0.0.1:{pebble.tls_port}",
                "127.0.0.1:8443": f"127.0.0.1:{relay.port}",
                "port 8081": f"port {checks}",
            }
            stack.enter_context(haproxy(tmp_path, documented("haproxy", 1, changes), pebble.tls_port))
            until(lambda: answered_checks(relay), "check")
            assert relay.events("certificate_issued") == []
        relay.event("certificate_issued", domain=DOMAIN)
        served(relay, pebble.root(), by=pebble.tls_port)
    assert relay.events("certificate_failed") == relay.events("proxy_refused") == []
    assert "is DOWN" not in (tmp_path / "haproxy.log").read_text()


def test_haproxy_that_checks_through_tls_finds_a_relay_up_that_has_a_certificate(
    pebble: Pebble, start_relay: Start, tmp_path: Path
) -> None:
    certificate = made_certificate(DOMAIN)
    store(tmp_path / "state", pebble, f"{DOMAIN}.pem", certificate.pem)
    arguments = flags(pebble, tmp_path / "state", tls=False)
    arguments[arguments.index("127.0.0.1:0")] += "+proxy"
    relay = start_relay(*arguments, *BELIEVING)
    port = free_port()
    changes = {
        "bind :443": f"bind 127.0.0.1:{port}",
        "127.0.0.1:8443": f"127.0.0.1:{relay.port}",
        "check port 8081 check-send-proxy": "check check-ssl verify none",
    }
    with haproxy(tmp_path, documented("haproxy", 1, changes), port):
        # A check that is refused takes the server down at once.
        until(lambda: answered_checks(relay), "check")
        served(relay, certificate.chain_pem.decode(), by=port)
    assert "is DOWN" not in (tmp_path / "haproxy.log").read_text()


def answered_checks(relay: RelayProcess) -> int:
    """How often /readyz has said that all is well."""
    url = f"http://{relay.event('metrics_listening')['address']}/metrics"
    text = subprocess.run(["curl", "-fsS", url], capture_output=True, check=True, text=True).stdout
    name = 'relayd_http_requests_total{endpoint="readyz",status="200"} '
    return sum(int(float(line.removeprefix(name))) for line in text.splitlines() if line.startswith(name))
