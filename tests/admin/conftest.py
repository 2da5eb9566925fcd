"""A relay with an admin socket, and curl at it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.relay_process import WAIT, RelayProcess

Start = Callable[..., RelayProcess]


class AdminRelay:
    """A relay, as a process, and its admin socket."""

    def __init__(self, relay: RelayProcess, path: Path) -> None:
        self.relay = relay
        self.path = path
        relay.event("admin_listening", path=str(path))

    def curl(self, target: str, method: str = "GET", *before: str) -> tuple[int, str, str]:
        """Status, head and body of what curl gets; ``before`` is a command that runs it."""
        command = [*before, "curl", "--silent", "--include", "--path-as-is", "--max-time", str(WAIT)]
        command += ["--unix-socket", str(self.path), "--request", method, f"http://relayd{target}"]
        try:
            done = subprocess.run(command, capture_output=True, check=True)
        except FileNotFoundError as error:
            pytest.fail(f"{error.filename} is missing: install curl and util-linux")
        head, _, body = done.stdout.decode().partition("\r\n\r\n")
        return int(head.split()[1]), head.lower(), body

    def get(self, target: str) -> Any:
        """The document there."""
        status, _, body = self.curl(target)
        assert status == 200, body
        return json.loads(body)

    def server(self, server_id: str) -> Any:
        """What ``/connections`` says of ``server_id``, or None."""
        found = self.get("/connections")["servers"]
        return next((server for server in found if server["server_id"] == server_id), None)


@pytest.fixture
def start_admin(start_relay: Start, tmp_path: Path) -> Callable[..., AdminRelay]:
    """``start_admin(*flags)``: the real daemon with an admin socket."""

    def start(*flags: str) -> AdminRelay:
        path = tmp_path / "admin.sock"
        return AdminRelay(start_relay("--admin-socket", str(path), *flags), path)

    return start


@pytest.fixture
def admin(start_admin: Callable[..., AdminRelay]) -> AdminRelay:
    """The real daemon with an admin socket, and default settings otherwise."""
    return start_admin()
