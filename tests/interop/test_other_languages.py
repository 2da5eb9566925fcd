"""Binaries and phones in JavaScript (npm's `ws`) and in Go (coder/websocket), together and mixed."""

import json
import signal
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from attrs import frozen

from tests.interop.clients import LANGUAGES, Peer, Program, start_program
from tests.relay_process import RelayProcess

SIZES = [1, 2, 125, 126, 1_000, 65_535, 65_536, 200 * 1024]
VERBATIM = [
    '"é ü ✓ 漢字 😀 \\ud83d\\ude00 \\u0000 \\/ \\n"',
    '{ "b" : 1.0e2 ,\t"a":[ ], "a": -0 }',
    '"\u2028\u2029\x7f"',
    "12345678901234567890.0",
]


@pytest.fixture(scope="session")
def programs() -> Iterator[dict[str, Program]]:
    running: dict[str, Program] = {}
    try:
        for language in LANGUAGES:
            running[language] = start_program(language)
        yield running
    finally:
        for program in running.values():
            program.end()


@frozen
class Room:
    """A server-id with a binary, and two phones with the names that the binary knows them by."""

    relay: RelayProcess
    server_id: str
    binary: Peer
    phones: list[tuple[Peer, str]]

    def another(self, program: Program, path: str) -> Peer:
        return program.connect(self.relay, path, self.server_id)


def open_room(relay: RelayProcess, of_binary: Program, of_phones: Program, version: str = "v1") -> Room:
    server_id = f"room-{uuid4()}"
    binary = of_binary.connect(relay, f"/{version}/server", server_id)
    relay.event("binary_claimed", server_id=server_id)
    phones = []
    for number in range(2):
        phone = of_phones.connect(relay, f"/{version}/client", server_id)
        phone.send(f'"phone {number}"')
        conn_id, frame = binary.envelope()
        assert frame == f'"phone {number}"'
        phones.append((phone, conn_id))
    return Room(relay, server_id, binary, phones)


@pytest.fixture(params=[("node", "node"), ("go", "go"), ("node", "go"), ("go", "node")], ids="-".join)
def room(relay: RelayProcess, programs: dict[str, Program], request: pytest.FixtureRequest) -> Room:
    of_binary, of_phones = request.param
    return open_room(relay, programs[of_binary], programs[of_phones])


@pytest.fixture(params=LANGUAGES)
def program(programs: dict[str, Program], request: pytest.FixtureRequest) -> Program:
    return programs[request.param]


def to(conn_id: str, frame: str, **more: object) -> str:
    return (
        f'{{"conn_id":"{conn_id}","frame":{frame}{"".join(f",{json.dumps(k)}:{v}" for k, v in more.items())}}}'
    )


@pytest.mark.parametrize("as_binary", [False, True], ids=["text", "binary"])
def test_frames_of_1_byte_to_200_kib_go_both_ways_to_the_addressed_phone_alone(
    room: Room, as_binary: bool
) -> None:
    for size in SIZES:
        frame = "1" if size == 1 else '"' + "x" * (size - 2) + '"'
        for phone, conn_id in room.phones:
            phone.send(frame, binary=as_binary)
            assert room.binary.envelope() == (conn_id, frame)
            room.binary.send(to(conn_id, frame), binary=as_binary)
            assert phone.message() == frame


def test_unicode_escapes_and_spaces_arrive_as_they_were_sent(room: Room) -> None:
    (phone, conn_id), _ = room.phones
    for frame in VERBATIM:
        phone.send(frame)
        assert room.binary.envelope() == (conn_id, frame)
        room.binary.send(to(conn_id, frame))
        assert phone.message() == frame


def test_hundreds_of_frames_in_a_row_arrive_in_order_each_at_its_phone(room: Room) -> None:
    for number in range(300):
        for phone, conn_id in room.phones:
            room.binary.send(to(conn_id, str(number)))
            phone.send(str(number))
    for phone, _ in room.phones:
        assert [phone.message() for _ in range(300)] == [str(number) for number in range(300)]
    arrived: dict[str, list[str]] = {conn_id: [] for _, conn_id in room.phones}
    for _ in range(600):
        conn_id, frame = room.binary.envelope()
        arrived[conn_id].append(frame)
    assert set(map(tuple, arrived.values())) == {tuple(map(str, range(300)))}


def test_no_compression_is_negotiated_though_offered(room: Room) -> None:
    assert [room.binary.extensions, *(phone.extensions for phone, _ in room.phones)] == ["", "", ""]


def test_ping_gets_its_pong(room: Room) -> None:
    for peer in (room.binary, room.phones[0][0]):
        peer.do("ping")
        peer.next("pong")


@pytest.mark.parametrize("code", [1000, 3000, 4000])
def test_phone_that_closes_gets_its_code_back_and_the_binary_a_notice(room: Room, code: int) -> None:
    (phone, conn_id), (sibling, sibling_id) = room.phones
    phone.do("close", code=code, reason="bye")
    assert phone.closed() == (code, "bye")
    assert json.loads(room.binary.message()) == {"conn_id": conn_id, "close_code": code}
    room.binary.send(to(sibling_id, "1"))
    assert sibling.message() == "1"


@pytest.mark.parametrize("code", [4401, 4421, 4426])
def test_close_directive_reaches_the_phone_as_its_code_after_its_frame(room: Room, code: int) -> None:
    phone, conn_id = room.phones[0]
    room.binary.send(to(conn_id, '"last"', close_code=code))
    assert phone.message() == '"last"'
    assert phone.closed() == (code, "")


def test_binary_that_closes_leaves_its_phones_to_its_successor_which_closes_them_with_4404(
    relay: RelayProcess, program: Program
) -> None:
    room = open_room(relay, program, program)
    room.binary.do("close", code=1000, reason="")
    assert room.binary.closed()[0] == 1000
    relay.event("binary_released", server_id=room.server_id, code=1000, by="peer", phones=2)
    room.another(program, "/v1/server")
    for phone, _ in room.phones:
        assert phone.closed() == (4404, "binary reclaimed server-id")


def test_phone_without_a_binary_gets_4404(relay: RelayProcess, program: Program) -> None:
    assert program.connect(relay, "/v1/client", str(uuid4())).closed() == (4404, "no server with that id")


def test_second_binary_gets_4409_since_the_first_answers_the_probe(
    relay: RelayProcess, program: Program
) -> None:
    room = open_room(relay, program, program)
    assert room.another(program, "/v1/server").closed() == (4409, "server-id already claimed")


def test_seventeenth_phone_gets_4429(relay: RelayProcess, program: Program) -> None:
    room = open_room(relay, program, program)
    for _ in range(14):
        room.another(program, "/v1/client").send("1")
        room.binary.envelope()
    assert room.another(program, "/v1/client").closed() == (4429, "too many phones")


@pytest.mark.parametrize(
    ("message", "closing"),
    [
        ('"' + "x" * 262_143 + '"', (1009, "message too big")),
        ("no JSON", (1007, "not one JSON document in UTF-8")),
    ],
    ids=["1009", "1007"],
)
def test_phone_that_sends_what_may_not_be_is_closed_with_its_code(
    relay: RelayProcess, program: Program, message: str, closing: tuple[int, str]
) -> None:
    phone, _ = open_room(relay, program, program).phones[0]
    phone.send(message)
    assert phone.closed() == closing


def test_sigterm_closes_everybody_with_1001(start_relay: Callable[..., RelayProcess], program: Program) -> None:
    relay = start_relay()
    room = open_room(relay, program, program)
    assert relay.stop(signal.SIGTERM) == 0
    for phone, _ in room.phones:
        assert phone.closed() == (1001, "shutting down")
    # A phone that was quicker to say goodbye may still be noticed.
    while (event := room.binary.next("message", "close"))["event"] == "message":
        pass
    assert (event["code"], event["reason"]) == (1001, "shutting down")


def test_clients_answer_pings_and_outlive_many_heartbeats(
    start_relay: Callable[..., RelayProcess], program: Program
) -> None:
    relay = start_relay("--heartbeat-interval", "0.05", "--heartbeat-timeout", "5")
    room = open_room(relay, program, program)
    for peer in (room.binary, *(phone for phone, _ in room.phones)):
        for _ in range(5):
            peer.next("ping")
    phone, conn_id = room.phones[0]
    phone.send("1")
    assert room.binary.envelope() == (conn_id, "1")


def test_v2_is_v1_under_another_name(relay: RelayProcess, program: Program) -> None:
    room = open_room(relay, program, program, version="v2")
    assert room.another(program, "/v1/server").closed() == (4409, "server-id already claimed")
