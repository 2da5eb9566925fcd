"""Addresses, sockets, and accepting connections on them."""

import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn, TypeVar

import trio
from attrs import evolve

from relayd.edge.client import peer_of
from relayd.edge.descriptors import Reserve
from relayd.ops.events import AcceptPaused, Emit, InternalError
from relayd.values import Address

__all__ = [
    "CannotListen",
    "Listener",
    "accept_connections",
    "open_listener",
    "open_private_listener",
    "turn_away",
]

A = TypeVar("A")

_BACKLOG: Final = 4096
"""Connections that the kernel holds for us while we are busy; it caps this by net.core.somaxconn."""

_ACCEPT_PAUSE: Final = 0.1
"""Seconds to leave the queue alone when the system is out of something: long enough not to spin."""

_ACCEPTS_PER_TURN: Final = 16
"""Connections accepted before other tasks have their turn. With one, a storm of dials would wait for as
many turns as it has dials, and on a busy relay a turn takes milliseconds."""

_UNREAD: Final = 16 * 1024
"""Bytes thrown away of a request that nobody is going to read: a whole head."""

_OF_THE_CLIENT: Final = (errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH)
"""What accept(2) passes on of a connection that failed before we took it: nothing to us."""

_OUT_OF_SOMETHING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class CannotListen(Exception):
    """A listener could not be opened; the text is the one line to show."""


class Listener:
    """An open listener and the address that it really has."""

    def __init__(
        self, sock: socket.socket, address: Address, passed_as: str = "", reserve: Reserve | None = None
    ) -> None:
        self.socket = sock
        self.address = address
        #: The name or number under which it was passed on (`relayd.edge.passed`); empty if we opened it.
        self.passed_as = passed_as
        #: What a connection is accepted on when no descriptor is free.
        self.reserve = reserve

    def keep_reserve(self) -> None:
        """Let one connection in even if others hold every descriptor. Raises `CannotListen`."""
        try:
            self.reserve = Reserve()
        except OSError as error:
            raise CannotListen(f"cannot listen on {self.address}: {_explained(error)}") from None

    def close(self) -> None:
        """Stop listening; the file of a unix socket that we opened goes too."""
        self.socket.close()
        if self.reserve is not None:
            self.reserve.close()
        if self.address.path and not self.passed_as:
            _unlink(self.address.path)


async def open_listener(address: Address, flag: str = "--listen") -> Listener:
    """Bind and listen on ``address``, which is none of a socket that was passed on. Raises `CannotListen`."""
    assert not address.fd
    try:
        if address.path:
            return Listener(_listening(_bind_unix(address.path)), address)
        sock = await _bind_tcp(address)
        port = sock.getsockname()[1]
        return Listener(_listening(sock), evolve(address, port=port))
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {_explained(error, flag)}") from None


def open_private_listener(path: str, flag: str) -> Listener:
    """Listen on a unix socket that nobody but root and our own user can connect to.

    Its directory must be one in which others can put nothing in its place. One connection is let in even if
    others hold every descriptor there is. Raises `CannotListen`, which speaks of ``flag``.
    """
    directory = os.path.dirname(path)
    try:
        found = os.stat(directory)
        others_write = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if found.st_uid not in (0, os.geteuid()) or others_write:
            raise CannotListen(
                f"cannot listen on unix:{path}: other users can change {directory}; "
                f"choose a directory of relayd's own for {flag}"
            )
        reserve = Reserve()
        try:
            return Listener(_listening(_bind_unix(path, mode=0o600)), Address(path=path), reserve=reserve)
        except BaseException:
            reserve.close()
            raise
    except OSError as error:
        raise CannotListen(f"cannot listen on unix:{path}: {_explained(error, flag)}") from None


async def accept_connections(
    listener: Listener,
    arrive: Callable[[socket.socket], A | None],
    handle: Callable[[A], Awaitable[None]],
    nursery: trio.Nursery,
    emit: Emit,
) -> NoReturn:
    """Run ``handle`` in ``nursery`` for what ``arrive`` makes of each connection.

    ``arrive`` may have closed it, and return None: that costs no task. What it raises, an OSError of the socket
    for one, costs that connection and is reported. Pauses while the system is out of resources.

    Where the listener has a reserve, ``handle`` closes its socket in the turn in which it returns.
    Raises `CannotListen` if the listener itself fails.
    """
    paused = False
    while True:
        await trio.lowlevel.wait_readable(listener.socket)
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock = _accept(listener)
            except BlockingIOError:
                paused = False  # Whoever was waiting has been let in.
                break
            except OSError as error:
                if error.errno in _OF_THE_CLIENT:
                    continue
                if error.errno not in _OUT_OF_SOMETHING:
                    raise CannotListen(f"cannot accept on {listener.address}: {_explained(error)}") from None
                if not paused:
                    emit(AcceptPaused(str(listener.address), errno.errorcode[error.errno]))
                paused = True
                await trio.sleep(_ACCEPT_PAUSE)
                break
            try:
                arrived = arrive(sock)
            except Exception as error:  # noqa: BLE001 (one socket must not cost every connection)
                emit(InternalError.of(str(peer_of(sock) or listener.address), error))
                sock.close()
                arrived = None
            if listener.reserve is None:
                if arrived is not None:
                    nursery.start_soon(handle, arrived)
                continue
            if arrived is None:
                listener.reserve.hold()
            else:
                nursery.start_soon(_handle_and_hold, handle, arrived, listener.reserve)
            if not listener.reserve.held:
                # Without a free descriptor accept(2) fails also if nobody waits.
                break


def turn_away(sock: socket.socket, answer: bytes) -> None:
    """Close ``sock``, which was accepted just now, with ``answer``, unread. Never raises, never waits."""
    with sock:
        sock.setblocking(False)
        with suppress(OSError):
            sock.send(answer)
            # To close a socket with unread bytes resets the connection, and the answer may be lost on the
            # way. What is there already is thrown away; what comes later will do it all the same.
            sock.recv(_UNREAD, socket.MSG_TRUNC)


def _accept(listener: Listener) -> socket.socket:
    """Raises OSError as accept(2)."""
    try:
        return listener.socket.accept()[0]
    except OSError as error:
        if listener.reserve is None or error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        sock = listener.reserve.accept(listener.socket)
        if sock is None:
            raise
        return sock


async def _handle_and_hold(handle: Callable[[A], Awaitable[None]], arrived: A, reserve: Reserve) -> None:
    try:
        await handle(arrived)
    finally:
        # Before anybody else can take the descriptor that is free now.
        reserve.hold()


def _listening(sock: socket.socket) -> socket.socket:
    sock.listen(_BACKLOG)
    sock.setblocking(False)
    return sock


async def _bind_tcp(address: Address) -> socket.socket:
    if not address.host:
        return _bind_every_address(address.port)
    found = await trio.socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, name = found[0]
    return _bind(family, name, only_ipv6=True)


def _bind_every_address(port: int) -> socket.socket:
    # One IPv6 socket that takes IPv4 as well, so that port 0 is the same port in both.
    try:
        return _bind(socket.AF_INET6, ("::", port), only_ipv6=False)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
    return _bind(socket.AF_INET, ("0.0.0.0", port), only_ipv6=False)  # noqa: S104 (asked for)


def _bind(family: int, name: tuple[object, ...], *, only_ipv6: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
        sock.bind(name)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: str, mode: int | None = None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        if mode is not None:
            # bind(2) makes the file with the mode that the socket has: it is never any wider.
            os.fchmod(sock.fileno(), mode)
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket file of a relay that is no more. Raises OSError (EADDRINUSE) if it is alive."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _explained(error: OSError, flag: str = "--listen") -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"address in use; stop what listens there, or choose another {flag}"
        case errno.EACCES:
            return "permission denied; ports below 1024 and other users' directories need privileges"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        case errno.EEXIST:
            return "a file that is no socket is in the way"
    return error.strerror or type(error).__name__
