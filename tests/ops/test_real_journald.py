"""The real journald and journalctl.

journald runs in a mount namespace of its own, with a /run and a /var/log that are gone with it: the
machine's journal is no business of a test. The user namespace is for those who are not root, and for root
too, as it keeps journald from the kernel's audit.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import unix_connect

from tests.relay_process import WAIT, until

JOURNALD = "/lib/systemd/systemd-journald"

SCRIPT = """\
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/log && mkdir -p /run/systemd /run/log || exit
ln -s journal.relayd /run/systemd/journal
"$JOURNALD" relayd &
journald=$!
until [ -S /run/systemd/journal/stdout ] && [ -S /run/systemd/journal/socket ]; do sleep 0.01; done
systemd-cat sh -c 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"' sh "$@" &
relay=$!
while read -r query; do
  journalctl --namespace=relayd --sync
  journalctl --namespace=relayd --output=json --quiet $query
  echo
done
kill $relay $journald 2>/dev/null
wait
"""
"""journald, and relayd with its stderr leading there; then journalctl for each line of standard input.

systemd-cat sets JOURNAL_STREAM only in later versions than Debian's.
"""


class Machine:
    """A relay whose stderr is the journal, and that journal."""

    def __init__(self, directory: Path, *flags: str) -> None:
        for tool in ("unshare", "journalctl", "systemd-cat", JOURNALD):
            assert shutil.which(tool), f"this test needs {tool}: apt-get install systemd util-linux"
        self.socket = directory / "relay"
        settings = ["--config", "/dev/null", "--listen", f"unix:{self.socket}", *flags]
        relay = [sys.executable, "-m", "relayd", *settings]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--map-root-user", "sh", "-c", SCRIPT, "sh", *relay],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "JOURNALD": JOURNALD},
        )

    def journal(self, query: str) -> list[dict[str, Any]]:
        """What ``journalctl`` finds with these arguments."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{query}\n")
        self.process.stdin.flush()
        found = []
        while (line := self.process.stdout.readline()) != "\n":
            assert line, "the journal has ended: see its messages above"
            found.append(json.loads(line))
        return found


@pytest.fixture
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    machine = Machine(tmp_path, *getattr(request, "param", ()))
    with machine.process:
        try:
            yield machine
        finally:
            # Its script ends at the end of its input, and everything with it.
            machine.process.communicate(timeout=WAIT)


def test_journalctl_tells_the_story_of_one_server(machine: Machine) -> None:
    until(lambda: machine.journal("RELAYD_EVENT=listening"), "socket of the relay")
    for server_id in ("demo", "another"):
        headers = {"x-pyrycode-server": server_id, "x-pyrycode-version": "1.0"}
        with unix_connect(str(machine.socket), uri="ws://localhost/v1/server", additional_headers=headers):
            until(partial(machine.journal, f"RELAYD_SERVER_ID={server_id}"), "claim")
    headers = {"x-pyrycode-server": "nobody", "x-pyrycode-token": "t", "x-pyrycode-device-name": "Pixel 8"}
    with unix_connect(str(machine.socket), uri="ws://localhost/v1/client", additional_headers=headers):
        until(lambda: machine.journal("RELAYD_EVENT=phone_refused"), "refusal")
    (listening,) = machine.journal("RELAYD_EVENT=listening")
    os.kill(int(listening["_PID"]), signal.SIGTERM)
    until(lambda: machine.journal("RELAYD_EVENT=stopped"), "end of the relay")

    story = machine.journal("RELAYD_SERVER_ID=demo")
    assert [entry["RELAYD_EVENT"] for entry in story] == ["binary_claimed", "binary_released"]
    claimed, released = story
    assert claimed["MESSAGE"] == "binary from unix claimed server demo, version 1.0"
    assert claimed["_TRANSPORT"] == "journal"
    assert claimed["SYSLOG_IDENTIFIER"] == "relayd"
    assert released["RELAYD_CODE"] == "1000"
    assert released["MESSAGE_ID"] != claimed["MESSAGE_ID"]
    assert machine.journal(f"MESSAGE_ID={claimed['MESSAGE_ID']} RELAYD_SERVER_ID=demo") == [claimed]

    (refused,) = machine.journal("RELAYD_EVENT=phone_refused")
    assert refused["RELAYD_DEVICE_NAME"] == "Pixel 8"
    assert refused["PRIORITY"] == "6"
    assert machine.journal("_TRANSPORT=stdout") == []


@pytest.mark.parametrize("machine", [["--max-phones", "many"]], indirect=True)
def test_start_that_is_refused_is_an_error_in_the_journal(machine: Machine) -> None:
    until(lambda: machine.journal("PRIORITY=3"), "refusal")
    (refusal,) = machine.journal("PRIORITY=3")
    assert refusal["MESSAGE"].startswith("relayd: the flag --max-phones is ")
    assert refusal["_TRANSPORT"] == "stdout"
    assert machine.journal("PRIORITY=6 _TRANSPORT=stdout") == []
