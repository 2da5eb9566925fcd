"""Contract, "Endpoints", with curl and `websockets`."""

import json
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.contract.peers import closing, peers_at, unused_server_id
from tests.relay_process import WAIT, RelayProcess

UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
ROUTING = {
    "/v1/server": {"x-pyrycode-server": "s", "x-pyrycode-version": "1", "user-agent": "a"},
    "/v1/client": {"x-pyrycode-server": "s", "x-pyrycode-token": "t", "user-agent": "a"},
}
REQUIRED = [(path, name) for path, headers in ROUTING.items() for name in headers]


def curl_command(relay: RelayProcess, path: str, headers: dict[str, str], method: str = "GET") -> list[str]:
    """A request by curl; a header whose value is empty is sent so."""
    command = ["curl", "--silent", "--include", "--http1.1", "--max-time", str(WAIT), "--request", method]
    if "user-agent" not in headers:
        # Left to itself, curl would say who it is.
        command += ["--header", "user-agent:"]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}" if value else f"{name};"]
    return [*command, relay.url(path, "http")]


def curl(relay: RelayProcess, path: str, headers: dict[str, str], method: str = "GET") -> tuple[int, str, str]:
    """Status, head and body of what curl gets."""
    try:
        done = subprocess.run(curl_command(relay, path, headers, method), capture_output=True, check=True)
    except FileNotFoundError:
        pytest.fail("curl is missing: install it")
    head, _, body = done.stdout.decode().partition("\r\n\r\n")
    return int(head.split()[1]), head.lower(), body


def health(relay: RelayProcess) -> tuple[int, str, dict[str, object]]:
    status, head, body = curl(relay, "/healthz", {})
    return status, head, json.loads(body)


def connected(relay: RelayProcess) -> tuple[object, object]:
    document = health(relay)[2]
    return document["connected_binaries"], document["connected_phones"]


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize(("path", "name"), REQUIRED)
def test_required_header_missing_or_empty_is_400_empty_body_nothing_registered_no_log_line(
    relay: RelayProcess, path: str, name: str, empty: bool
) -> None:
    relay.event("listening")
    headers = {**UPGRADE, **ROUTING[path], name: ""}
    if not empty:
        del headers[name]
    before = relay.log_text(), connected(relay)
    status, _, body = curl(relay, path, headers)
    assert (status, body) == (400, "")
    assert (relay.log_text(), connected(relay)) == before


@pytest.mark.parametrize("value", ["a" * 129, "é", "a\x7f"])
@pytest.mark.parametrize("path", ROUTING)
def test_server_id_over_128_bytes_or_outside_printable_ascii_is_400(
    relay: RelayProcess, path: str, value: str
) -> None:
    headers = {**UPGRADE, **ROUTING[path], "x-pyrycode-server": value}
    assert curl(relay, path, headers)[::2] == (400, "")


@pytest.mark.parametrize("path", ["/v1/server", "/v1/client", "/v2/server", "/v2/client"])
def test_plain_request_gets_426_with_upgrade_and_another_method_405(relay: RelayProcess, path: str) -> None:
    status, head, body = curl(relay, path, ROUTING[path.replace("v2", "v1")])
    assert (status, body) == (426, "")
    assert "\r\nupgrade: websocket" in head
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
        assert curl(relay, path, {**UPGRADE, **ROUTING[path.replace("v2", "v1")]}, method)[::2] == (405, "")


def test_another_path_gets_404_that_does_not_echo_it(relay: RelayProcess) -> None:
    status, head, body = curl(relay, "/echo-me", {})
    assert status == 404
    assert "echo-me" not in head + body


def test_v2_is_v1_under_another_name_and_a_server_id_may_have_128_bytes(relay: RelayProcess) -> None:
    with peers_at(relay, unused_server_id().ljust(128, "x")) as peers:
        phone = peers.connect("/v2/client", {"x-pyrycode-token": "t"})
        phone.send("1")
        assert json.loads(peers.binary.recv(WAIT))["frame"] == 1
        rival = peers.connect("/v2/server", {"x-pyrycode-version": "1"})
        assert closing(rival) == (4409, "server-id already claimed")


def test_token_is_never_compared_nor_logged_and_device_name_is_cut_and_escaped(relay: RelayProcess) -> None:
    with peers_at(relay, unused_server_id()) as peers:
        for token in ("secret-one", "secret-two"):
            # The client sends latin-1: these two are the UTF-8 of the control character U+0085.
            device = {"x-pyrycode-device-name": "\xc2\x85" + "d" * 200}
            phone = peers.connect("/v1/client", {"x-pyrycode-token": token, **device})
            phone.send("1")
            assert json.loads(peers.binary.recv(WAIT))["frame"] == 1
        event = relay.event("phone_registered", server_id=peers.server_id)
        assert event["device_name"] == "\\x85" + "d" * 127
        assert "secret" not in relay.log_text()


def test_ascii_control_characters_of_a_device_name_are_escaped_too(relay: RelayProcess) -> None:
    with peers_at(relay, unused_server_id()) as peers:
        upgrade = {**UPGRADE, **ROUTING["/v1/client"], "x-pyrycode-server": peers.server_id}
        command = curl_command(relay, "/v1/client", {**upgrade, "x-pyrycode-device-name": "a\x1b[31m\x7f\tb"})
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as held:
            event = relay.event("phone_registered", server_id=peers.server_id)
            held.terminate()
        assert event["device_name"] == "a\\x1b[31m\\x7f\\tb"


def test_healthz_says_ok_and_counts_and_is_not_stored(relay: RelayProcess) -> None:
    with peers_at(relay, unused_server_id()) as peers:
        before = health(relay)
        assert before[0] == 200
        assert "\r\ncache-control: no-store" in before[1]
        assert before[2].keys() == {
            "status",
            "version",
            "connected_binaries",
            "connected_phones",
            "uptime_seconds",
        }
        peers.phone()
        assert health(relay)[2]["connected_phones"] == int(str(before[2]["connected_phones"])) + 1
        peers.binary.close()
        relay.event("binary_released", server_id=peers.server_id)
        assert health(relay)[2]["connected_binaries"] == int(str(before[2]["connected_binaries"])) - 1


def test_setting_turns_the_token_requirement_off(start_relay: Callable[..., RelayProcess]) -> None:
    with peers_at(start_relay("--no-require-token"), "server") as peers:
        peers.connect("/v1/client", {}).send("1")
        assert json.loads(peers.binary.recv(WAIT))["frame"] == 1


def test_binary_version_is_logged(relay: RelayProcess) -> None:
    with peers_at(relay, unused_server_id()) as peers:
        rival = peers.connect("/v1/server", {"x-pyrycode-version": "2.3.4-beta+x"})
        assert closing(rival)[0] == 4409
        relay.event("claim_refused", server_id=peers.server_id, version="2.3.4-beta+x")


def test_while_draining_healthz_is_503_and_draining_and_upgrades_get_503(
    start_relay: Callable[..., RelayProcess],
) -> None:
    relay = start_relay("--drain-timeout", "2")
    # curl holds the connection and, knowing nothing of WebSocket, never answers a Close frame.
    holder = curl_command(relay, "/v1/server", {**UPGRADE, **ROUTING["/v1/server"]})
    with subprocess.Popen(holder, stdout=subprocess.PIPE) as held:
        relay.event("binary_claimed")
        relay.process.send_signal(signal.SIGTERM)
        relay.event("draining", connections=1)
        status, _, document = health(relay)
        assert (status, document["status"]) == (503, "draining")
        assert curl(relay, "/v1/client", {**UPGRADE, **ROUTING["/v1/client"]})[0] == 503
        assert relay.process.wait(WAIT) == 0
        answer, _ = held.communicate(timeout=WAIT)
    assert answer.endswith(b"\x88\x0f\x03\xe9shutting down")
