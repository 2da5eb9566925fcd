"""Each request at the admin socket, by curl, and what the peers see of it."""

import json
import signal
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest

from relayd import __version__
from tests.admin.conftest import AdminRelay
from tests.contract.peers import closing, deaf_peer, peers_at, received
from tests.relay_process import WAIT, until

ODD_ID = 'a/../b?c#d %2F[~]\\"'


def test_status_has_counts_totals_and_the_settings_that_somebody_chose(
    start_admin: Callable[..., AdminRelay],
) -> None:
    admin = start_admin("--max-phones", "3", "--grace", "60")
    with peers_at(admin.relay, "demo") as peers:
        peers.phone()
        _, conn_id = peers.phone()
        peers.to(conn_id, "x" * 1000)
        status, head, body = admin.curl("/status")
        document = json.loads(body)
        assert status == 200
        assert "\r\ncache-control: no-store" in head
        assert document["version"] == __version__
        assert document["pid"] == admin.relay.pid
        assert document["state"] == "serving"
        assert document["uptime_seconds"] > 0
        assert document["listeners"] == [f"127.0.0.1:{admin.relay.port}"]
        assert document["connected"] == {"binaries": 1, "phones": 2, "connections": 3}
        assert document["settings"] == {
            "listen": "127.0.0.1:0",
            "max-phones": "3",
            "grace": "60",
            "log-level": "debug",
            "log-format": "json",
            "admin-socket": str(admin.path),
        }
        peers.binary.close()
        admin.relay.event("binary_released")
        until(lambda: admin.get("/status")["connected"]["connections"] == 2, "end of the binary")
        document = admin.get("/status")
        assert document["connected"]["binaries"] == 0
        assert document["in_grace"] == 1
    until(lambda: admin.get("/status")["connected"]["connections"] == 0, "end of the phones")
    # What those have carried that are gone still counts.
    totals = admin.get("/status")["totals"]
    assert totals["connections"] == 3
    assert totals["frames_in"] == 3
    assert totals["bytes_out"] > 1000


def test_connections_has_server_ids_binaries_phones_and_what_each_has_carried(admin: AdminRelay) -> None:
    with peers_at(admin.relay, ODD_ID) as peers, peers_at(admin.relay, "other"):
        device = {"x-pyrycode-token": "t", "x-pyrycode-device-name": "Ada's phone"}
        phone = peers.connect("/v1/client", device)
        phone.send('"up"')
        conn_id = json.loads(peers.binary.recv(WAIT))["conn_id"]
        peers.to(conn_id, "down")
        assert received(phone) == "down"
        server = admin.server(ODD_ID)
        binary, (listed,) = server["binary"], server["phones"]
        assert server["grace_seconds_left"] is None
        assert (listed["conn_id"], listed["device_name"]) == (conn_id, "Ada's phone")
        assert listed["remote"] == admin.relay.event("phone_registered", conn_id=conn_id)["remote"]
        assert binary["version"] == "1"
        assert (binary["frames_in"], listed["frames_in"]) == (1, 1)
        assert 0 <= listed["age_seconds"] <= binary["age_seconds"]
        assert listed["backlog_bytes"] == 0
        # A masked frame of four bytes: two of header, four of mask.
        assert listed["bytes_in"] == 2 + 4 + 4
        assert admin.server("other")["phones"] == []
        assert "secret" not in admin.curl("/connections")[2]


def test_round_trips_are_measured_by_the_heartbeat(start_admin: Callable[..., AdminRelay]) -> None:
    admin = start_admin("--heartbeat-interval", "0.05")
    with peers_at(admin.relay, "demo"):
        measured = until(lambda: admin.server("demo")["binary"]["round_trip_seconds"], "round trip")
        assert 0 < measured < WAIT


def test_a_phone_that_does_not_read_has_a_backlog(admin: AdminRelay) -> None:
    with peers_at(admin.relay, "demo") as peers, deaf_peer(admin.relay, "/v1/client", "demo"):
        registered = admin.relay.event("phone_registered", server_id="demo")

        def backlog() -> int:
            peers.to(registered["conn_id"], "x" * 200_000)
            count: int = admin.server("demo")["phones"][0]["backlog_bytes"]
            return count

        assert until(backlog, "backlog") > 64


def test_a_server_id_in_its_grace_window_has_no_binary_and_the_time_left(admin: AdminRelay) -> None:
    with peers_at(admin.relay, "demo") as peers:
        peers.phone()
        peers.binary.close()
        admin.relay.event("binary_released")
        server = admin.server("demo")
        assert server["binary"] is None
        assert 0 < server["grace_seconds_left"] <= 30
        assert len(server["phones"]) == 1


def test_close_ends_one_phone_with_1001_and_its_binary_gets_the_notice(admin: AdminRelay) -> None:
    with peers_at(admin.relay, "demo") as peers:
        phone, conn_id = peers.phone()
        other, other_id = peers.phone()
        status, _, body = admin.curl(f"/connections/{conn_id}/close", "POST")
        assert (status, json.loads(body)["server_id"]) == (200, "demo")
        assert closing(phone) == (1001, "closed by operator")
        assert received(peers.binary) == {"conn_id": conn_id, "close_code": 1001}
        admin.relay.event("operator_closed", server_id="demo", conn_id=conn_id)
        admin.relay.event("phone_unregistered", conn_id=conn_id, code=1001, by="relay")
        peers.to(other_id, "still here")
        assert received(other) == "still here"
        assert admin.curl(f"/connections/{conn_id}/close", "POST")[0] == 404


def test_evict_ends_binary_and_phones_and_the_server_id_is_free_without_a_grace_window(
    admin: AdminRelay,
) -> None:
    with peers_at(admin.relay, ODD_ID) as peers:
        phone, _ = peers.phone()
        status, _, body = admin.curl(f"/servers/{quote(ODD_ID, safe='')}/evict", "POST")
        assert (status, json.loads(body)) == (200, {"phones": 1})
        assert closing(peers.binary) == (1001, "closed by operator")
        assert closing(phone) == (4404, "binary is gone")
        admin.relay.event("operator_evicted", server_id=ODD_ID, phones=1)
        assert admin.server(ODD_ID) is None
        late = peers.connect("/v1/client", {"x-pyrycode-token": "t"})
        assert closing(late) == (4404, "no server with that id")
        peers.binary = peers.connect("/v1/server", {"x-pyrycode-version": "2"})
        admin.relay.event("binary_claimed", server_id=ODD_ID, version="2")
        assert admin.relay.events("binary_reclaimed") == []
        peers.phone()
    assert admin.curl("/servers/nobody/evict", "POST")[0] == 404


def test_evict_ends_a_grace_window(admin: AdminRelay) -> None:
    with peers_at(admin.relay, "demo") as peers:
        phone, _ = peers.phone()
        peers.binary.close()
        admin.relay.event("binary_released")
        assert admin.curl("/servers/demo/evict", "POST")[0] == 200
        assert closing(phone) == (4404, "binary is gone")
        assert admin.server("demo") is None


def test_drain_tells_everybody_1001_and_ends_with_0(admin: AdminRelay) -> None:
    with peers_at(admin.relay, "demo") as peers:
        phone, _ = peers.phone()
        status, _, body = admin.curl("/drain", "POST")
        assert status == 202
        assert json.loads(body) == {
            "connections": 2,
            "drain_timeout_seconds": 10,
            "already_draining": False,
        }
        assert closing(phone) == (1001, "shutting down")
        assert closing(peers.binary) == (1001, "shutting down")
    assert admin.relay.process.wait(WAIT) == 0
    admin.relay.event("draining", cause="admin", connections=2)
    assert not admin.path.exists()


@pytest.mark.parametrize("turn", range(3))
def test_drain_of_a_relay_with_nobody_in_it_is_answered_all_the_same(admin: AdminRelay, turn: int) -> None:
    assert admin.curl("/drain", "POST")[0] == 202
    assert admin.relay.process.wait(WAIT) == 0


def test_while_it_drains_status_says_so_and_neither_a_drain_nor_a_signal_begins_another(
    start_admin: Callable[..., AdminRelay],
) -> None:
    admin = start_admin("--drain-timeout", "3")
    with deaf_peer(admin.relay, "/v1/server", "demo"):
        admin.relay.event("binary_claimed")
        begun = time.monotonic()
        assert admin.curl("/drain", "POST")[0] == 202
        admin.relay.event("draining")
        assert admin.get("/status")["state"] == "draining"
        assert json.loads(admin.curl("/drain", "POST")[2])["already_draining"] is True
        # A stop by systemd, say. The drain goes on; only one more would cut it short.
        admin.relay.process.send_signal(signal.SIGTERM)
        assert admin.relay.process.wait(WAIT) == 0
        assert time.monotonic() - begun >= 3
    assert len(admin.relay.events("draining")) == len(admin.relay.events("stopped")) == 1


@pytest.mark.parametrize(
    ("method", "target", "status", "allowed"),
    [
        ("GET", "/", 404, None),
        ("GET", "/echo-me", 404, None),
        ("GET", "/healthz", 404, None),
        ("POST", "/connections/echo-me", 404, None),
        ("POST", "/status", 405, "get"),
        ("DELETE", "/connections", 405, "get"),
        ("GET", "/drain", 405, "post"),
        ("GET", "/connections/c-x/close", 405, "post"),
        ("PUT", "/servers/x/evict", 405, "post"),
        ("POST", "/servers/%ff/evict", 404, None),
    ],
)
def test_what_is_no_request_is_refused_without_an_echo(
    admin: AdminRelay, method: str, target: str, status: int, allowed: str | None
) -> None:
    answer, head, body = admin.curl(target, method)
    assert answer == status
    assert "echo-me" not in head + body
    assert (f"\r\nallow: {allowed}" in head) == (allowed is not None)
    admin.relay.event("request_refused", remote="admin", status=status)
