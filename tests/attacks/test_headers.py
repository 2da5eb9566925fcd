"""Header values that would be something else in a log line, an event, a page or an answer."""

import json
import re
import urllib.request
from collections.abc import Iterator

from tests.attacks.bounds import MIB, RelayStarter, UnderAttack
from tests.attacks.peers import connect, request
from tests.relay_process import until

MARKER = b"inj3cted"

SHOWN = {b"x-pyrycode-server", b"x-pyrycode-version", b"x-pyrycode-device-name"}
"""Headers of which something may be logged."""

FIELDS = (
    *sorted(SHOWN),
    b"x-pyrycode-token",
    b"user-agent",
    b"Host",
    b"Origin",
    b"Connection",
    b"Upgrade",
    b"Sec-WebSocket-Key",
    b"Sec-WebSocket-Version",
    b"Sec-WebSocket-Protocol",
    b"Sec-WebSocket-Extensions",
    b"X-Forwarded-For",
    b"Forwarded",
    b"Content-Length",
    b"x-anything",
)

INJECTIONS = (
    b"a\r\nX-Injected: %b" % MARKER,
    b"a\r\n\r\n%b" % MARKER,
    b"a\r\n GET /%b HTTP/1.1" % MARKER,
    b'a\n{"event":"%b"}' % MARKER,
    b"a\r%b" % MARKER,
    b"a\0%b" % MARKER,
    b"a\x1b[31m\x1b]0;%b\x07" % MARKER,
    b"a\x08\x7f\x0b\x0c%b" % MARKER,
    b'a","event":"%b","x":"' % MARKER,
    b"a\\n\\u000a%b" % MARKER,
    "a\x85\u2028\u2029\u202e\u200b\ufeff".encode() + MARKER,
    b"a\xff\xfe\xc0\x80\xed\xa0\x80%b" % MARKER,
    b"%b%%s{}{0}$(id)`id`" % MARKER,
    b"%b" % (MARKER * 50),
    b"\tsp\t%b\t" % MARKER,
)

NOT_IN_A_LOG = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae\x8b]|\xef\xbb\xbf")
"""Control characters, and what changes lines or the direction of writing, in UTF-8."""


def attempts() -> Iterator[bytes]:
    """Requests with every injection in every header, in a path and in a method, on both endpoints."""
    for path in ("/v1/server", "/v1/client"):
        for injection in INJECTIONS:
            for name in FIELDS:
                yield request(path, "headers", {name: injection})
            yield request(path, "headers", {injection: b"value"})
            yield request(path, "headers").replace(b" /", b" /" + injection, 1)
            yield injection + request(path, "headers")


def try_all(port: int) -> None:
    """Make every attempt; no answer may show anything of it."""
    for attempt in attempts():
        with connect(port) as sock:
            sock.sendall(attempt)
            answer = b""
            while b"\r\n\r\n" not in answer:
                data = sock.recv(65536)
                if not data:
                    break
                answer += data
        assert re.match(rb"HTTP/1.1 (101|4\d\d) ", answer), (attempt, answer)
        assert MARKER not in answer, (attempt, answer)


def test_no_header_becomes_an_event_another_field_of_one_or_a_part_of_an_answer(
    start_relay: RelayStarter, under_attack: UnderAttack
) -> None:
    relay = start_relay("--metrics-listen", "127.0.0.1:0", "--grace", "0")
    metrics = relay.event("metrics_listening")["address"]
    with under_attack(relay, memory=8 * MIB, sockets=8) as attack:
        try_all(relay.port)
        attack.honest.exchange()
        with urllib.request.urlopen(f"http://{metrics}/metrics") as page:
            assert MARKER not in page.read()
    log = relay.log_text()
    assert not NOT_IN_A_LOG.search(log.encode())
    carriers = set()
    for line in log.splitlines():
        event = json.loads(line)
        carriers |= {name for name, value in event.items() if MARKER.decode() in str(value)}
    assert carriers == {"server_id", "version", "device_name"}


def test_no_header_breaks_a_line_of_a_log_in_text(start_relay: RelayStarter) -> None:
    relay = start_relay("--log-format", "text", "--grace", "0")
    listening = re.compile(r"listening address=127\.0\.0\.1:(\d+)")
    try_all(int(until(lambda: listening.search(relay.log_text()), "line that says where")[1]))
    # A drain makes sure that the log is whole.
    assert relay.stop() == 0
    log = relay.log_text()
    assert MARKER.decode() in log
    assert not NOT_IN_A_LOG.search(log.encode())
    entry = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z (debug|info|warning|error) +[a-z_]+( [a-z_]+=|$)")
    for line in log.splitlines():
        assert entry.match(line), line
