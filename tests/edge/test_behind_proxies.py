"""relayd behind real proxies, as docs/operations.md configures them: who is calling is who called the proxy."""

import contextlib
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.contract.peers import unused_server_id
from tests.edge.proxies import documented, haproxy, nginx
from tests.relay_process import WAIT, RelayProcess, free_port, until

Start = Callable[..., RelayProcess]

CLIENT = "127.0.0.2"
"""Whoever calls; proxies and the relay are 127.0.0.1, and trusted."""


@contextlib.contextmanager
def binary(
    port: int,
    server_id: str,
    *,
    host: str = "127.0.0.1",
    source: str = CLIENT,
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> Iterator[str]:
    """A binary that dials ``port``, for the body: its address and port."""
    fields = {"x-pyrycode-server": server_id, "x-pyrycode-version": "1"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    options: dict[str, Any] = {} if tls is None else {"ssl": tls, "server_hostname": "relay.test"}
    scheme = "ws" if tls is None else "wss"
    with socket.create_connection((host, port), source_address=(source, 0)) as sock:
        own = sock.getsockname()
        with connect(f"{scheme}://relay.test/v1/server", sock=sock, additional_headers=fields, **options):
            yield f"[{own[0]}]:{own[1]}" if ":" in own[0] else f"{own[0]}:{own[1]}"


def remote(relay: RelayProcess, server_id: str) -> str:
    """Whom the relay takes the binary of ``server_id`` for."""
    found: str = relay.event("binary_claimed", server_id=server_id)["remote"]
    return found


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def pem(authority: trustme.CA, tmp_path: Path) -> Path:
    """Certificate and key of relay.test: relay.pem has both, relay.crt and relay.key one each."""
    pair = authority.issue_cert("relay.test")
    pair.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "relay.pem"))
    pair.private_key_pem.write_to_path(str(tmp_path / "relay.key"))
    pair.cert_chain_pems[0].write_to_path(str(tmp_path / "relay.crt"))
    (tmp_path / "relay.key").chmod(0o600)
    return tmp_path / "relay.pem"


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    # Of 1.3, the threads of `websockets.sync` lose something now and then: see tests/edge/pairs.py.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


SENDING = """
listen relay
    mode tcp
    bind {bind}
    timeout connect 5s
    timeout client 90s
    timeout server 90s
    server relayd 127.0.0.1:{port} {send}
"""


@pytest.mark.parametrize(
    "send", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority"]
)
@pytest.mark.parametrize(
    ("bind", "host", "source"),
    [("127.0.0.1:{}", "127.0.0.1", CLIENT), ("[::]:{} v4v6", "127.0.0.1", CLIENT), ("[::1]:{}", "::1", "::1")],
    ids=["IPv4", "IPv4 on an IPv6 socket", "IPv6"],
)
def test_haproxy_that_passes_bytes_on_says_who_calls(
    start_relay: Start, tmp_path: Path, send: str, bind: str, host: str, source: str
) -> None:
    relay = start_relay("--listen", "127.0.0.1:0+proxy", "--trusted-proxies", "127.0.0.1")
    port, server_id = free_port(), unused_server_id()
    config = SENDING.format(bind=bind.format(port), port=relay.port, send=send)
    with haproxy(tmp_path, config, port):
        with binary(port, server_id, host=host, source=source, x_forwarded_for="6.6.6.6") as caller:
            assert remote(relay, server_id) == caller
        relay.event("binary_released", server_id=server_id, remote=caller)
    assert relay.events("proxy_refused") == []


def test_haproxy_passes_tls_on_and_its_checks_are_answered(
    start_relay: Start, tmp_path: Path, pem: Path, trusting: ssl.SSLContext
) -> None:
    checks, port, server_id = free_port(), free_port(), unused_server_id()
    relay = start_relay(
        *("--listen", "127.0.0.1:0+proxy", "--listen", f"127.0.0.1:{checks}+plain+proxy"),
        *("--trusted-proxies", "127.0.0.1", "--metrics-listen", "0"),
        *("--tls-cert", str(tmp_path / "relay.crt"), "--tls-key", str(tmp_path / "relay.key")),
    )
    changes = {
        "bind :443": f"bind 127.0.0.1:{port}",
        "127.0.0.1:8443": f"127.0.0.1:{relay.port}",
        "port 8081": f"port {checks}",
    }
    with haproxy(tmp_path, documented("haproxy", 1, changes), port):
        with binary(port, server_id, tls=trusting) as caller:
            assert remote(relay, server_id) == caller
        until(lambda: counted(relay, "no_address"), "check with a PROXY header that has no address")
    assert relay.events("proxy_refused") == []
    assert "is DOWN" not in (tmp_path / "haproxy.log").read_text()


def counted(relay: RelayProcess, outcome: str) -> int:
    """PROXY headers by their outcome, as the metrics have it."""
    address = relay.event("metrics_listening")["address"]
    text = subprocess.run(
        ["curl", "-fsS", f"http://{address}/metrics"], capture_output=True, check=True, text=True
    )
    name = f'relayd_proxy_headers_total{{outcome="{outcome}"}} '
    line = next(line for line in text.stdout.splitlines() if line.startswith(name))
    return int(float(line.removeprefix(name)))


def test_haproxy_that_does_tls_says_who_calls(
    start_relay: Start, tmp_path: Path, pem: Path, trusting: ssl.SSLContext
) -> None:
    relay = start_relay("--trusted-proxies", "127.0.0.1")
    port, server_id = free_port(), unused_server_id()
    changes = {
        "bind :443 ssl crt /etc/haproxy/relay.pem": f"bind 127.0.0.1:{port} ssl crt {pem}",
        "127.0.0.1:8080": f"127.0.0.1:{relay.port}",
    }
    with haproxy(tmp_path, documented("haproxy", 0, changes), port):
        lies = {"x_forwarded_for": "6.6.6.6, 127.0.0.1", "forwarded": "for=6.6.6.6"}
        with binary(port, server_id, tls=trusting, **lies):
            assert remote(relay, server_id) == CLIENT


def nginx_server(relay: RelayProcess, port: int, directory: Path, without: str = "") -> str:
    return documented(
        "nginx",
        0,
        {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "relay.example.org": "relay.test",
            "/etc/nginx": str(directory),
            "127.0.0.1:8080": f"127.0.0.1:{relay.port}",
            **({without: ""} if without else {}),
        },
    )


LIES = [
    {},
    {"x_forwarded_for": "6.6.6.6"},
    {"x_forwarded_for": "6.6.6.6, 127.0.0.1"},
    {"x_forwarded_for": ", ,garbage\t"},
    {"forwarded": "for=6.6.6.6"},
    {"forwarded": 'for=6.6.6.6;by="'},
    {"x_forwarded_for": "6.6.6.6", "forwarded": "for=6.6.6.6", "x_real_ip": "6.6.6.6"},
]


def test_nginx_says_who_calls_whatever_its_client_says(
    start_relay: Start, tmp_path: Path, pem: Path, trusting: ssl.SSLContext
) -> None:
    admin = tmp_path / "admin.sock"
    relay = start_relay("--trusted-proxies", "127.0.0.1", "--admin-socket", str(admin))
    port = free_port()
    with nginx(tmp_path, nginx_server(relay, port, tmp_path), port):
        for lies in LIES:
            server_id = unused_server_id()
            with binary(port, server_id, tls=trusting, **lies):
                assert remote(relay, server_id) == CLIENT
                ask = ["curl", "-fsS", "--unix-socket", str(admin), "http://relayd/connections"]
                listed = json.loads(subprocess.run(ask, capture_output=True, check=True).stdout)
                assert listed["servers"][-1]["binary"]["remote"] == CLIENT
    assert relay.events("proxy_refused") == []


def test_a_client_that_sends_the_header_which_nginx_passes_on_is_refused_and_the_log_says_why(
    start_relay: Start, tmp_path: Path, pem: Path, trusting: ssl.SSLContext
) -> None:
    relay = start_relay("--trusted-proxies", "127.0.0.1")
    port, server_id = free_port(), unused_server_id()
    with nginx(tmp_path, nginx_server(relay, port, tmp_path, 'proxy_set_header Forwarded "";'), port):
        with (
            pytest.raises(InvalidStatus, match="403"),
            binary(port, server_id, tls=trusting, forwarded="for=6.6.6.6"),
        ):
            pass
        assert relay.event("proxy_refused", problem="contradiction")["remote"].startswith("127.0.0.1:")
        with binary(port, server_id, tls=trusting, forwarded=f"for={CLIENT}"):
            assert remote(relay, server_id) == CLIENT
    assert len(relay.events("proxy_refused")) == 1


def test_two_proxies_in_a_row_are_walked_through(
    start_relay: Start, tmp_path: Path, pem: Path, trusting: ssl.SSLContext
) -> None:
    relay = start_relay("--trusted-proxies", "127.0.0.1")
    inner, outer, server_id = free_port(), free_port(), unused_server_id()
    changes = {
        "bind :443 ssl crt /etc/haproxy/relay.pem": f"bind 127.0.0.1:{outer} ssl crt {pem}",
        "127.0.0.1:8080 check": f"127.0.0.1:{inner} ssl verify none",
    }
    with (
        nginx(tmp_path, nginx_server(relay, inner, tmp_path), inner),
        haproxy(tmp_path, documented("haproxy", 0, changes), outer),
        binary(outer, server_id, tls=trusting, x_forwarded_for="6.6.6.6"),
    ):
        assert remote(relay, server_id) == CLIENT


def test_nginx_by_a_unix_socket_is_believed_if_unix_is_trusted(
    start_relay: Start, tmp_path: Path, pem: Path, trusting: ssl.SSLContext
) -> None:
    path = tmp_path / "relay.sock"
    for trusted, seen in (("off", "unix"), ("127.0.0.0/8", "unix"), ("unix", CLIENT)):
        relay = start_relay("--listen", f"unix:{path}", "--trusted-proxies", trusted)
        relay.event("listening")
        port, server_id = free_port(), unused_server_id()
        changes = {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/nginx": str(tmp_path),
            "http://127.0.0.1:8080": f"http://unix:{path}:",
        }
        with nginx(tmp_path, documented("nginx", 0, changes), port), binary(port, server_id, tls=trusting):
            assert remote(relay, server_id) == seen
        assert relay.stop() == 0


def test_haproxy_by_a_unix_socket_needs_no_trusted_proxies(start_relay: Start, tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    relay = start_relay("--listen", f"unix:{path}+proxy")
    relay.event("listening")
    port, server_id = free_port(), unused_server_id()
    config = SENDING.format(bind=f"127.0.0.1:{port}", port=0, send="send-proxy-v2")
    with (
        haproxy(tmp_path, config.replace("127.0.0.1:0", f"unix@{path}"), port),
        binary(port, server_id) as caller,
    ):
        assert remote(relay, server_id) == caller


NOTHING_CAME = (52, 55, 56)
"""curl's exit status for an empty reply, and for a reset while it sends or receives."""


def curl(relay: RelayProcess, path: str, *flags: str) -> tuple[int, bytes]:
    """curl's exit status, and all that it got."""
    done = subprocess.run(
        ["curl", "-s", "-m", "20", *flags, relay.url(path, "http")], capture_output=True, check=False
    )
    return done.returncode, done.stdout


def test_curl_gets_an_answer_with_a_header_and_not_a_byte_without(start_relay: Start) -> None:
    relay = start_relay("--listen", "127.0.0.1:0+proxy", "--trusted-proxies", "127.0.0.1")
    status, body = curl(relay, "/healthz", "--haproxy-protocol")
    assert status == 0
    assert json.loads(body)["status"] == "ok"
    status, body = curl(relay, "/healthz")
    assert status in NOTHING_CAME
    assert body == b""
    assert relay.event("proxy_refused", problem="malformed")["remote"].startswith("127.0.0.1:")


def test_curl_from_an_address_that_is_not_trusted_gets_not_a_byte(start_relay: Start) -> None:
    relay = start_relay("--listen", "127.0.0.1:0+proxy", "--trusted-proxies", "127.0.0.1")
    status, body = curl(relay, "/healthz", "--haproxy-protocol", "--interface", CLIENT)
    assert status in NOTHING_CAME
    assert body == b""
    assert relay.event("proxy_refused", problem="untrusted")["remote"].startswith(f"{CLIENT}:")


def test_a_header_that_nobody_asked_for_is_no_request(start_relay: Start) -> None:
    relay = start_relay("--trusted-proxies", "127.0.0.1")
    status, body = curl(relay, "/healthz", "--haproxy-protocol", "-i")
    assert status == 0
    assert body.startswith(b"HTTP/1.1 400 ")


def test_sockets_that_were_passed_on_may_require_a_header_too(tmp_path: Path) -> None:
    path = tmp_path / "passed.sock"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        flags = [f"--listen=fd:{tcp.fileno()}+proxy", f"--listen=fd:{unix.fileno()}+proxy"]
        refused = RelayProcess(tmp_path / "refused.log", *flags, pass_fds=[tcp.fileno(), unix.fileno()])
        assert refused.process.wait(WAIT) == 2
        assert "trusted-proxies: is not set" in refused.log_text()
        flags.append("--trusted-proxies=127.0.0.1,unix")
        relay = RelayProcess(tmp_path / "relay.log", *flags, pass_fds=[tcp.fileno(), unix.fileno()])
        try:
            relay.event("listening", address=f"unix:{path}+proxy")
            for more in ([], ["--unix-socket", str(path)]):
                assert curl(relay, "/healthz", "--haproxy-protocol", *more)[0] == 0
                assert curl(relay, "/healthz", *more)[0] in NOTHING_CAME
        finally:
            assert relay.stop() == 0


def test_the_doctor_who_is_no_proxy_says_what_may_be_wrong(start_relay: Start) -> None:
    relay = start_relay("--listen", "127.0.0.1:0+proxy", "--trusted-proxies", "127.0.0.1")
    doctor = [sys.executable, "-m", "relayd", "doctor", relay.url("")]
    said = subprocess.run(doctor, capture_output=True, check=False, text=True)
    assert said.returncode == 1
    assert "if it wants a PROXY header, dial the proxy that sends one" in " ".join(said.stdout.split())
