"""``relayd doctor`` as a process, against whole relays."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relayd.cli import main
from tests.relay_process import WAIT, RelayProcess, until

HERE = Path(__file__).parent
TOOLS = HERE.parent / ".tools"
PEERS = HERE.parent / "benchmarks" / "peers"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "relayd", "doctor", *arguments]


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, check=False)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def all_released(relay: RelayProcess) -> bool:
    return len(relay.events("binary_released")) == len(relay.events("binary_claimed"))


def statuses(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {check["check"]: check["status"] for check in json.loads(done.stdout)["checks"]}


@pytest.fixture
def go_relay() -> Iterator[str]:
    """The URL of another relay of this protocol."""
    go = shutil.which("go")
    if go is None:
        pytest.fail("go is missing, which this test needs: install Go 1.24 or later, https://go.dev/dl")
    program = TOOLS / "doctor-go"
    subprocess.run([go, "build", "-o", str(program), "."], cwd=PEERS / "go", check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([program, f"127.0.0.1:{port}"]) as process:
        try:
            until(lambda: listens(port), "listening Go relay")
            yield f"ws://127.0.0.1:{port}"
        finally:
            process.kill()


def test_a_relay_as_installed_has_nothing_to_complain_of(relay: RelayProcess) -> None:
    done = doctor(relay.url(""))
    assert done.returncode == 0, done.stdout
    first, *lines, summary = done.stdout.splitlines()
    assert first == f"relayd doctor {relay.url('')}"
    # A machine that pauses is a reason to warn of clumps.
    checks = [line for line in lines if line[2] != " " and " one by one " not in line]
    assert {line.split()[0] for line in checks} == {"ok", "skip"}
    assert len(checks) == 18
    assert "16 phones of one server-id, the next is closed with 4429" in done.stdout
    assert re.fullmatch(r"\d+ ok, (1 warn, )?2 skip", summary)


def test_nothing_is_left_on_the_relay(start_relay: Callable[..., RelayProcess]) -> None:
    relay = start_relay("--max-phones", "3", "--heartbeat-interval", "0.1")
    done = doctor("--json", "--idle", "0.5", relay.url(""))
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    assert report["ok"] is True
    seen = {check["check"]: check["seen"] for check in report["checks"]}
    assert seen["phone limit"].startswith(
        "3 phones of one server-id (the usual limit is 16), the next is closed"
    )
    assert not re.search(r"\b0 pings", seen["idle"])
    with urllib.request.urlopen(relay.url("/healthz", "http")) as answer:
        health = json.load(answer)
    assert (health["connected_binaries"], health["connected_phones"]) == (0, 0)
    ended = [*relay.events("phone_unregistered"), *relay.events("binary_released")]
    begun = [*relay.events("phone_registered"), *relay.events("binary_claimed")]
    assert len(ended) == len(begun)
    assert {event["code"] for event in ended} == {1000, 4401}


def test_another_relay_of_the_protocol_is_judged_by_the_same_measure(go_relay: str) -> None:
    done = doctor("--json", "--timeout", "1", go_relay)
    assert done.returncode == 1, done.stdout
    found = statuses(done)
    # It is made for measuring: it looks at no header, and writes JSON anew.
    failed = {"headers", "phone to binary", "close directive", "close notice"}
    assert {check for check, status in found.items() if status == "fail"} == failed
    assert found["healthz"] == "warn"
    assert found["phone limit"] == found["second binary"] == found["order"] == "ok"


def test_it_shares_no_code_with_the_relay() -> None:
    program = "import sys, relayd.doctor.examine; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = {name for name in done.stdout.split() if name.startswith("relayd.")}
    assert "relayd.doctor.peers" in imported
    assert all(name.startswith("relayd.doctor") for name in imported), imported


def test_interrupted_it_says_goodbye_to_the_relay(start_relay: Callable[..., RelayProcess]) -> None:
    relay = start_relay()
    with subprocess.Popen(
        command(relay.url("")), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if " ok   round trips" in line:
                break
        # "one by one" follows, which takes its time, with the sixth phone.
        until(lambda: len(relay.events("phone_registered")) == 6, "sixth pair")
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=WAIT)
    assert (process.returncode, errors) == (130, "")
    assert rest == "interrupted; everything that was opened is closed\n"
    until(lambda: all_released(relay), "release of every claim")
    assert {event["code"] for event in relay.events("binary_released")} == {1000}


def test_a_reader_that_has_seen_enough_ends_it(start_relay: Callable[..., RelayProcess]) -> None:
    relay = start_relay()
    with subprocess.Popen(
        command(relay.url("")), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(WAIT) == 128 + signal.SIGPIPE
        assert process.stderr.read() == ""
    until(lambda: all_released(relay), "release of every claim")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://relay.example"], "give ws://HOST:PORT or wss://HOST"),
        (["relay.example:8080"], "give ws://HOST:PORT or wss://HOST"),
        (["ws://me:secret@relay.example"], "leave it out"),
        (["ws://relay.example/v1/server"], "leave /v1/server out"),
        (["ws://relay.example/?a"], "leave out what begins with ? or #"),
        (["ws://relay.example:99999"], "is no URL"),
        (["ws://relay.example/ä"], "may not"),
        (["--timeout", "0", "ws://relay.example"], "0 would leave no time"),
        (["--idle", "-1", "ws://relay.example"], "not a number of seconds"),
        (["--ca-file", "/nonexistent", "wss://relay.example"], "give a file of PEM certificates"),
        ([], "URL"),
    ],
)
def test_what_cannot_be_used_exits_2_with_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(["doctor", *arguments])
    except SystemExit as end:
        status = end.code
    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert words in errors
    assert errors.count("\n") == 1
    assert "secret" not in errors
