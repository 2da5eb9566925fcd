"""The values that settings have, and how each is read from what somebody has written.

Every reader takes text and raises ValueError for what is not accepted; which settings there are, and the
words for a refusal, is `relayd.settings`'.
"""

import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Literal

from attrs import evolve, frozen

from relayd.ops.events import LEVELS, Level

__all__ = [
    "LEAST_RATE",
    "Address",
    "Auto",
    "LogFormat",
    "ProxyProtocol",
    "Rate",
    "TrustedProxy",
    "parse_domains",
    "parse_email",
    "parse_http_addresses",
    "parse_https_url",
    "parse_level",
    "parse_listeners",
    "parse_log_format",
    "parse_metrics_addresses",
    "parse_path",
    "parse_proxy_protocol",
    "parse_rate",
    "parse_socket",
    "parse_state_directory",
    "parse_switch",
    "parse_trusted_proxies",
    "seconds",
    "whole",
    "whole_or_auto",
]


@frozen
class Address:
    """Where to listen: a TCP ``host`` and ``port`` (no host means every address), or a unix ``path``.

    Or ``fd``, the number or the name of a socket that was passed on (`relayd.edge.passed`).
    """

    host: str = ""
    port: int = 0
    path: str = ""
    fd: str = ""
    tls: bool | None = None
    """``+tls`` or ``+plain``: whether TLS is spoken there. None: if there is a certificate."""
    proxy: bool | None = None
    """``+proxy`` or ``+direct``: whether each connection begins with a PROXY header. None: as
    ``--proxy-protocol`` says."""

    def __str__(self) -> str:
        options = _OPTIONS_OF_TLS[self.tls] + _OPTIONS_OF_PROXY[self.proxy]
        if self.fd:
            return f"fd:{self.fd}{options}"
        if self.path:
            return f"unix:{self.path}{options}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{options}"


_OPTIONS_OF_TLS: Final = {None: "", True: "+tls", False: "+plain"}
_OPTIONS_OF_PROXY: Final = {None: "", True: "+proxy", False: "+direct"}


@frozen
class Rate:
    """What a peer may send in a second; 0: as much as it likes."""

    bytes: int = 0
    frames: int = 0

    def __str__(self) -> str:
        return f"{self.bytes}/{self.frames}" if self.bytes or self.frames else "off"


def _parse_listener(text: str) -> Address:
    """An address with options behind it, each once."""
    address, *options = re.split(r"\+(?=(?:tls|plain|proxy|direct)(?:\+|$))", text)
    tls = [option == "tls" for option in options if option in ("tls", "plain")]
    proxy = [option == "proxy" for option in options if option in ("proxy", "direct")]
    if len(tls) > 1 or len(proxy) > 1:
        raise ValueError
    return evolve(_parse_address(address), tls=tls[0] if tls else None, proxy=proxy[0] if proxy else None)


def _parse_address(text: str) -> Address:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        # The length is the kernel's: sun_path holds 108 bytes, its last one a NUL.
        if not path.startswith("/") or "\0" in path or len(path.encode()) > 107:
            raise ValueError
        return Address(path=path)
    if text.startswith("fd:"):
        # The names that systemd takes, but for spaces and commas, which separate addresses here.
        if re.fullmatch(r"[!-+\--9;-~]{1,255}", text.removeprefix("fd:")) is None:
            raise ValueError
        return Address(fd=text.removeprefix("fd:"))
    # A port alone is one of this machine's own, as by default: who wanted all the world to reach it will
    # miss it, but who wanted nobody to would not notice.
    text = f"127.0.0.1:{text}" if text.isdigit() else text
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]/\s]*)):([0-9]{1,5})", text, re.ASCII)
    if match is None or int(match[3]) > 65535:
        raise ValueError
    return Address(host=match[1] or match[2] or "", port=int(match[3]))


def _parse_addresses(text: str) -> tuple[Address, ...]:
    return _each_once(_parse_address(part) for part in _parts(text))


def parse_listeners(text: str) -> tuple[Address, ...]:
    addresses = tuple(_parse_listener(part) for part in _parts(text))
    _each_once(evolve(address, tls=None, proxy=None) for address in addresses)
    return addresses


def _each_once(addresses: Iterable[Address]) -> tuple[Address, ...]:
    addresses = tuple(addresses)
    if len(set(addresses)) < len(addresses):
        raise ValueError
    return addresses


def _parts(text: str) -> list[str]:
    return re.split(r"[\s,]+", text.strip())


def parse_metrics_addresses(text: str) -> tuple[Address, ...]:
    if text.strip().lower() == "off":
        return ()
    # Who reads them may see how busy everybody is: behind a colon too, a port is one of this machine's own.
    return _parse_addresses(re.sub(r"(^|[\s,]):([0-9]{1,5})(?=$|[\s,])", r"\1\2", text.strip()))


ProxyProtocol = Literal["off", "require"]


def parse_proxy_protocol(text: str) -> ProxyProtocol:
    match text.lower():
        case "off" | "require" as proxy_protocol:
            return proxy_protocol
    raise ValueError


TrustedProxy = IPv4Network | IPv6Network | Literal["unix"]
"""A network, or whoever comes by way of a unix socket."""


def parse_trusted_proxies(text: str) -> tuple[TrustedProxy, ...]:
    if text.strip().lower() == "off":
        return ()
    proxies = tuple(_parse_trusted_proxy(part) for part in re.split(r"[\s,]+", text.strip()))
    if len(set(proxies)) < len(proxies):
        raise ValueError
    return proxies


def _parse_trusted_proxy(text: str) -> TrustedProxy:
    if text.lower() == "unix":
        return "unix"
    if re.fullmatch(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?", text, re.ASCII) is None:
        raise ValueError
    network = IPv6Network(text) if ":" in text else IPv4Network(text)
    # relayd knows who comes from such an address by its IPv4 one, so this would be nobody.
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError
    return network


def parse_http_addresses(text: str) -> tuple[Address, ...]:
    return () if text.strip().lower() in ("", "off") else _parse_addresses(text)


def parse_domains(text: str) -> tuple[str, ...]:
    if text.strip().lower() in ("", "off"):
        return ()
    domains = tuple(part.lower() for part in _parts(text))
    for domain in domains:
        # Host names (RFC 1123, section 2.1), of more than one label, and no addresses.
        if len(domain) > 253 or re.fullmatch(rf"({_LABEL}\.)+(?![0-9]+$){_LABEL}", domain) is None:
            raise ValueError
    if len(set(domains)) < len(domains):
        raise ValueError
    return domains


_LABEL: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"


def parse_https_url(text: str) -> str:
    # What is between the host and the end is the CA's own affair; a password would end up in logs.
    if re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?", text) is None or len(text) > 200:
        raise ValueError
    return text


def parse_email(text: str) -> str:
    if text.lower() in ("", "off"):
        return ""
    # Of what RFC 6068 allows, nothing that has a meaning in a URL or a list.
    if re.fullmatch(r"[\w.!#$*+/=^`{|}~'-]+@[\w.-]+", text, re.ASCII) is None or len(text) > 200:
        raise ValueError
    return text


def parse_state_directory(text: str) -> str:
    return "auto" if text.lower() == "auto" or not parse_path(text) else text


def seconds(lowest: float, highest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        # float() alone would also take "nan", "inf", "1e9" and "1_0".
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) is None:
            raise ValueError
        seconds = float(text)
        if not lowest <= seconds <= highest:
            raise ValueError
        return seconds

    return parse


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) is None or not lowest <= int(text) <= highest:
            raise ValueError
        return int(text)

    return parse


Auto = Literal["auto"]
"""For relayd to find out."""


def whole_or_auto(lowest: int, highest: int) -> Callable[[str], int | Auto]:
    count = whole(lowest, highest)

    def parse(text: str) -> int | Auto:
        return "auto" if text.lower() == "auto" else count(text)

    return parse


LEAST_RATE: Final = 1024
"""Bytes a second: with fewer, one read is paid for with many seconds of silence."""


def parse_rate(text: str) -> Rate:
    if text.lower() == "off":
        return Rate()
    match = re.fullmatch(r"([0-9]{1,12})/([0-9]{1,9})", text, re.ASCII)
    if match is None or 0 < int(match[1]) < LEAST_RATE:
        raise ValueError
    return Rate(int(match[1]), int(match[2]))


def parse_switch(text: str) -> bool:
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise ValueError


def parse_level(text: str) -> Level:
    for level in LEVELS:
        if text.lower() == level:
            return level
    raise ValueError


LogFormat = Literal["auto", "text", "json", "journal"]


def parse_log_format(text: str) -> LogFormat:
    match text.lower():
        case "auto" | "text" | "json" | "journal" as log_format:
            return log_format
    raise ValueError


def parse_path(text: str) -> str:
    if text.lower() in ("", "off"):
        return ""
    if not text.startswith("/") or not text.isprintable():
        raise ValueError
    return text


def parse_socket(text: str) -> str:
    path = text.removeprefix("unix:")
    if path.lower() in ("", "off"):
        return "off"
    if path.lower() == "auto":
        return "auto"
    return _parse_address(f"unix:{path}").path
