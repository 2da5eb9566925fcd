"""Clocks that jump: the wall clock, which decides nothing, and the monotonic one, which may begin anywhere."""

import ast
import os
import re
from collections.abc import Iterator
from contextlib import closing
from glob import glob
from pathlib import Path

import pytest

import relayd
from tests.attacks.bounds import MIB, RelayStarter, UnderAttack
from tests.attacks.peers import BEGINNING, CONTINUATION, PING, binary, connect, frame, introduce, phone, request
from tests.relay_process import until


def faketime(clock: Path) -> dict[str, str]:
    """What has a process see its wall clock shifted by what ``clock`` says, such as +400d, at any time."""
    found = glob("/usr/lib/*/faketime/libfaketime.so.1")
    assert found, "this test shifts a process's clock: apt-get install faketime"
    return {
        "LD_PRELOAD": found[0],
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@pytest.mark.parametrize("jump", ["+400d", "-4000d"])
def test_jump_of_the_wall_clock_ends_no_wait_and_makes_none_longer(
    start_relay: RelayStarter, under_attack: UnderAttack, tmp_path: Path, jump: str
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0d")
    relay = start_relay("--heartbeat-interval", "0.2", "--handshake-timeout", "30", env=faketime(clock))
    with (
        under_attack(relay, memory=8 * MIB, sockets=4) as attack,
        closing(phone(relay.port, "honest")) as slow,
        connect(relay.port) as half_head,
    ):
        # A grace window, a message and a head are under way as it jumps, and heartbeats all the time.
        with closing(binary(relay.port, "away")) as old, closing(phone(relay.port, "away")) as waiting:
            introduce(old, waiting)
            old.reset()
            relay.event("binary_released", server_id="away")
            slow.socket.sendall(frame(b'"half', BEGINNING) + frame(b"?", PING))
            while slow.frame()[1] != b"?":
                pass
            head = request("/v1/client", "honest")
            half_head.sendall(head[:50])
            attack.honest.exchange()
            before = relay.events()[-1]["time"]
            clock.write_text(jump)
            attack.honest.exchange(50)
            waiting.socket.sendall(frame(b"?", PING))
            while (found := waiting.frame())[1] != b"?":
                assert found[0] == PING, "the phone was not left to wait"
            with closing(binary(relay.port, "away")):
                assert relay.event("binary_reclaimed")["phones"] == 1
            assert waiting.close_code() == 4404
            after = relay.event("binary_reclaimed")["time"]
            assert abs(int(after[:4]) - int(before[:4])) >= 1, "the clock has not jumped"
        half_head.sendall(head[50:])
        assert half_head.recv(12) == b"HTTP/1.1 101"
        slow.socket.sendall(frame(b' and half"', CONTINUATION | 0x80))
        # Sent back by the honest binary.
        assert slow.text() == b'"half and half"'
        attack.honest.exchange(50)


def test_relay_on_a_machine_that_has_been_up_for_years_keeps_its_times(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    years = str(3 * 365 * 86400)
    wrapper = ("unshare", "--time", "--monotonic", years, "--boottime", years)
    relay = start_relay("--grace", "0.2", "--message-timeout", "0.2", wrapper=wrapper)
    with under_attack(relay, memory=8 * MIB, sockets=2) as attack:
        ours, theirs = (os.readlink(f"/proc/{pid}/ns/time") for pid in ("self", relay.pid))
        assert ours != theirs, "this test makes a time namespace, which takes root and Linux 5.6"
        with closing(binary(relay.port, "old")) as old, closing(phone(relay.port, "old")) as waiting:
            introduce(old, waiting)
            old.socket.sendall(frame(b"x" * 100)[:50])
            assert old.close_code() == 1008
            old.close()
            assert waiting.close_code() == 4404
        until(attack.over, "end of both")


CLOCKS = re.compile(
    r"(time\.(time|time_ns|monotonic|monotonic_ns|perf_counter|clock_gettime|clock_gettime_ns|localtime|gmtime|sleep)"
    r"|(datetime|date)\.(now|utcnow|today)|formatdate)"
)
"""Every way to ask a clock that is not trio's."""

SHOWN_ONLY = {
    "ops/lines.py": "the time in a line of the log",
    "edge/request.py": "the Date header",
    "ops/systemd.py": "what the service manager compares with its own clock",
}
"""Where one is asked, and what for: nothing is decided by it."""

ROOMS_WITH_CLOCKS = {
    "acme": "a certificate ends by the wall clock, whatever that says",
    "commands": "clients of the relay, which run in a terminal",
    "doctor": "another",
}


def asked_clocks(source: str) -> Iterator[str]:
    """The clocks that a module's code calls for."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and CLOCKS.fullmatch(name := ast.unparse(node.func)):
            yield name


def test_nothing_that_the_daemon_decides_asks_a_clock_other_than_trio_s() -> None:
    package = Path(relayd.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        room = path.relative_to(package)
        if room.parts[0] not in ROOMS_WITH_CLOCKS and any(asked_clocks(path.read_text())):
            found.add(str(room))
    assert found == SHOWN_ONLY.keys()
