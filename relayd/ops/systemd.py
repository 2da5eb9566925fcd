"""What relayd tells the service manager: that it is ready, how it is, that it lives (sd_notify(3)).

Outside a service manager nobody asks for it, and all of this does nothing.
"""

import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Final, Literal

import trio

__all__ = ["ServiceManager", "status_of"]

_STATUS_INTERVAL: Final = 2.0
"""Seconds between two looks at the status. Each one sent wakes the manager and whoever watches it."""

_RETRY_INTERVAL: Final = 0.1
"""Seconds until the manager's queue, which was full, is tried again."""

_STOP_MARGIN: Final = 5.0
"""Seconds from the end of a drain to the end of the process, at most."""


class ServiceManager:
    """The other end of ``NOTIFY_SOCKET``, if there is one. No call waits or raises.

    `run` must run beside the relay: it keeps the status and the watchdog, and sends again what the
    manager had no room for.
    """

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        """``address`` is a path, or ``@`` and a name; ``watchdog`` is the limit between pings, in seconds."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._watchdog = watchdog
        self._phase: Literal["starting", "ready", "stopping"] = "starting"
        self._status = ""
        # What there was no room for. A reload adds two, and only the last ones matter.
        self._waiting: deque[bytes] = deque(maxlen=8)
        self._waits = trio.lowlevel.ParkingLot()

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], pid: int) -> "ServiceManager":
        """As ``environment`` says, for process ``pid``; the variables are removed from it.

        ``WATCHDOG_PID`` may say that the watchdog is another process's (sd_watchdog_enabled(3)).
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        ours = environment.pop("WATCHDOG_PID", str(pid)) == str(pid)
        # Others, such as vsock:…, are for virtual machines that talk to their host.
        if not address.startswith(("/", "@")):
            address = ""
        watched = address and ours and microseconds.isdecimal() and int(microseconds) > 0
        return cls(address, int(microseconds) / 1_000_000 if watched else None)

    def close(self) -> None:
        """Tell nothing any more."""
        if self._socket is not None:
            self._socket.close()

    def ready(self, status: str) -> None:
        """Every listener listens."""
        if self._phase == "starting":
            self._phase = "ready"
            self._status = status
            self._tell("READY=1", f"STATUS={status}")

    @contextmanager
    def reloading(self, status: Callable[[], str]) -> Iterator[None]:
        """The body reads the settings again (``Type=notify-reload`` in systemd.service(5)).

        ``status()`` is told behind it.
        """
        if self._phase != "ready":
            yield
            return
        # The manager compares this with its own clock, so it is the system's, and not trio's.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")
        try:
            yield
        finally:
            self._status = status()
            self._tell("READY=1", f"STATUS={self._status}")

    def stopping(self, status: str, drain_timeout: float) -> None:
        """A drain has begun that may take ``drain_timeout`` seconds, be that longer than the unit's limit."""
        self._phase = "stopping"
        self._status = status
        allowance = int((drain_timeout + _STOP_MARGIN) * 1_000_000)
        self._tell("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={allowance}")

    async def run(self, status: Callable[[], str]) -> None:
        """Keep telling ``status()`` when it has changed, and that the loop turns, until cancelled."""
        if self._socket is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_again)
            nursery.start_soon(self._keep_status, status)
            if self._watchdog is not None:
                nursery.start_soon(self._ping, self._watchdog / 2)

    async def _keep_status(self, status: Callable[[], str]) -> None:
        while True:
            await trio.sleep(_STATUS_INTERVAL)
            new = status()
            if new != self._status and not self._waiting:
                self._status = new
                self._tell(f"STATUS={new}")

    async def _ping(self, interval: float) -> None:
        # In a task of trio's, like all that relays: a loop that is stuck does not get here.
        while True:
            if not self._waiting:
                self._tell("WATCHDOG=1")
            await trio.sleep(interval)

    async def _send_again(self) -> None:
        while True:
            while not self._waiting:
                await self._waits.park()
            if self._send(self._waiting[0]):
                self._waiting.popleft()
            else:
                await trio.sleep(_RETRY_INTERVAL)

    def _tell(self, *assignments: str) -> None:
        # The name of a file may be no UTF-8.
        message = "\n".join(assignments).encode("utf-8", "backslashreplace")
        # Behind what waits, so that nothing overtakes: READY=1 after RELOADING=1, and so on.
        if self._waiting or not self._send(message):
            self._waiting.append(message)
            self._waits.unpark_all()

    def _send(self, message: bytes) -> bool:
        """Whether ``message`` is done with: the manager has it, or there is no manager to have it."""
        if self._socket is not None:
            try:
                self._socket.sendto(message, self._address)
            except BlockingIOError:
                return False
            except (OSError, ValueError):
                pass
        return True


def status_of(binaries: int, phones: int, *, draining: bool, refusal: str = "") -> str:
    """The line of ``systemctl status``: "3 binaries, 12 phones".

    ``refusal`` is why the last reload changed nothing, in one line.
    """
    counts = f"{binaries} {'binary' if binaries == 1 else 'binaries'}, {phones} phone{'s' * (phones != 1)}"
    if draining:
        return f"draining: {counts} left"
    return f"{counts}; settings refused at reload: {' '.join(refusal.split())}" if refusal else counts
