"""Standard error that takes nothing: a full pipe, a stopped terminal, a full disk, a peer that is gone."""

import errno
import fcntl
import os
import pty
import select
import socket
import termios
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
import trio
import trio.testing

from relayd.ops.output import MOST_WAITING, Output, open_sink

FILLING = b"." * 4096


class Stuck:
    """Something to write to that is full until it is read."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        self._kind = kind
        if kind == "socket":
            reader, writer = (stack.enter_context(end) for end in socket.socketpair())
            self.reading, self.fd = reader.fileno(), writer.fileno()
        else:
            self.reading, self.fd = pty.openpty() if kind == "terminal" else os.pipe()
            stack.callback(os.close, self.reading)
            stack.callback(os.close, self.fd)
        if kind == "terminal":
            attributes = termios.tcgetattr(self.fd)
            attributes[1] &= ~termios.OPOST
            termios.tcsetattr(self.fd, termios.TCSANOW, attributes)
            termios.tcflow(self.fd, termios.TCOOFF)
        else:
            self._fill()

    def _fill(self) -> None:
        os.set_blocking(self.fd, False)
        try:
            while True:
                os.write(self.fd, FILLING)
        except BlockingIOError:
            os.set_blocking(self.fd, True)

    def read(self) -> bytes:
        """Make room; what came since this was made or read."""
        if self._kind == "terminal":
            termios.tcflow(self.fd, termios.TCOON)
        os.set_blocking(self.reading, False)
        # What goes through a terminal takes a moment of the kernel's own.
        select.select([self.reading], [], [], 0.01)
        found = b""
        try:
            while True:
                found += os.read(self.reading, 1 << 20)
        except BlockingIOError:
            return found.lstrip(b".")

    async def read_all(self, size: int, between: Callable[[], Awaitable[object]]) -> bytes:
        """That many bytes at least, with ``between`` awaited whenever no more have come."""
        found = b""
        for _ in range(2000):
            found += self.read()
            if len(found) >= size:
                return found
            await between()
        raise AssertionError(f"{len(found)} bytes of {size}")


@contextmanager
def output_to(fd: int | None) -> Iterator[Output]:
    output = Output(open_sink(fd), lambda count: b"lost %d\n" % count)
    try:
        yield output
    finally:
        output.close()


@pytest.fixture(params=["pipe", "another user's pipe", "socket", "terminal"])
def stuck(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    with ExitStack() as stack:
        stuck = Stuck(request.param, stack)
        if request.param == "another user's pipe":
            monkeypatch.setattr("relayd.ops.output.os.open", refused)
        yield stuck


def refused(*_: object) -> int:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


async def test_what_was_not_taken_is_written_in_order_once_there_is_room(
    stuck: Stuck, autojump_clock: trio.testing.MockClock
) -> None:
    with output_to(stuck.fd) as output:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.retry)
            entries = [b"entry %d %s\n" % (number, b"-" * (number % 300)) for number in range(3000)]
            for entry in entries:
                output.put(entry)
            seen = await stuck.read_all(len(b"".join(entries)), partial(trio.sleep, 2))
            nursery.cancel_scope.cancel()
    assert seen == b"".join(entries)


async def test_what_is_too_much_is_lost_and_counted_in_its_place(
    stuck: Stuck, autojump_clock: trio.testing.MockClock
) -> None:
    entry = b"%s\n" % (b"x" * 999)
    kept = MOST_WAITING // len(entry)
    with output_to(stuck.fd) as output:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.retry)
            for _ in range(kept + 17):
                output.put(entry)
            seen = await stuck.read_all(len(entry) * kept + len(b"lost 17\n"), partial(trio.sleep, 2))
            output.put(b"after\n")
            seen += await stuck.read_all(len(b"after\n"), partial(trio.sleep, 2))
            nursery.cancel_scope.cancel()
    assert seen == entry * kept + b"lost 17\nafter\n"


async def test_the_end_waits_for_what_waits_but_not_for_long(
    stuck: Stuck, autojump_clock: trio.testing.MockClock
) -> None:
    entries = [b"entry %d\n" % number for number in range(1000)]
    with output_to(stuck.fd) as output, trio.CancelScope() as scope:
        scope.cancel()
        for entry in entries:
            output.put(entry)
        began = trio.current_time()
        await output.finish()
        assert 1 <= trio.current_time() - began < 2
        assert await stuck.read_all(len(b"".join(entries)), output.finish) == b"".join(entries)


def test_others_who_share_the_open_file_still_wait_for_it(stuck: Stuck) -> None:
    before = fcntl.fcntl(stuck.fd, fcntl.F_GETFL)
    with output_to(stuck.fd) as output:
        output.put(b"a\n")
        assert fcntl.fcntl(stuck.fd, fcntl.F_GETFL) == before
    assert not before & os.O_NONBLOCK
    assert fcntl.fcntl(stuck.fd, fcntl.F_GETFL) == before


async def test_the_next_entry_brings_those_that_wait_even_if_nobody_retries(stuck: Stuck) -> None:
    with output_to(stuck.fd) as output:
        output.put(b"one\n")
        stuck.read()
        output.put(b"two\n")
        assert await stuck.read_all(8, trio.lowlevel.checkpoint) == b"one\ntwo\n"


@pytest.mark.parametrize("sink", ["a pipe whose reader is gone", "a full disk", "a socket whose peer is gone"])
def test_a_sink_that_is_dead_costs_its_entries_and_nothing_else(sink: str) -> None:
    with ExitStack() as stack:
        fd = _dead(sink, stack.callback)
        with output_to(fd) as output:
            for _ in range(10):
                output.put(b"entry\n")
                assert not output.flush()


def _dead(sink: str, afterwards: Callable[..., object]) -> int:
    if sink == "a full disk":
        fd = os.open("/dev/full", os.O_WRONLY)
    elif sink == "a pipe whose reader is gone":
        reading, fd = os.pipe()
        os.close(reading)
    else:
        peer, own = socket.socketpair()
        peer.close()
        fd = own.detach()
    afterwards(os.close, fd)
    return fd


def test_without_standard_error_entries_go_nowhere() -> None:
    with output_to(None) as output:
        output.put(b"entry\n")
        assert output.flush()
