"""IP addresses as proxies report them."""

from ipaddress import IPv4Address, IPv6Address

from attrs import frozen

__all__ = ["IPAddress", "Source", "ip_address", "port_number", "unmapped"]

IPAddress = IPv4Address | IPv6Address


@frozen
class Source:
    """Where a connection came from, as somebody reports it."""

    address: IPAddress
    port: int = 0
    """0 if it was not reported: nobody calls from there."""


def ip_address(text: str) -> IPAddress:
    """Read an address, without brackets and without a zone. Raises ValueError."""
    if "%" in text:  # Of a zone only the machine that wrote it knows which it is.
        raise ValueError
    return unmapped(IPv6Address(text) if ":" in text else IPv4Address(text))


def unmapped(address: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv4-mapped one stands for (RFC 4291, section 2.5.5.2), or ``address``.

    A proxy that takes IPv4 on an IPv6 socket reports the mapped one. The same client must not have two
    addresses, nor a trusted network a second name.
    """
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def port_number(text: str | bytes) -> int:
    """Read a port, of digits and without a sign. Raises ValueError."""
    port = int(text)
    if port > 65535:
        raise ValueError
    return port
