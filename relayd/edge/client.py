"""Who is at the other end of a connection."""

import socket

from attrs import frozen

from relayd.wire.address import IPAddress, ip_address

__all__ = ["Client", "peer_of"]


@frozen
class Client:
    """An address and a port; without an address, somebody on this machine, by way of a unix socket."""

    address: IPAddress | None = None
    port: int = 0
    """0 if a proxy has told the address alone."""

    def __str__(self) -> str:
        """As logs have it: "192.0.2.1:5000", "[2001:db8::1]:5000" or "unix"; the port only if it is known."""
        if self.address is None:
            return "unix"
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}" if self.port else host

    @classmethod
    def at(cls, host: str, port: int) -> "Client":
        """The one at ``host``, a numeric address; an IPv4-mapped one is taken for the IPv4 that it stands for.

        Raises ValueError for what is no address. A zone (``%eth0``) is dropped.
        """
        return cls(ip_address(host.partition("%")[0]), port)


def peer_of(sock: socket.socket) -> Client | None:
    """Who ``sock`` is connected to; None if he is gone already."""
    try:
        name = sock.getpeername()
    except OSError:
        return None
    return Client.at(name[0], name[1]) if isinstance(name, tuple) else Client()
