"""Who is at the other end of a connection."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from attrs import frozen

__all__ = ["Client", "peer_of"]


@frozen
class Client:
    """An address and a port; without an address, somebody on this machine, by way of a unix socket."""

    address: IPv4Address | IPv6Address | None = None
    port: int = 0

    def __str__(self) -> str:
        """As logs have it: "192.0.2.1:5000", "[2001:db8::1]:5000" or "unix"."""
        if self.address is None:
            return "unix"
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"

    @classmethod
    def at(cls, host: str, port: int) -> "Client":
        """The one at ``host``, a numeric address; an IPv4-mapped one is taken for the IPv4 that it stands for.

        Raises ValueError for what is no address. A zone (``%eth0``) is dropped.
        """
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return cls(address, port)


def peer_of(sock: socket.socket) -> Client | None:
    """Who ``sock`` is connected to; None if he is gone already."""
    try:
        name = sock.getpeername()
    except OSError:
        return None
    return Client.at(name[0], name[1]) if isinstance(name, tuple) else Client()
