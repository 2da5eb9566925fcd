"""``python -m tests.attacks.honest PORT SERVER_ID BOUND``: a binary and its phone, whom no attack may touch.

The binary sends back whatever comes, to whomever it came from. The phone sends numbered frames of all
sizes and waits for each to come back, BOUND seconds at most. A line with a number on standard input
asks for that many round trips at once; its end asks for the report, in JSON, on standard output.
"""

import json
import select
import statistics
import sys
import threading
import time

from tests.attacks.peers import Peer, binary, connect

PAUSE = 0.005
"""Seconds between two round trips, unless somebody waits for them."""


class HonestPair:
    """The pair, and how long its frames took."""

    def __init__(self, port: int, server_id: str, bound: float) -> None:
        self._bound = bound
        self._binary = binary(port, server_id)
        self._phone = Peer(connect(port), "/v1/client", server_id)
        self._phone.socket.settimeout(bound)
        # The binary only reads and answers: it is never late by itself, and it may wait for ever.
        self._binary.socket.settimeout(None)
        self._phone.send(b'"who"')
        message = self._binary.text()
        self.conn_id = message.split(b'"')[3].decode()
        self._seconds: list[float] = []
        threading.Thread(target=self._send_back, daemon=True).start()

    def exchange(self, count: int) -> None:
        """``count`` round trips: every frame comes back once, in order, unchanged, in time."""
        for _ in range(count):
            number = len(self._seconds)
            text = b'"%d %b"' % (number, b"x" * (number * 7 % 3000))
            begun = time.perf_counter()
            self._phone.send(text)
            found = self._phone.text()
            assert found == text, f"frame {number} came back as {found[:40]!r}"
            self._seconds.append(time.perf_counter() - begun)
            assert self._seconds[-1] <= self._bound, f"frame {number} took {self._seconds[-1]:.1f} s"

    def report(self, fault: str = "") -> str:
        """What happened, as one line."""
        times = self._seconds or [0.0]
        return json.dumps(
            {
                "frames": len(self._seconds),
                "median": statistics.median(times),
                "most": sorted(times)[len(times) * 19 // 20],
                "slowest": max(times),
                "fault": fault,
            }
        )

    def _send_back(self) -> None:
        while True:
            message = self._binary.text()
            # Not the notice that a phone is gone: that wants no answer.
            if b'"frame"' in message:
                self._binary.send(message)


def main() -> None:
    """Exchange frames until standard input ends."""
    pair = HonestPair(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
    print(pair.conn_id, flush=True)
    try:
        while True:
            pair.exchange(1)
            if select.select([0], [], [], PAUSE)[0]:
                wanted = sys.stdin.buffer.readline()
                if not wanted:
                    break
                pair.exchange(int(wanted))
                print("done", flush=True)
    except (AssertionError, OSError) as fault:
        print(pair.report(f"{type(fault).__name__}: {fault}"), flush=True)
    else:
        print(pair.report(), flush=True)


if __name__ == "__main__":
    main()
