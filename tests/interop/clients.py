"""Drives the clients of other languages: programs that are told what to do, and tell what happens."""

import json
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

import pytest

from tests.relay_process import WAIT, RelayProcess

__all__ = ["LANGUAGES", "Peer", "Program", "start_program"]

HERE: Final = Path(__file__).parent
TOOLS: Final = HERE.parent / ".tools"
LANGUAGES: Final = ("node", "go")


class Program:
    """A running program, and the peers in it."""

    def __init__(self, *command: str, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        self._events: dict[str, SimpleQueue[dict[str, Any]]] = defaultdict(SimpleQueue)
        self._numbers = count()
        self._reader = Thread(target=self._read)
        self._reader.start()

    def connect(self, relay: RelayProcess, path: str, server_id: str, **headers: str) -> "Peer":
        """A connected peer, with every header that a binary or a phone needs."""
        identity = f"peer-{next(self._numbers)}"
        all_headers = {
            "x-pyrycode-server": server_id,
            "x-pyrycode-version": "1",
            "x-pyrycode-token": "t",
            "user-agent": "interop",
            **headers,
        }
        peer = Peer(self, identity, self._events[identity])
        peer.do("connect", url=relay.url(path), headers=all_headers)
        peer.extensions = peer.next("open")["extensions"]
        return peer

    def tell(self, command: dict[str, Any]) -> None:
        """Have something done."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Hang up on everybody."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(WAIT)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self._events[event["id"]].put(event)


class Peer:
    """One connection in a `Program`."""

    def __init__(self, program: Program, identity: str, events: "SimpleQueue[dict[str, Any]]") -> None:
        self._program = program
        self._identity = identity
        self._events = events
        self.extensions = ""

    def do(self, action: str, **more: object) -> None:
        """Have the peer do something."""
        self._program.tell({"id": self._identity, "do": action, **more})

    def send(self, text: str, *, binary: bool = False) -> None:
        """Send a message."""
        self.do("send", text=text, binary=binary)

    def next(self, *names: str) -> dict[str, Any]:
        """The next event with one of ``names``, leaving out pings; another one fails."""
        while True:
            try:
                event = self._events.get(timeout=WAIT)
            except Empty:
                raise AssertionError(f"nothing of {names} within {WAIT:g} s") from None
            if event["event"] in names:
                return event
            assert event["event"] == "ping", event

    def message(self) -> str:
        """The next message, which has to be a text."""
        event = self.next("message")
        assert not event["binary"]
        text: str = event["text"]
        return text

    def envelope(self) -> tuple[str, str]:
        """For a binary: the conn_id and the bytes of ``frame`` of the next message."""
        text = self.message()
        conn_id: str = json.loads(text)["conn_id"]
        start = f'{{"conn_id":"{conn_id}","frame":'
        assert text.startswith(start)
        return conn_id, text.removeprefix(start).removesuffix("}")

    def closed(self) -> tuple[int, str]:
        """The code and the reason with which the connection closes."""
        event = self.next("close")
        return event["code"], event["reason"]


def start_program(language: str, ca_file: Path | None = None) -> Program:
    """Install or build what is missing, and start; with ``ca_file``, it trusts the CA there."""
    env = {} if ca_file is None else {"NODE_EXTRA_CA_CERTS": str(ca_file), "SSL_CERT_FILE": str(ca_file)}
    if language == "node":
        node, npm = _tool("node", "Debian's nodejs, 18 or later"), _tool("npm", "Debian's npm")
        installed = HERE / "node/node_modules/.package-lock.json"
        if (
            not installed.exists()
            or installed.stat().st_mtime < (HERE / "node/package-lock.json").stat().st_mtime
        ):
            subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=HERE / "node", check=True)
        return Program(node, str(HERE / "node/client.js"), env=env)
    go = _tool("go", "Go 1.24 or later, https://go.dev/dl")
    target = TOOLS / "interop-client"
    subprocess.run([go, "build", "-o", str(target), "."], cwd=HERE / "go", check=True)
    return Program(str(target), env=env)


def _tool(name: str, what: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing, which these tests need: install {what}")
    return found
