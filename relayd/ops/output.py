"""Entries to a file, a pipe, a terminal or the journal, without ever waiting for it."""

import errno
import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

import trio

__all__ = ["MOST_WAITING", "Output", "Sink", "open_sink"]

MOST_WAITING: Final = 4 * 1024 * 1024
"""Bytes kept for a sink that takes none: what 10,000 entries have, a storm's worth."""

_MOST_AT_ONCE: Final = 256
"""Entries written before other tasks have their turn: a sink that has room again may take thousands."""

_FIRST_RETRY: Final = 0.005
"""Seconds. journald's socket holds 10 datagrams by the kernel's default, so it wants to be asked often."""

_LAST_RETRY: Final = 1.0
"""Seconds between attempts, after many in vain."""

_FINAL_WAIT: Final = 1.0
"""Seconds that the end waits for the log: a drain of thousands is written faster than it is read."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes) -> int:
        """Write what is taken at once, and return how much that was. Raises OSError if it is nothing."""

    def close(self) -> None:
        """Give back what the system lent for it."""


class Output:
    """Entries on their way to a sink, in order.

    Those that the sink does not take wait, up to `MOST_WAITING` bytes. Then entries are lost, all of
    them until those that wait are written, and an entry in the gap says how many they were.
    """

    def __init__(self, sink: Sink, lost_entry: Callable[[int], bytes]) -> None:
        self._sink = sink
        self._lost_entry = lost_entry
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._blocked = trio.lowlevel.ParkingLot()

    def put(self, entry: bytes) -> None:
        """Write ``entry``, or keep it for later, or lose and count it. Never waits, never raises."""
        blocked = bool(self._waiting) and not self.flush()
        if blocked and (self._lost or self._waiting_bytes + len(entry) > MOST_WAITING):
            self._lost += 1
            return
        self._waiting.append(entry)
        self._waiting_bytes += len(entry)
        if blocked or not self.flush():
            self._blocked.unpark_all()

    def flush(self) -> bool:
        """Write what waits, as far as the sink takes it; whether that was all."""
        for _ in range(_MOST_AT_ONCE):
            if not self._waiting:
                return True
            entry = self._waiting[0]
            try:
                written = self._sink.write(entry)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    return False
                # It will never go, and others must not wait for it.
                written = len(entry)
                self._lost += 1
            self._waiting_bytes -= written
            if written < len(entry):
                self._waiting[0] = entry[written:]
                continue
            self._waiting.popleft()
            if self._lost and not self._waiting:
                self._waiting.append(self._lost_entry(self._lost))
                self._waiting_bytes = len(self._waiting[0])
                self._lost = 0
        return not self._waiting

    async def retry(self) -> NoReturn:
        """Write what waits once it can be. Runs until it is cancelled."""
        pause = _FIRST_RETRY
        while True:
            if not self._waiting:
                await self._blocked.park()
            await trio.sleep(pause)
            before = self._waiting_bytes
            done = self.flush()
            pause = _FIRST_RETRY if done or self._waiting_bytes < before else min(2 * pause, _LAST_RETRY)

    async def finish(self) -> None:
        """Write what waits, for `_FINAL_WAIT` at most, even if cancelled."""
        with trio.move_on_after(_FINAL_WAIT, shield=True):
            while not self.flush():  # noqa: ASYNC110 (nobody tells when a disk or a journal has room)
                await trio.sleep(_FIRST_RETRY)

    def close(self) -> None:
        """Close the sink; what still waits is lost."""
        self._sink.close()


def open_sink(fd: int | None) -> Sink:
    """What writes to ``fd`` without waiting, and without a change to it that others who share it would see.

    O_NONBLOCK belongs to the open file, which a shell and its commands share. So a pipe or a terminal
    is opened anew, and a socket is told with each write. A file on a disk knows no such thing: the
    kernel takes what is written into memory. Without ``fd`` all goes nowhere. Raises OSError.
    """
    if fd is None:
        return _Descriptor(os.open(os.devnull, os.O_WRONLY))
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return _Socket(fd)
    if stat.S_ISREG(mode):
        return _Descriptor(os.dup(fd))
    try:
        return _Descriptor(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        # Another user's pipe or terminal, or no /proc.
        return _Polled(os.dup(fd))


class _Descriptor:
    """A file, or something opened so that it does not wait."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def close(self) -> None:
        os.close(self._fd)


class _Polled(_Descriptor):
    """A pipe or a terminal that waits. One that says it has room has it for PIPE_BUF bytes: see pipe(7)."""

    def write(self, data: bytes) -> int:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return super().write(data[: select.PIPE_BUF])


class _Socket:
    """A socket of a stream, such as systemd's to the journal."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))

    def write(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        self._socket.close()
