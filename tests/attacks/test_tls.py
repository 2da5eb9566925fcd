"""What only a relay that speaks TLS can be attacked with: handshakes and records.

Who asks for new keys without end is in tests/edge/test_tls_records.py. All that is not about TLS itself is
in the other files, which `make attacks` runs over TLS as well.
"""

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from relayd.ops.capacity import BYTES_EACH
from tests.attacks.bounds import HONEST_BOUND, LARGE, MIB, UnderAttack, cpu_seconds, size
from tests.attacks.peers import Peer, binary, close_frame, connect, frame, introduce, phone, read_all, request
from tests.attacks.test_slow import dribble
from tests.attacks.tls import TlsSocket, client_hello
from tests.edge.test_tls_records import key_updates
from tests.observed import ObservedRelay, status_of
from tests.relay_process import factory_of, until

HANDSHAKE_TIMEOUT = size(1, 5)
HEARTBEAT = "--heartbeat-interval=0.3", "--heartbeat-timeout=2"

ALERT = b"\x15\x03"
FLIGHT = b"\x16\x03\x03"
CHANGE_CIPHER_SPEC = b"\x14\x03\x03\x00\x01\x01"


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[str, ...]) -> Iterator[ObservedRelay]:
    """One for all of them, which speaks TLS, whatever the suite is run over."""
    timeout = "--handshake-timeout", str(HANDSHAKE_TIMEOUT)
    with factory_of(ObservedRelay, tmp_path_factory.mktemp("relay")) as start:
        yield start(*certificate, *timeout, *HEARTBEAT, "--grace", "0.1")


def shaken(port: int) -> TlsSocket:
    """A connection whose handshake is done."""
    sock = connect(port, tls=True)
    assert isinstance(sock, TlsSocket)
    return sock


def reset(sock: socket.socket) -> None:
    """Vanish with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def what_came(sock: socket.socket) -> bytes:
    """All until the end, however it comes about; it must come."""
    received = b""
    with suppress(ConnectionError):
        while data := sock.recv(65536):
            received += data
    return received


def handshake_message(kind: int, length: int, sent: bytes) -> bytes:
    """A record with the beginning of a message that is said to have so many bytes."""
    body = bytes((kind,)) + length.to_bytes(3, "big") + sent
    return b"\x16\x03\x01" + len(body).to_bytes(2, "big") + body


def test_handshakes_that_stall_anywhere_are_ended_by_the_handshake_timeout(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    hello = client_hello()
    # Said to begin with, and by the byte from then on.
    kinds = [
        (b"", b""),
        (hello[:100], b""),
        (hello, b""),
        (b"\x16\x03\x01\x40\0" + b"\x01\0\x3f\xfc" + bytes(10_000), b"\0"),
    ]
    count = size(60, 600)
    with under_attack(relay, memory=8 * MIB + count * 16 * 1024, sockets=count) as attack, ExitStack() as stack:
        before = len(relay.events("tls_refused"))
        peers: dict[socket.socket, bytes] = {}
        begins: dict[socket.socket, bytes] = {}
        for number in range(count):
            sock = stack.enter_context(connect(relay.port, tls=False))
            begins[sock], peers[sock] = kinds[number % len(kinds)]
            sock.sendall(begins[sock])
        names = {"{}:{}".format(*sock.getsockname()) for sock in peers}
        for sock, answer in dribble(peers, attack.look).items():
            # Who has said hello has been answered, with nothing of HTTP.
            assert answer.startswith(FLIGHT) if begins[sock] == hello else answer == b""
        refused = [e["reason"] for e in relay.events("tls_refused")[before:] if e["remote"] in names]
        assert set(refused) == {"TIMEOUT"}


def test_hello_that_is_said_to_be_long_has_no_memory_taken_for_it_be_it_the_first_or_the_second(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    # Its key is for a group that nobody knows, so it is asked for another one (RFC 8446, section 4.1.4).
    asked_again = client_hello().replace(b"\x00\x1d", b"\xfa\xfa")
    long = handshake_message(1, 131_000, b"")
    count = size(20, 300)
    before = len(relay.events("tls_refused"))
    with under_attack(relay, memory=8 * MIB, sockets=count) as attack, ExitStack() as stack:
        names, socks = set(), []
        for number in range(count):
            sock = stack.enter_context(connect(relay.port, tls=False))
            names.add("{}:{}".format(*sock.getsockname()))
            socks.append(sock)
            match number % 4:
                case 0:
                    sock.sendall(long)
                case 1:
                    sock.sendall(asked_again + long)
                case 2:
                    sock.sendall(asked_again + CHANGE_CIPHER_SPEC + long)
                case _:
                    sock.sendall(asked_again)
                    assert sock.recv(3, socket.MSG_WAITALL) == FLIGHT
                    sock.sendall(CHANGE_CIPHER_SPEC + long)
        attack.look()
        for sock in socks:
            what_came(sock)
        refused = [e["reason"] for e in relay.events("tls_refused")[before:] if e["remote"] in names]
        assert set(refused) == {"EXCESSIVE_MESSAGE_SIZE"}


def test_handshakes_that_are_begun_and_dropped_leave_nothing_behind(
    relay: ObservedRelay, under_attack: UnderAttack, record_property: Callable[[str, object], None]
) -> None:
    hello = client_hello()

    def hello_and_fin() -> None:
        with connect(relay.port, tls=False) as sock:
            sock.sendall(hello)

    def hello_and_reset() -> None:
        sock = connect(relay.port, tls=False)
        sock.sendall(hello)
        reset(sock)

    def answer_and_reset() -> None:
        sock = connect(relay.port, tls=False)
        sock.sendall(hello)
        assert sock.recv(3, socket.MSG_WAITALL) == FLIGHT
        reset(sock)

    def whole_and_fin() -> None:
        shaken(relay.port).close()

    def whole_and_goodbye() -> None:
        with shaken(relay.port) as sock:
            sock.shutdown(socket.SHUT_WR)

    count = size(30, 2000)
    with under_attack(relay, memory=8 * MIB, sockets=64) as attack:
        for drop in (hello_and_fin, hello_and_reset, answer_and_reset, whole_and_fin, whole_and_goodbye):
            begun = cpu_seconds(relay.pid)
            for number in range(count):
                drop()
                if number % 50 == 49:
                    # Nothing else keeps a client that waits for no answer from being ahead.
                    attack.look()
                    until(attack.over, "release of everything")
            until(attack.over, "release of everything")
            # With what the honest pair has cost meanwhile.
            cost = (cpu_seconds(relay.pid) - begun) / count * 1000
            record_property("cost", f"{drop.__name__}: {cost:.2f} ms of the relay's CPU each")


def test_records_of_one_byte_and_records_that_come_by_the_byte_are_whole_messages(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    length = size(3000, 262_000)
    with (
        under_attack(relay, memory=8 * MIB, sockets=2) as attack,
        closing(binary(relay.port, "records", tls=True)) as reader,
        closing(phone(relay.port, "records", tls=True)) as attacker,
    ):
        conn_id = introduce(reader, attacker)
        sock = attacker.socket
        assert isinstance(sock, TlsSocket)
        dice = random.Random(3)
        for record in (1, 2, 16_384):
            text = b'"%b"' % (b"%x" % record * length)[:length]
            records = sock.encrypted(frame(text), record=record)
            if record < 16_384:
                sock.send_records(records)
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                rest = memoryview(records)
                while rest:
                    piece = dice.randrange(1, 8)
                    sock.send_records(bytes(rest[:piece]))
                    rest = rest[piece:]
            attack.look()
            assert reader.text() == b'{"conn_id":"%b","frame":%b}' % (conn_id, text)
            attack.honest.exchange()


def test_peers_that_stop_in_the_middle_of_a_record_are_dead_and_hold_no_more_than_one(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    count = size(40, 800)
    message = frame(b'"' + b"x" * 100_000)
    with under_attack(relay, memory=8 * MIB, sockets=count) as attack, ExitStack() as stack:
        for number in range(count):
            peer = Peer(shaken(relay.port), "/v1/server", f"half-record-{number}")
            stack.enter_context(closing(peer))
            assert isinstance(peer.socket, TlsSocket)
            # A record that carries nothing yet, alone and behind one with the beginning of a message.
            records = peer.socket.encrypted(message)
            peer.socket.send_records(records[: 16_000 if number % 2 else 32_000])
        attack.look()

        def ends() -> list[tuple[int, str]]:
            released = relay.events("binary_released")
            return [(e["code"], e["reason"]) for e in released if "half-record" in e["server_id"]]

        until(lambda: len(ends()) == count, "end of the dead")
        assert set(ends()) == {(1011, "heartbeat timeout")}


@pytest.mark.parametrize("path", ["/v1/client", "/v1/server"])
def test_goodbye_is_the_end_whatever_stands_before_it_and_comes_after_it(
    relay: ObservedRelay, under_attack: UnderAttack, path: str
) -> None:
    begins = (b"", frame(b'"half')[:8], frame(b'"begun', 0x01), frame(b"?" * 100, 0x89) * 5, close_frame(1000))
    with under_attack(relay, memory=8 * MIB, sockets=2) as attack:
        for number in range(size(10, 500)):
            server_id = "honest" if path == "/v1/client" else f"goodbye-{number}"
            sock = shaken(relay.port)
            with closing(Peer(sock, path, server_id)):
                sock.send_records(sock.encrypted(begins[number % len(begins)]) + sock.goodbye())
                if number % 2:
                    # Who goes on sending, what nobody will ever decrypt, is refused by the kernel in the end.
                    def refused(sock: TlsSocket = sock) -> bool:
                        try:
                            sock.send_records(b"\x17\x03\x03\x40\x00" + bytes(16_384))
                        except ConnectionError:
                            return True
                        return False

                    until(refused, "end of who goes on sending")
                else:
                    # Who reads on gets what was on its way, and the relay's own goodbye.
                    read_all(sock)
                    assert sock.said_goodbye
            if number % 20 == 0:
                attack.look()
        attack.honest.exchange()


def test_resets_in_the_middle_of_records_release_whatever_was_held(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    dice = random.Random(17)
    hello = client_hello()
    body = frame(b'"%b"' % (b"x" * 300)) + frame(b"ping", 0x89) + frame(b'"%b"' % (b"y" * 70_000))
    with under_attack(relay, memory=8 * MIB, sockets=64) as attack:
        for number in range(size(40, 2000)):
            if number % 3 == 0:
                raw = connect(relay.port, tls=False)
                raw.sendall(hello[: dice.randrange(1, len(hello))])
                reset(raw)
                continue
            path, server_id = ("/v1/client", "honest") if number % 3 == 1 else ("/v1/server", f"cut-{number}")
            sock = shaken(relay.port)
            records = sock.encrypted(request(path, server_id)) + sock.encrypted(body)
            point = dice.choice((dice.randrange(1, 1000), dice.randrange(1, len(records))))
            sock.send_records(records[:point])
            if point > 1000 and number % 2:
                assert sock.recv(1)
            reset(sock)
            if number % 20 == 0:
                attack.look()
        until(attack.over, "release of everything")
        with closing(binary(relay.port, "cut-2", tls=True)):
            attack.honest.exchange()


def no_handshakes() -> Iterator[bytes]:
    """Bytes with which no handshake begins, or that no handshake goes on with."""
    hello = client_hello()
    yield b"\0" * 20_000
    yield b"\xff" * 20_000
    yield b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n"
    yield b"\x16\x03\x01\xff\xff" + bytes(20_000)  # a record of 64 KiB
    yield b"\x16\x03\x01\x00\x00" * 10_000  # empty ones
    yield b"\x17\x03\x03\x00\x10" + bytes(16)  # data, before there are keys
    yield b"\x15\x03\x01\x00\x02\x01\x00" * 10_000  # warnings
    yield b"\x80\x2e\x01\x00\x02" + bytes(44)  # SSL 2
    yield handshake_message(2, 100, bytes(100))  # what only a server says
    yield handshake_message(1, 0xFFFFFF, bytes(1000))  # 16 MiB of hello
    yield handshake_message(1, 1000, random.Random(5).randbytes(1000))
    yield hello + b"\xff" * 20_000
    yield hello + CHANGE_CIPHER_SPEC * 20_000
    yield hello + hello
    yield hello + b"\x17\x03\x03\x01\x00" + bytes(256)
    for seed in range(size(5, 500)):
        dice = random.Random(seed)
        yield dice.randbytes(30_000)
        damaged = bytearray(hello)
        for _ in range(dice.randrange(1, 6)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        yield bytes(damaged) + dice.randbytes(20_000)


def no_records(sock: TlsSocket) -> Iterator[bytes]:
    """Bytes that are no records, where records are due; ``sock`` has keys."""
    good = sock.encrypted(frame(b'"stolen"'))
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    yield bytes(damaged)
    yield good[:5] + bytes(len(good) - 5)
    yield b"\x17\x03\x03\xff\xff" + bytes(70_000)
    yield b"\x17\x03\x03\x00\x00" * 10_000
    yield b"\x15\x03\x03\x00\x02\x01\x00"  # an alert that is not encrypted
    yield b"\x16\x03\x03\x00\x04\x01\x00\x00\x00"
    yield CHANGE_CIPHER_SPEC * 10_000
    yield client_hello()
    yield b"GET / HTTP/1.1\r\n\r\n"
    yield random.Random(9).randbytes(30_000)


def test_garbage_instead_of_tls_gets_an_alert_or_nothing_and_ends_the_connection(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    with under_attack(relay, memory=8 * MIB, sockets=2) as attack:
        for garbage in no_handshakes():
            with connect(relay.port, tls=False) as raw:
                # Hung up on before it was all sent, or not.
                with suppress(OSError):
                    raw.sendall(garbage)
                    raw.shutdown(socket.SHUT_WR)
                answer = what_came(raw)
            assert answer == b"" or answer.startswith((ALERT, FLIGHT)), (garbage[:20], answer[:20])
            assert b"HTTP" not in answer
        attack.honest.exchange()
        with closing(shaken(relay.port)) as first:
            kinds = len(list(no_records(first)))
        for number in range(kinds * size(1, 50)):
            sock = shaken(relay.port)
            with closing(Peer(sock, "/v1/client", "honest")):
                *_, garbage = (bad for _, bad in zip(range(number % kinds + 1), no_records(sock), strict=False))
                with suppress(ConnectionError):
                    sock.send_records(garbage)
                # Nothing of it was a frame, so nothing is sent back.
                assert what_came(sock) == b""
        attack.honest.exchange()


def test_connection_that_has_done_all_that_costs_memory_holds_what_is_planned_for_it(
    relay: ObservedRelay,
) -> None:
    def grown(number: int) -> tuple[Peer, Peer]:
        reader = stack.enter_context(closing(binary(relay.port, f"grown-{number}", tls=True)))
        sender = stack.enter_context(closing(phone(relay.port, f"grown-{number}", tls=True)))
        text = b'"%b"' % (b"x" * 64_000)
        message = b'{"conn_id":"%b","frame":%b}' % (introduce(reader, sender), text)
        sender.send(text)
        assert reader.text() == message
        reader.send(message)
        assert sender.text() == text
        for peer in (reader, sender):
            peer.socket.sendall(frame(b"", 0x89))
        return reader, sender

    with ExitStack() as stack:
        # Whatever is there once, and not for each.
        for number in range(10):
            grown(number)
        before = status_of(relay.pid)["VmRSS"]
        count = size(40, 400)
        for number in range(10, 10 + count):
            grown(number)
        each = (status_of(relay.pid)["VmRSS"] - before) * 1024 / (2 * count)
        # The rest is for the kernel.
        assert each <= BYTES_EACH - 6 * 1024


def test_floods_of_records_that_carry_next_to_nothing_hold_up_nobody(
    relay: ObservedRelay, under_attack: UnderAttack
) -> None:
    updaters, talkers = size(8, 40), size(8, 100)
    length = size(4000, 20_000)
    begun = frame(b'"' + b"x" * 200_000)[:14]
    # Where the machine does nothing else. It was more while a turn had no bound on records.
    bound = 1.0 if LARGE else HONEST_BOUND
    with (
        under_attack(relay, memory=8 * MIB, sockets=2 * updaters + 2 * talkers, bound=bound) as attack,
        ExitStack() as stack,
    ):
        floods: dict[socket.socket, bytes] = {}
        for number in range(updaters):
            raw = stack.enter_context(connect(relay.port, tls=False))
            begin = request("/v1/server", f"updater-{number}") + begun
            floods[raw] = key_updates(raw, length, length // 4, begin)
        for number in range(talkers):
            talker = stack.enter_context(closing(binary(relay.port, f"talker-{number}", tls=True)))
            assert isinstance(talker.socket, TlsSocket)
            floods[talker.socket] = talker.socket.encrypted(begun + b"x" * length, record=1)
        for sock in floods:
            sock.setblocking(False)
        attack.look()
        while floods:
            for sock, flood in list(floods.items()):
                try:
                    # Not encrypted once more.
                    sent = socket.socket.send(sock, flood[: 1 << 16])
                except BlockingIOError:
                    continue
                except ConnectionError:
                    sent = len(flood)
                floods[sock] = flood[sent:]
                if not floods[sock]:
                    del floods[sock]
        attack.look()
        attack.honest.exchange()
