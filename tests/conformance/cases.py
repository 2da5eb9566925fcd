"""The cases of the Autobahn testsuite, by its numbers: what each sends, and what must come back.

The suite's fuzzing client exists for Python 2 only, so the cases are written anew here, from its
descriptions. A phone plays the fuzzing client, and a binary behind the relay echoes. A payload
travels as a JSON string, since relayd carries JSON alone; the quotes count where the length matters.

``python -m tests.conformance.cases`` prints the tables of `docs/conformance.md`.
"""

import random
from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import Final

from attrs import Factory, frozen

__all__ = ["CASES", "Case", "Event", "as_markdown", "closing"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

HELLO: Final = b"Hello, world!"
KOSME: Final = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"
CAP: Final = 262_144

# What relayd does otherwise than Autobahn would like best, and why.
TEXT_ALONE: Final = "the echo is a text message: relayd sends text alone, by contract"
ECHO_IS_LATE: Final = (
    "non-strict, as Autobahn calls it: the first echo may be lost, since it comes from the binary behind "
    "the relay, and the connection may have failed by then"
)
BESIDE: Final = "the pong may come after the echo: pings are answered beside the data path"
WHOLE_MESSAGES: Final = "non-strict, as Autobahn calls it: UTF-8 is judged when the message is complete"
EMPTY: Final = "closed with 1007: an empty message is not JSON"
ASCII_FILL: Final = "filled with ASCII, since a message must be UTF-8"
NO_RAW_CONTROL: Final = "closed with 1007: JSON allows no raw control character in a string"
TOO_BIG: Final = "closed with 1009: larger than the 256 KiB that a message may have"
SHORTER: Final = "with 128 KiB in all: the case's own size is over the 256 KiB that a message may have"
ENVELOPE: Final = "with 100 bytes less, since the echo's envelope may have 256 KiB in all"
FEWER: Final = "with 100 messages instead of 1,000"
INFORMATIONAL: Final = "informational in Autobahn: any outcome will do"


Event = tuple[str, bytes]
"""What comes back: ("message", its payload) or ("pong", its payload)."""


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A masked frame (RFC 6455, section 5.2)."""
    length = len(payload)
    if length < 126:
        sized = bytes([0x80 | length])
    elif length < 0x10000:
        sized = b"\xfe" + length.to_bytes(2, "big")
    else:
        sized = b"\xff" + length.to_bytes(8, "big")
    key = random.randbytes(4)
    repeated = (key * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload) ^ int.from_bytes(repeated)
    return bytes([fin << 7 | rsv << 4 | opcode]) + sized + key + masked.to_bytes(length)


def fragmented(opcode: int, payload: bytes, size: int) -> list[bytes]:
    """``payload`` as one message in fragments of ``size`` bytes."""
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    last = len(parts) - 1
    return [frame(CONTINUATION if n else opcode, part, fin=n == last) for n, part in enumerate(parts)]


def quoted(payload: bytes) -> bytes:
    """``payload`` as the JSON string in which it travels."""
    return b'"%b"' % payload


@frozen
class Case:
    """One case: what is sent, and what relayd must do."""

    number: str
    #: In these steps; before each but the first, all of `expect` up to the next "then" has come.
    sends: list[bytes]
    #: In this order, but a pong and a message may change places; "then" stands between two steps.
    expect: list[Event | str] = Factory(list)
    #: The code of relayd's Close frame; with 1000 the client closes first, unless `sends` does.
    close: int = 1000
    #: Whether `sends` has the client's Close frame in it.
    closes: bool = False
    #: Bytes to a write; 0 for all at once.
    chop: int = 0
    #: How relayd differs, and why; empty where it does what Autobahn expects.
    difference: str = ""
    #: What else may come before the Close frame.
    optional: tuple[Event, ...] = ()
    #: Whether the message is not UTF-8: on the binary leg it is dropped, and closes nothing.
    bad_text: bool = False


def closing(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """A Close frame."""
    return frame(CLOSE, (b"" if code is None else code.to_bytes(2, "big")) + reason)


def _echo(number: str, payload: bytes, opcode: int = TEXT, chop: int = 0, difference: str = "") -> Case:
    difference = difference or (TEXT_ALONE if opcode == BINARY else "")
    text = quoted(payload)
    return Case(number, [frame(opcode, text)], [("message", text)], chop=chop, difference=difference)


def _framing() -> Iterator[Case]:
    for section, opcode in (("1.1", TEXT), ("1.2", BINARY)):
        for number, size in enumerate((0, 125, 126, 127, 128, 65535, 65536, 65536), 1):
            name = f"{section}.{number}"
            if size == 0:
                yield Case(name, [frame(opcode)], close=1007, bad_text=True, difference=EMPTY)
                continue
            # The quotes count: the lengths are what these cases are about.
            difference = f"{TEXT_ALONE}; {ASCII_FILL}" if opcode == BINARY else ""
            yield _echo(name, b"*" * (size - 2), opcode, 997 if number == 8 else 0, difference)


def _pings() -> Iterator[Case]:
    for number, payload in enumerate((b"", HELLO, b"\0\xff\xfe\xfd\xfc\xfb\0\xff", b"\xfe" * 125), 1):
        yield Case(f"2.{number}", [frame(PING, payload)], [("pong", payload)])
    yield Case("2.5", [frame(PING, b"\xfe" * 126)], close=1002)
    yield Case("2.6", [frame(PING, b"\xfe" * 125)], [("pong", b"\xfe" * 125)], chop=1)
    yield Case("2.7", [frame(PONG)])
    yield Case("2.8", [frame(PONG, b"unsolicited")])
    yield Case("2.9", [frame(PONG, b"unsolicited") + frame(PING, b"ping")], [("pong", b"ping")])
    ten = [b"payload-%d" % n for n in range(10)]
    pongs: list[Event | str] = [("pong", payload) for payload in ten]
    for last, chop in ((10, 0), (11, 1)):
        yield Case(f"2.{last}", [b"".join(frame(PING, payload) for payload in ten)], pongs, chop=chop)


def _reserved() -> Iterator[Case]:
    hello, ping = frame(TEXT, quoted(HELLO)), frame(PING)
    yield Case("3.1", [frame(TEXT, quoted(HELLO), rsv=1)], close=1002)
    echo = ("message", quoted(HELLO))
    for rsv, chop in ((2, 0), (3, 0), (4, 1)):
        sends = [hello, frame(TEXT, quoted(HELLO), rsv=rsv), ping]
        if rsv != 3:
            sends = [b"".join(sends)]
        yield Case(f"3.{rsv}", sends, close=1002, chop=chop, difference=ECHO_IS_LATE, optional=(echo,))
    yield Case("3.5", [frame(BINARY, b"\0\xff\xfe\xfd\xfc\xfb\0\xff", rsv=5)], close=1002)
    yield Case("3.6", [frame(PING, HELLO, rsv=6)], close=1002)
    yield Case("3.7", [frame(CLOSE, rsv=7)], close=1002)
    for section, first in (("4.1", 3), ("4.2", 11)):
        for number in range(1, 6):
            reserved = frame(first + number - 1, b"" if number in (1, 3) else b"reserved opcode payload")
            sends = [(hello if number > 2 else b"") + reserved + ping]
            yield Case(
                f"{section}.{number}",
                sends,
                close=1002,
                chop=1 if number == 5 else 0,
                difference=ECHO_IS_LATE if number > 2 else "",
                optional=(echo,) if number > 2 else (),
            )


def _fragments() -> Iterator[Case]:
    one, two = frame(TEXT, b'"fragment1', fin=False), frame(CONTINUATION, b'fragment2"')
    whole: Event = ("message", b'"fragment1fragment2"')
    ping, pong = frame(PING, b"ping payload"), ("pong", b"ping payload")
    yield Case("5.1", [frame(PING, b"fragment1", fin=False) + frame(CONTINUATION, b"fragment2")], close=1002)
    yield Case("5.2", [frame(PONG, b"fragment1", fin=False) + frame(CONTINUATION, b"fragment2")], close=1002)
    yield Case("5.3", [one + two], [whole])
    yield Case("5.4", [one, two], ["then", whole])
    yield Case("5.5", [one + two], [whole], chop=1)
    yield Case("5.6", [one + ping + two], [pong, whole], difference=BESIDE)
    yield Case("5.7", [one, ping, two], ["then", "then", pong, whole], difference=BESIDE)
    yield Case("5.8", [one + ping + two], [pong, whole], chop=1, difference=BESIDE)
    text = frame(TEXT, quoted(HELLO))
    for base, fin in ((9, True), (12, False)):
        stray = frame(CONTINUATION, b"non-continuation payload", fin=fin)
        yield Case(f"5.{base}", [stray + text], close=1002)
        yield Case(f"5.{base + 1}", [stray, text], ["then"], close=1002)
        yield Case(f"5.{base + 2}", [stray + text], close=1002, chop=1)
    stray = frame(CONTINUATION, b"fragment3", fin=False)
    yield Case("5.15", [one + two + stray + text], close=1002, difference=ECHO_IS_LATE, optional=(whole,))
    for number, fin in (("5.16", False), ("5.17", True)):
        yield Case(number, [(frame(CONTINUATION, b"fragment1", fin=fin) + one + two) * 2], close=1002)
    yield Case("5.18", [one + frame(TEXT, b"fragment2")], close=1002)
    parts = [frame(TEXT, b'"1', fin=False), *(frame(CONTINUATION, b"%d" % n, fin=False) for n in (2, 3, 4))]
    first, last = frame(PING, b"pongme 1!"), frame(PING, b"pongme 2!") + frame(CONTINUATION, b'5"')
    answers: list[Event | str] = [("pong", b"pongme 2!"), ("message", b'"12345"')]
    yield Case(
        "5.19",
        [parts[0] + parts[1] + first, parts[2] + parts[3] + last],
        [("pong", b"pongme 1!"), "then", *answers],
        difference=BESIDE,
    )
    yield Case(
        "5.20",
        [parts[0], parts[1], first, parts[2], parts[3], last],
        ["then", "then", ("pong", b"pongme 1!"), "then", "then", "then", *answers],
        difference=BESIDE,
    )


def _utf8_sequences() -> Iterator[tuple[str, list[bytes]]]:
    """Markus Kuhn's UTF-8 stress test, in the order in which Autobahn numbers it (6.5 to 6.23)."""
    yield "6.5", [*(f"hello{c}world".encode() for c in "$¢€\U00024b62"), KOSME]
    yield "6.6", [KOSME[:end] for end in range(1, len(KOSME) + 1)]
    yield "6.7", [b"\0", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"]
    yield "6.8", [b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]
    yield "6.9", [b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"]
    yield "6.10", [b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]
    yield "6.11", [b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80"]
    stray = [(b"\x80\xbf" * 3)[:length] for length in range(2, 7)]
    yield "6.12", [b"\x80", b"\xbf", *stray, bytes(range(0x80, 0xBF))]
    starts = pairwise((0xC0, 0xE0, 0xF0, 0xF8, 0xFC, 0xFE))
    yield "6.13", [b"".join(bytes([byte, 0x20]) for byte in range(low, high - 1)) for low, high in starts]
    missing = [b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xfc\x80\x80\x80\x80"]
    missing += [b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfb\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf"]
    yield "6.14", missing
    yield "6.15", [b"".join(missing)]
    yield "6.16", [b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]
    overlong = [b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xfc\x80\x80\x80\x80"]
    yield "6.17", [start + b"\xaf" for start in overlong]
    yield (
        "6.18",
        [
            b"\xc1\xbf",
            b"\xe0\x9f\xbf",
            b"\xf0\x8f\xbf\xbf",
            b"\xf8\x87\xbf\xbf\xbf",
            b"\xfc\x83\xbf\xbf\xbf\xbf",
        ],
    )
    yield "6.19", [start + b"\x80" for start in overlong]
    single = (0xD800, 0xDB7F, 0xDB80, 0xDBFF, 0xDC00, 0xDF80, 0xDFFF)
    yield "6.20", [chr(code).encode("utf-8", "surrogatepass") for code in single]
    pairs = [(high, low) for high in (0xD800, 0xDB7F, 0xDB80, 0xDBFF) for low in (0xDC00, 0xDFFF)]
    yield "6.21", [(chr(high) + chr(low)).encode("utf-8", "surrogatepass") for high, low in pairs]
    planes = [plane << 16 | end for plane in range(1, 17) for end in (0xFFFE, 0xFFFF)]
    yield "6.22", [chr(code).encode() for code in (0xFFFE, 0xFFFF, *planes)]
    yield "6.23", [chr(code).encode() for code in range(0xFFF9, 0x10000)]


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _utf8() -> Iterator[Case]:
    yield Case("6.1.1", [frame(TEXT)], close=1007, bad_text=True, difference=EMPTY)
    first, last = frame(TEXT, fin=False), frame(CONTINUATION)
    nothing = first + frame(CONTINUATION, fin=False) + last
    yield Case("6.1.2", [nothing], close=1007, bad_text=True, difference=EMPTY)
    middle = quoted(b"middle frame payload")
    yield Case("6.1.3", [first + frame(CONTINUATION, middle, fin=False) + last], [("message", middle)])
    text = quoted("Hello-µ@ßöäüàá-UTF-8!!".encode())
    yield Case("6.2.1", [frame(TEXT, text)], [("message", text)])
    boundary = len('"Hello-µ@ß'.encode())
    parts = [frame(TEXT, text[:boundary], fin=False), frame(CONTINUATION, text[boundary:])]
    yield Case("6.2.2", [b"".join(parts)], [("message", text)])
    yield Case("6.2.3", [b"".join(fragmented(TEXT, text, 1))], [("message", text)])
    yield Case("6.2.4", [b"".join(fragmented(TEXT, quoted(KOSME), 1))], [("message", quoted(KOSME))])
    bad = quoted(KOSME + b"\xed\xa0\x80edited")
    yield Case("6.3.1", [frame(TEXT, bad)], close=1007, bad_text=True)
    yield Case("6.3.2", [b"".join(fragmented(TEXT, bad, 1))], close=1007, bad_text=True)
    bad = quoted(KOSME + b"\xf4\x90\x80\x80edited")
    sync, synced = frame(PING, b"open?"), ("pong", b"open?")
    for number, cuts in (("6.4.1", (12, 16)), ("6.4.2", (13, 14))):
        one, two = cuts
        sends = [
            frame(TEXT, bad[:one], fin=False) + sync,
            frame(CONTINUATION, bad[one:two], fin=False) + sync,
            frame(CONTINUATION, bad[two:]),
        ]
        expect: list[Event | str] = [synced, "then", synced, "then"]
        yield Case(number, sends, expect, close=1007, bad_text=True, difference=WHOLE_MESSAGES)
    whole = frame(TEXT, bad)
    for number, cuts in (("6.4.3", (12, 16)), ("6.4.4", (13, 14))):
        one, two = (len(whole) - len(bad) + cut for cut in cuts)
        sends = [whole[:one], whole[one:two], whole[two:]]
        yield Case(number, sends, ["then", "then"], close=1007, bad_text=True, difference=WHOLE_MESSAGES)
    for section, payloads in _utf8_sequences():
        for position, payload in enumerate(payloads, 1):
            number = f"{section}.{position}"
            if payload == b"\0":
                yield Case(
                    number, [frame(TEXT, quoted(payload))], close=1007, bad_text=True, difference=NO_RAW_CONTROL
                )
            elif _is_utf8(payload):
                yield _echo(number, payload)
            else:
                yield Case(number, [frame(TEXT, quoted(payload))], close=1007, bad_text=True)


def _closing() -> Iterator[Case]:
    text = frame(TEXT, quoted(HELLO))
    yield Case("7.1.1", [text], [("message", quoted(HELLO))])
    yield Case("7.1.2", [closing() + frame(CLOSE)], closes=True)
    yield Case("7.1.3", [closing() + frame(PING)], closes=True)
    yield Case("7.1.4", [closing() + text], closes=True)
    one, two = frame(TEXT, b'"fragment1', fin=False), frame(CONTINUATION, b'fragment2"')
    yield Case("7.1.5", [one + closing() + two], closes=True)
    large = frame(TEXT, quoted(b"BAsd7&jh23" * (CAP // 10 - 10)))
    sends = [large + text + closing() + frame(PING)]
    echoes = (("message", quoted(b"BAsd7&jh23" * (CAP // 10 - 10))), ("message", quoted(HELLO)))
    yield Case("7.1.6", sends, closes=True, optional=echoes, difference=INFORMATIONAL)
    yield Case("7.3.1", [closing(None)], close=1005, closes=True)
    yield Case("7.3.2", [frame(CLOSE, b"a")], close=1002, closes=True)
    yield Case("7.3.3", [closing()], closes=True)
    yield Case("7.3.4", [closing(1000, b"Hello World!")], closes=True)
    yield Case("7.3.5", [closing(1000, b"*" * 123)], closes=True)
    yield Case("7.3.6", [closing(1000, b"*" * 124)], close=1002, closes=True)
    yield Case("7.5.1", [closing(1000, KOSME + b"\xed\xa0\x80edited")], close=1007, closes=True)
    valid = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    for number, code in enumerate(valid, 1):
        yield Case(f"7.7.{number}", [closing(code)], close=code, closes=True)
    for number, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), 1):
        yield Case(f"7.9.{number}", [closing(code)], close=1002, closes=True)
    for number, code in enumerate((5000, 65535), 1):
        yield Case(f"7.13.{number}", [closing(code)], close=1002, closes=True, difference=INFORMATIONAL)


def _limits() -> Iterator[Case]:
    size: int
    for section, opcode in (("9.1", TEXT), ("9.2", BINARY)):
        also = f"; {TEXT_ALONE}" if opcode == BINARY else ""
        yield _echo(f"{section}.1", b"*" * 0x10000, opcode)
        yield _echo(f"{section}.2", b"*" * (CAP - 100), opcode, difference=ENVELOPE + also)
        for number, size in enumerate((1, 4, 8, 16), 3):
            # The header is enough: relayd does not wait for what it will not take.
            header = bytes([0x80 | opcode, 0xFF]) + (size << 20).to_bytes(8, "big") + b"mask"
            yield Case(f"{section}.{number}", [header], close=1009, difference=TOO_BIG)
    text = quoted(b"*" * 0x20000)
    for section, opcode in (("9.3", TEXT), ("9.4", BINARY)):
        also = f"; {TEXT_ALONE}" if opcode == BINARY else ""
        for number in range(1, 10):
            size = 64 << 2 * (number - 1)
            sends = [b"".join(fragmented(opcode, text, size))]
            yield Case(f"{section}.{number}", sends, [("message", text)], difference=SHORTER + also)
    for section, opcode in (("9.5", TEXT), ("9.6", BINARY)):
        also = f"; {TEXT_ALONE}" if opcode == BINARY else ""
        for number in range(1, 7):
            sends = [frame(opcode, text)]
            chop = 64 << (number - 1)
            yield Case(f"{section}.{number}", sends, [("message", text)], chop=chop, difference=SHORTER + also)
    for section, opcode in (("9.7", TEXT), ("9.8", BINARY)):
        also = f"; {TEXT_ALONE}" if opcode == BINARY else ""
        for number, size in enumerate((0, 16, 64, 256, 1024, 4096), 1):
            text = quoted(b"*" * size)
            turns: list[Event | str] = [("message", text), "then"] * 100
            sends = [frame(opcode, text)] * 100
            yield Case(f"{section}.{number}", sends, turns[:-1], difference=FEWER + also)
            text = quoted(b"*" * 0x20000)


def _auto_fragments() -> Iterator[Case]:
    text = quoted(b"*" * 65536)
    yield Case("10.1.1", [b"".join(fragmented(TEXT, text, 1300))], [("message", text)])


CASES: Final[tuple[Case, ...]] = (
    *_framing(),
    *_pings(),
    *_reserved(),
    *_fragments(),
    *_utf8(),
    *_closing(),
    *_limits(),
    *_auto_fragments(),
)

_SECTIONS: Final = {
    "1": "Framing",
    "2": "Pings and pongs",
    "3": "Reserved bits",
    "4": "Opcodes",
    "5": "Fragmentation",
    "6": "UTF-8 handling",
    "7": "Close handling",
    "9": "Limits and performance",
    "10": "Automatic fragmentation",
}


def as_markdown() -> str:
    """The tables of `docs/conformance.md`."""
    rows = ["| section | | cases | as Autobahn expects | with a difference |", "|---|---|---|---|---|"]
    for section, name in _SECTIONS.items():
        cases = [case for case in CASES if case.number.partition(".")[0] == section]
        differing = sum(bool(case.difference) for case in cases)
        rows.append(f"| {section} | {name} | {len(cases)} | {len(cases) - differing} | {differing} |")
    rows += ["", "| cases | difference |", "|---|---|"]
    for difference, group in groupby(CASES, key=lambda case: case.difference):
        numbers = [case.number for case in group]
        if difference:
            shown = numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
            rows.append(f"| {shown} | {difference} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(as_markdown())
