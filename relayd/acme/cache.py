"""Files that outlive the process: keys and certificates, in a directory that nobody else can enter."""

import errno
import fcntl
import hashlib
import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

__all__ = ["AnotherUsers", "Cache", "CannotCache", "examine_cache", "open_cache", "state_directory"]

_DEFAULT: Final = "/var/lib/relayd"

_LARGEST: Final = 256 * 1024
"""Bytes of a file that are read: a chain has some thousand."""


class CannotCache(Exception):
    """The directory cannot be used; the text is the one line to show, with the command that mends it."""


class AnotherUsers(CannotCache):
    """The directory is good for another user, and not for us."""


def state_directory(setting: str, environment: Mapping[str, str]) -> Path:
    """What ``--state-dir`` stands for: ``auto`` is what systemd has made for us, or a fixed place."""
    if setting != "auto":
        return Path(setting)
    # More than one: StateDirectory= names several, separated by colons. The first is ours.
    return Path(environment.get("STATE_DIRECTORY", "").split(":")[0] or _DEFAULT)


def open_cache(directory: Path, authority: str) -> "Cache":
    """The part of the state ``directory`` that belongs to the CA with this directory URL.

    Both directories are made if need be. Raises `CannotCache`, also for one that others may enter.
    """
    os.close(_open_private(directory))
    return Cache(_open_private(_part_of(directory, authority)))


def examine_cache(directory: Path, authority: str) -> None:
    """Raises `CannotCache` as `open_cache` would, and makes nothing."""
    for path in (directory, _part_of(directory, authority)):
        with _explained(path):
            if not path.exists():
                # It says what is in the way of mkdir(2), but for leave to make something there.
                os.stat(f"{path.parent}/.")
                if not os.access(path.parent, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                return
            os.close(_open_private(path))


class Cache:
    """A directory of ours, held open: nobody can put another in its place."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._fd)

    def read(self, name: str) -> bytes | None:
        """What was written as ``name``; None if nothing was. Raises OSError."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return file.read(_LARGEST)

    def write(self, name: str, data: bytes) -> None:
        """Write ``data`` as ``name``, for us alone: all of it, or what was there before stays. Raises OSError.

        Blocks until it is on the disk.
        """
        # Of two processes that write, the second waits.
        lock = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._replace(name, data)
        finally:
            os.close(lock)

    def _replace(self, name: str, data: bytes) -> None:
        new = f".{name}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(new, flags, 0o600, dir_fd=self._fd), "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError:
            with suppress(OSError):
                os.unlink(new, dir_fd=self._fd)
            raise
        os.fsync(self._fd)


def _part_of(directory: Path, authority: str) -> Path:
    digest = hashlib.sha256(authority.encode()).hexdigest()[:8]
    # A name that people recognize, and that no two CAs share.
    return directory / f"{urlsplit(authority).hostname}-{digest}"


def _open_private(path: Path) -> int:
    """Open a directory that is ours alone; make it if it is not there. Raises `CannotCache`."""
    with _explained(path):
        # systemd's is a link to a place that only its own process can see, so links are followed.
        if not path.exists():
            path.mkdir(mode=0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found, user = os.fstat(fd), os.geteuid()
    mode, quoted = stat.S_IMODE(found.st_mode), shlex.quote(str(path))
    if mode == 0o700 and found.st_uid == user:
        return fd
    os.close(fd)
    if mode != 0o700:
        raise CannotCache(
            f"state directory {path}: has mode {mode:04o}, and keys are to be in it; "
            f"mend it with: chmod 0700 {quoted}"
        )
    raise AnotherUsers(
        f"state directory {path}: belongs to user {found.st_uid}, but relayd is {user}; "
        f"mend it with: chown {user} {quoted}"
    )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an OSError into a `CannotCache`."""
    try:
        yield
    except OSError as error:
        raise CannotCache(
            f"state directory {path}: {error.strerror or type(error).__name__}; make it with: "
            f"install -d -m 0700 -o {os.geteuid()} {shlex.quote(str(path))}, or choose another --state-dir"
        ) from None
