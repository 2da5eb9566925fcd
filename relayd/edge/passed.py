"""Listening sockets that relayd did not open: systemd, or another parent, passed them on.

The protocol is sd_listen_fds(3)'s: descriptors from 3 on, ``LISTEN_FDS`` how many, ``LISTEN_PID`` for
whom, ``LISTEN_FDNAMES`` their names, separated by colons.
"""

import os
import socket
import stat
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from typing import Final

from attrs import evolve, field, frozen

from relayd.edge.listener import CannotListen, Listener
from relayd.values import Address

__all__ = ["PassedSockets", "take_passed_sockets"]

_FIRST: Final = 3

_VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


@frozen
class PassedSockets:
    """The descriptors that were passed by the protocol, and their names. None at all without it."""

    #: By descriptor; a socket without a name has its number for one. Several may have the same.
    names: Mapping[int, str] = field(factory=dict)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """One for each name: where to listen, if nobody said."""
        return tuple(Address(fd=name) for name in dict.fromkeys(self.names.values()))

    def listeners(
        self, addresses: Collection[Address], elsewhere: Collection[Address] = ()
    ) -> Iterator[Listener]:
        """All that those of ``addresses`` with a number or a name stand for; ``elsewhere`` are for another use.

        A number may be of any descriptor that this process was started with. Raises `CannotListen` for
        one that is of no use, for one with two uses, and for a socket that was passed by the protocol and is
        among none of the addresses: its clients would wait in the kernel's queue for ever.
        """
        wanted: dict[int, Address] = {}
        for address in (*addresses, *elsewhere):
            for descriptor in self._descriptors(address) if address.fd else ():
                if descriptor in wanted:
                    other = wanted[descriptor]
                    same = (
                        "listen has it, and metrics-listen"
                        if other == address
                        else f"{other} is the same socket"
                    )
                    raise CannotListen(f"cannot listen on {address}: {same}")
                wanted[descriptor] = address
        for descriptor, name in self.names.items():
            if descriptor not in wanted:
                raise CannotListen(
                    f"fd:{name} was passed on, but listen is set and leaves it out: add fd:{name} to it "
                    "or to metrics-listen, or do not set it, or remove that socket from the socket unit"
                )
        for descriptor, address in wanted.items():
            if address in addresses:
                yield _adopt(descriptor, address)

    def _descriptors(self, address: Address) -> list[int]:
        found = [descriptor for descriptor, name in self.names.items() if name == address.fd]
        if not found and address.fd.isdecimal():
            return [int(address.fd)]
        if not found:
            passed = ", ".join(f"fd:{name}" for name in dict.fromkeys(self.names.values())) or "none at all"
            raise CannotListen(
                f"cannot listen on {address}: no socket of that name was passed on ({passed} was); "
                "FileDescriptorName= in the socket unit names it"
            )
        return found


def take_passed_sockets(environment: MutableMapping[str, str], pid: int) -> PassedSockets:
    """What ``environment`` says was passed to process ``pid``; the variables are removed from it.

    As in sd_listen_fds(3), what is meant for another process, or is no number, counts for nothing.
    """
    count, for_pid, names = (environment.pop(variable, "") for variable in _VARIABLES)
    if for_pid != str(pid) or not count.isdecimal():
        return PassedSockets()
    found = names.split(":") if names else []
    numbers = range(_FIRST, _FIRST + int(count))
    found += [""] * (len(numbers) - len(found))
    return PassedSockets({number: name or str(number) for number, name in zip(numbers, found, strict=False)})


def _adopt(descriptor: int, address: Address) -> Listener:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise CannotListen(f"cannot listen on {address}: descriptor {descriptor} is no socket")
    except (OSError, OverflowError):
        raise CannotListen(
            f"cannot listen on {address}: descriptor {descriptor} is not open; "
            "whoever starts relayd must pass it on"
        ) from None
    sock = socket.socket(fileno=descriptor)
    if sock.type != socket.SOCK_STREAM or sock.family not in _FAMILIES:
        wrong = "it is no stream socket of TCP or of the unix family; in a socket unit that is ListenStream="
    elif not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        wrong = "it does not listen; in a socket unit, Accept=no passes the one that does"
    else:
        sock.setblocking(False)
        sock.set_inheritable(False)
        bound = evolve(_bound_address(sock), tls=address.tls, proxy=address.proxy)
        return Listener(sock, bound, passed_as=address.fd)
    sock.detach()
    raise CannotListen(f"cannot listen on {address}: {wrong}")


def _bound_address(sock: socket.socket) -> Address:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return Address(name[0], name[1])
    # An abstract one has a NUL for its first character, and is bytes.
    return Address(path=name if isinstance(name, str) else "@" + os.fsdecode(name[1:]))
