"""The cases of the Autobahn testsuite, through an echoing binary; and on a binary's own connection."""

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Pong, Request, TextMessage

from tests.conformance.cases import CASES, Case, Event, as_markdown, closing
from tests.relay_process import WAIT, RelayProcess

ECHO = "echo"
HEADERS = {"x-pyrycode-version": "1", "x-pyrycode-token": "t", "user-agent": "fuzzer"}

# How many cases each subsection of the testsuite has.
AUTOBAHN = {
    "1.1": 8, "1.2": 8, "2": 11, "3": 7, "4.1": 5, "4.2": 5, "5": 20,
    "6.1": 3, "6.2": 4, "6.3": 2, "6.4": 4, "6.5": 5, "6.6": 11, "6.7": 4, "6.8": 2, "6.9": 4, "6.10": 3,
    "6.11": 5, "6.12": 8, "6.13": 5, "6.14": 10, "6.15": 1, "6.16": 3, "6.17": 5, "6.18": 5, "6.19": 5,
    "6.20": 7, "6.21": 8, "6.22": 34, "6.23": 7,
    "7.1": 6, "7.3": 6, "7.5": 1, "7.7": 13, "7.9": 9, "7.13": 2,
    "9.1": 6, "9.2": 6, "9.3": 9, "9.4": 9, "9.5": 6, "9.6": 6, "9.7": 6, "9.8": 6, "10.1": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def echo(relay: RelayProcess) -> Iterator[RelayProcess]:
    """A relay with a binary that sends every frame back to where it came from."""
    headers = {**HEADERS, "x-pyrycode-server": ECHO}
    with connect(relay.url("/v1/server"), additional_headers=headers) as binary:
        relay.event("binary_claimed", server_id=ECHO)
        thread = Thread(target=send_everything_back, args=(binary,))
        thread.start()
        yield relay
        binary.close()
        thread.join()


def send_everything_back(binary: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        for message in binary:
            assert isinstance(message, str)
            if '"close_code":' not in message[:60]:  # a close notice has no frame
                binary.send(message)


class Fuzzer:
    """A client that writes what it is told, as it stands; wsproto reads for it."""

    def __init__(self, relay: RelayProcess, path: str, server_id: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", relay.port), WAIT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = WSConnection(ConnectionType.CLIENT)
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        headers.append((b"x-pyrycode-server", server_id.encode()))
        self.write(self._reader.send(Request(host="relay", target=path, extra_headers=headers)))
        self._events: Iterator[Event | int] = iter(self._read())

    def write(self, data: bytes, chop: int = 0) -> None:
        """Send ``data``, ``chop`` bytes at a time. The relay may have hung up meanwhile."""
        with suppress(ConnectionError):
            for at in range(0, len(data), chop or len(data)):
                self._socket.sendall(data[at : at + (chop or len(data))])

    def next(self) -> Event | int:
        """The next message or pong, or the code of the Close frame."""
        return next(self._events)

    def expect_end(self) -> None:
        """Nothing more may come but the end of the stream."""
        with suppress(ConnectionError):
            data = self._socket.recv(65536)
            assert not data, f"after the Close frame: {data!r}"

    def __enter__(self) -> "Fuzzer":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _read(self) -> Iterator[Event | int]:
        text = ""
        while data := self._socket.recv(65536):
            self._reader.receive_data(data)
            for event in self._reader.events():
                match event:
                    case AcceptConnection() | Ping():
                        pass
                    case TextMessage():
                        text += event.data
                        if event.message_finished:
                            yield "message", text.encode()
                            text = ""
                    case Pong():
                        yield "pong", bytes(event.payload)
                    case CloseConnection():
                        yield int(event.code)
                        return
                    case _:
                        raise AssertionError(event)
        raise AssertionError("the stream ended without a Close frame")


def kind(event: Event | int | str) -> str:
    return event[0] if isinstance(event, tuple) else ""


def run(fuzzer: Fuzzer, case: Case, expect: list[Event | str], close: int) -> None:
    """Play ``case`` and compare."""
    steps = iter(case.sends)
    fuzzer.write(next(steps), case.chop)
    for then, group in groupby(expect, lambda expected: expected == "then"):
        awaited = list(group)
        if then:
            for _ in awaited:
                fuzzer.write(next(steps), case.chop)
        else:
            # By kind: a sort is stable, so the order within each is compared.
            assert sorted((fuzzer.next() for _ in awaited), key=kind) == sorted(awaited, key=kind)
    for step in steps:
        fuzzer.write(step, case.chop)
    if close == 1000 and not case.closes:
        fuzzer.write(closing())
    got = fuzzer.next()
    while got in case.optional:
        got = fuzzer.next()
    assert got == close
    # A server that has failed the connection may wait for us to hang up; after an answer it does so itself.
    if close == 1000:
        fuzzer.expect_end()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_case_through_an_echoing_binary(echo: RelayProcess, case: Case) -> None:
    with Fuzzer(echo, "/v1/client", ECHO) as fuzzer:
        run(fuzzer, case, case.expect, case.close)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.number < "8" and case.number[:2] != "10"],
    ids=lambda case: case.number,
)
def test_case_on_a_binarys_connection(relay: RelayProcess, case: Case) -> None:
    """There, what is no envelope is dropped, be it UTF-8 or not, so that nothing comes back but pongs."""
    expect = [event for event in case.expect if event == "then" or event[0] == "pong"]
    close = 1000 if case.bad_text else case.close
    with Fuzzer(relay, "/v1/server", str(uuid4())) as fuzzer:
        run(fuzzer, case, expect, close)


def test_every_case_of_the_sections_is_here_under_its_number() -> None:
    assert sum(AUTOBAHN.values()) == 301
    numbers = [f"{section}.{n}" for section, count in AUTOBAHN.items() for n in range(1, count + 1)]
    assert Counter(case.number for case in CASES) == Counter(numbers)


def test_document_is_up_to_date() -> None:
    document = (Path(__file__).parents[2] / "docs/conformance.md").read_text()
    assert as_markdown() in document, "run python -m tests.conformance.cases"
