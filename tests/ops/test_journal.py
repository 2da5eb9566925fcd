"""journald's native protocol, with a socket of ours in journald's place."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from relayd.ops.events import Event, Listening, event_types
from relayd.ops.journal import SOCKET, as_entry, encode_fields, is_journal
from relayd.ops.log import Log
from relayd.ops.output import MOST_WAITING
from tests.ops.examples import HOSTILE, REGISTERED, UNREGISTERED, example


class Journal:
    """A datagram socket, and what came to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def entries(self) -> list[dict[str, str]]:
        """The entries that wait in the socket, as journald would read them."""
        found = []
        try:
            while True:
                found.append(parsed(self.socket.recv(1 << 20)))
        except BlockingIOError:
            return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "socket")
    with journal.socket:
        yield journal


@pytest.fixture
def log(journal: Journal) -> Iterator[Log]:
    with closing(
        Log(None, level="info", log_format="journal", environment={}, journal_socket=str(journal.path))
    ) as log:
        yield log


def parsed(entry: bytes) -> dict[str, str]:
    """A datagram's fields, by the rules of "Native Journal Protocol"; each may come once."""
    found: dict[str, str] = {}
    while entry:
        head, entry = entry.split(b"\n", 1)
        name, equals, value = head.partition(b"=")
        if not equals:
            length = int.from_bytes(entry[:8], "little")
            value = entry[8 : 8 + length]
            assert entry[8 + length : 9 + length] == b"\n"
            entry = entry[9 + length :]
        assert name.decode("ascii") not in found
        found[name.decode("ascii")] = value.decode()
    return found


async def test_an_entry_has_the_fields_of_its_event_and_a_message_for_people(
    log: Log, journal: Journal
) -> None:
    log.emit(REGISTERED)
    assert journal.entries() == [
        {
            "MESSAGE": 'phone c-1 registered for server demo from 192.0.2.1:5 "Pixel 8"',
            "MESSAGE_ID": REGISTERED.message_id,
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "relayd",
            "RELAYD_EVENT": "phone_registered",
            "RELAYD_SERVER_ID": "demo",
            "RELAYD_CONN_ID": "c-1",
            "RELAYD_REMOTE": "192.0.2.1:5",
            "RELAYD_DEVICE_NAME": "Pixel 8",
        }
    ]
    log.emit(UNREGISTERED)
    (entry,) = journal.entries()
    assert entry["MESSAGE"] == (
        'phone c-1 from 192.0.2.1:5 left server demo: ended by relay, 1011 "phone backlog full"'
    )
    assert entry["RELAYD_CODE"] == "1011"


@pytest.mark.parametrize("event_type", event_types())
def test_priorities_follow_levels_and_empty_fields_are_left_out(event_type: type[Event]) -> None:
    entry = parsed(as_entry(example(event_type, "", number=0)))
    assert entry["PRIORITY"] == {"debug": "7", "info": "6", "warning": "4", "error": "3"}[event_type.level]
    assert "" not in entry.values()
    assert entry["MESSAGE"] == entry["MESSAGE"].strip()


@pytest.mark.parametrize("event_type", event_types())
def test_no_value_can_add_a_field_or_change_one(event_type: type[Event]) -> None:
    value = f"x\nPRIORITY=0\n{HOSTILE}\nRELAYD_EVENT=stopped"
    hostile, harmless = parsed(as_entry(example(event_type, value))), parsed(as_entry(example(event_type)))
    assert hostile.keys() == harmless.keys()
    as_sent = value.encode("utf-8", "backslashreplace").decode()
    for name, content in harmless.items():
        if content == "text":
            assert hostile[name] == as_sent
        elif name != "MESSAGE":
            assert hostile[name] == content


@pytest.mark.parametrize("value", ["", "a", "\n", "\n\n", "a\nB=c\n", "ü\n\0", "=", "a=b"])
def test_every_value_arrives_as_it_was(value: str) -> None:
    assert parsed(encode_fields([("A", value), ("B", "c")])) == {"A": value, "B": "c"}


async def test_a_journal_that_is_full_gets_the_rest_when_it_has_room(
    log: Log, journal: Journal, autojump_clock: trio.testing.MockClock
) -> None:
    addresses = [f"127.0.0.1:{number}" for number in range(2000)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for address in addresses:
            log.emit(Listening(address))
        seen: list[str] = []
        for _ in range(len(addresses)):
            seen += [entry["RELAYD_ADDRESS"] for entry in journal.entries()]
            await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert seen == addresses


async def test_a_journal_that_is_missing_or_is_started_anew_gets_everything(
    log: Log, journal: Journal, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        log.emit(Listening("one"))
        assert [entry["RELAYD_ADDRESS"] for entry in journal.entries()] == ["one"]
        journal.socket.close()
        log.emit(Listening("two"))
        os.unlink(journal.path)
        log.emit(Listening("three"))
        await trio.sleep(60)
        successor = Journal(journal.path)
        with successor.socket:
            await trio.sleep(2)
            assert [entry["RELAYD_ADDRESS"] for entry in successor.entries()] == ["two", "three"]
        nursery.cancel_scope.cancel()


async def test_an_entry_that_no_datagram_can_hold_is_counted_and_keeps_nobody_waiting(
    log: Log, journal: Journal
) -> None:
    log.emit(Listening("x" * 4 * MOST_WAITING))
    log.emit(Listening("two"))
    first, second = journal.entries()
    assert (first["RELAYD_EVENT"], first["RELAYD_COUNT"]) == ("entries_lost", "1")
    assert second["RELAYD_ADDRESS"] == "two"


def test_only_the_device_and_inode_of_this_very_descriptor_make_it_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as file:
        status = os.fstat(file.fileno())
        assert is_journal(file.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        for other in (
            f"{status.st_dev}:{status.st_ino + 1}",
            f"{status.st_dev + 1}:{status.st_ino}",
            "",
            ":",
            "1",
        ):
            assert not is_journal(file.fileno(), {"JOURNAL_STREAM": other})
        assert not is_journal(file.fileno(), {})
        number = file.fileno()
    assert not is_journal(number, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})


@pytest.mark.parametrize(
    ("stream", "listening", "in_journal"),
    [("its own", True, True), ("another's", True, False), (None, True, False), ("its own", False, False)],
)
async def test_auto_takes_the_journal_only_where_stderr_leads_there_and_there_is_one(
    journal: Journal, stream: str | None, listening: bool, in_journal: bool, tmp_path: Path
) -> None:
    with (tmp_path / "stderr").open("w+") as stderr:
        status = os.fstat(stderr.fileno())
        streams = {"its own": f"{status.st_dev}:{status.st_ino}", "another's": f"{status.st_dev}:1"}
        environment = {} if stream is None else {"JOURNAL_STREAM": streams[stream]}
        path = str(journal.path) if listening else str(tmp_path / "nowhere")
        with closing(
            Log(stderr.fileno(), level="info", log_format="auto", environment=environment, journal_socket=path)
        ) as log:
            log.emit(REGISTERED)
        assert [entry["RELAYD_EVENT"] for entry in journal.entries()] == ["phone_registered"] * in_journal
    written = (tmp_path / "stderr").read_text()
    assert written == "" if in_journal else '"event":"phone_registered"' in written


def test_the_socket_is_journalds() -> None:
    assert SOCKET == "/run/systemd/journal/socket"
