"""File descriptors: how many are open, and one kept back for an operator when strangers hold all others."""

import errno
import os
import resource
import socket
from contextlib import suppress
from typing import Final

__all__ = ["Reserve", "descriptor_limit", "open_descriptors"]

_OWN: Final = "/proc/self/fd"


class Reserve:
    """A descriptor that is held open for nothing, until somebody who must get in finds none free."""

    def __init__(self) -> None:
        """Raises OSError if there is none to hold."""
        self._fd: int | None = _open_null()

    @property
    def held(self) -> bool:
        """Whether there is one to accept on."""
        return self._fd is not None

    def accept(self, listener: socket.socket) -> socket.socket | None:
        """Accept from ``listener`` on the descriptor held; None if it is not held now.

        Raises OSError as accept(2), and then holds it still.
        """
        if self._fd is None:
            return None
        # Nothing else in this loop can take the descriptor in between.
        self.close()
        try:
            return listener.accept()[0]
        except OSError:
            self.hold()
            raise

    def hold(self) -> None:
        """Hold one again, if none is held and one can be had: in the same turn in which a socket was closed."""
        if self._fd is None:
            with suppress(OSError):
                self._fd = _open_null()

    def close(self) -> None:
        """Hold none."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def descriptor_limit() -> int:
    """How many descriptors this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def open_descriptors() -> int | None:
    """How many it has open; None if the system does not tell."""
    try:
        # One of them is the directory's own.
        return len(os.listdir(_OWN)) - 1
    except OSError as error:
        # To look takes a descriptor: where none is free for that, all are open.
        return descriptor_limit() if error.errno == errno.EMFILE else None


def _open_null() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
