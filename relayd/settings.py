"""Every setting: its default, and what is accepted.

One attrs field per setting. The flag, the environment variable, the key in the file, `--help`,
``relayd check`` and the message that refuses a value are all made from that field, so they cannot
disagree. Where values come from is `relayd.configuration`'s.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, Literal, TypeVar

from attrs import Attribute, evolve, field, fields, frozen

from relayd.ops.events import LEVELS, Level

__all__ = [
    "DEFAULT_ADMIN_SOCKET",
    "Address",
    "Rate",
    "Setting",
    "Settings",
    "TrustedProxy",
    "flag_of",
    "setting_of",
    "shown",
]

T = TypeVar("T")

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"

DEFAULT_ADMIN_SOCKET: Final = "/run/relayd/admin.sock"
"""What ``auto`` stands for."""


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


@frozen
class Setting:
    """What the field of a setting carries beside its default."""

    parse: Callable[[str], Any]
    """Raises ValueError for a value that is not accepted."""
    accepted: str
    metavar: str
    help: str
    live: bool = False
    """Whether SIGHUP can change it while relayd runs."""
    weakest: float | None = None
    """Of a limit: the highest value with which ``--production`` takes it for one. No limit at all is 0."""


def setting_of(attribute: "Attribute[Any]") -> Setting:
    """The `Setting` of a field of `Settings`."""
    setting = attribute.metadata["setting"]
    assert isinstance(setting, Setting)
    return setting


def flag_of(name: str) -> str:
    """The name of the field called ``name`` to those who set it, without dashes in front: ``max-phones``."""
    return name.replace("_", "-")


def shown(value: object) -> str:
    """A setting's value as one would write it."""
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value) or "off"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value) or "off"


def _setting(
    default: T,
    parse: Callable[[str], T],
    *,
    accepted: str,
    metavar: str,
    help: str,  # noqa: A002
    live: bool = False,
    weakest: float | None = None,
) -> T:
    setting = Setting(parse, accepted, metavar, help, live, weakest)
    value: T = field(default=default, metadata={"setting": setting})
    return value


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


def _parse_listeners(text: str) -> tuple[Address, ...]:
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


def _parse_metrics_addresses(text: str) -> tuple[Address, ...]:
    if text.strip().lower() == "off":
        return ()
    # Who reads them may see how busy everybody is: behind a colon too, a port is one of this machine's own.
    return _parse_addresses(re.sub(r"(^|[\s,]):([0-9]{1,5})(?=$|[\s,])", r"\1\2", text.strip()))


ProxyProtocol = Literal["off", "require"]


def _parse_proxy_protocol(text: str) -> ProxyProtocol:
    match text.lower():
        case "off" | "require" as proxy_protocol:
            return proxy_protocol
    raise ValueError


TrustedProxy = IPv4Network | IPv6Network | Literal["unix"]
"""A network, or whoever comes by way of a unix socket."""


def _parse_trusted_proxies(text: str) -> tuple[TrustedProxy, ...]:
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


def _parse_http_addresses(text: str) -> tuple[Address, ...]:
    return () if text.strip().lower() in ("", "off") else _parse_addresses(text)


def _parse_domains(text: str) -> tuple[str, ...]:
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


def _parse_https_url(text: str) -> str:
    # What is between the host and the end is the CA's own affair; a password would end up in logs.
    if re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?", text) is None or len(text) > 200:
        raise ValueError
    return text


def _parse_email(text: str) -> str:
    if text.lower() in ("", "off"):
        return ""
    # Of what RFC 6068 allows, nothing that has a meaning in a URL or a list.
    if re.fullmatch(r"[\w.!#$*+/=^`{|}~'-]+@[\w.-]+", text, re.ASCII) is None or len(text) > 200:
        raise ValueError
    return text


def _parse_state_directory(text: str) -> str:
    return "auto" if text.lower() == "auto" or not _parse_path(text) else text


def _seconds(lowest: float, highest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        # float() alone would also take "nan", "inf", "1e9" and "1_0".
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) is None:
            raise ValueError
        seconds = float(text)
        if not lowest <= seconds <= highest:
            raise ValueError
        return seconds

    return parse


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) is None or not lowest <= int(text) <= highest:
            raise ValueError
        return int(text)

    return parse


Auto = Literal["auto"]
"""For relayd to find out."""


def _whole_or_auto(lowest: int, highest: int) -> Callable[[str], int | Auto]:
    whole = _whole(lowest, highest)

    def parse(text: str) -> int | Auto:
        return "auto" if text.lower() == "auto" else whole(text)

    return parse


_LEAST_RATE: Final = 1024
"""Bytes a second: with fewer, one read is paid for with many seconds of silence."""


def _parse_rate(text: str) -> Rate:
    if text.lower() == "off":
        return Rate()
    match = re.fullmatch(r"([0-9]{1,12})/([0-9]{1,9})", text, re.ASCII)
    if match is None or 0 < int(match[1]) < _LEAST_RATE:
        raise ValueError
    return Rate(int(match[1]), int(match[2]))


def _parse_switch(text: str) -> bool:
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise ValueError


def _parse_level(text: str) -> Level:
    for level in LEVELS:
        if text.lower() == level:
            return level
    raise ValueError


LogFormat = Literal["auto", "text", "json", "journal"]


def _parse_log_format(text: str) -> LogFormat:
    match text.lower():
        case "auto" | "text" | "json" | "journal" as log_format:
            return log_format
    raise ValueError


def _parse_path(text: str) -> str:
    if text.lower() in ("", "off"):
        return ""
    if not text.startswith("/") or not text.isprintable():
        raise ValueError
    return text


def _parse_socket(text: str) -> str:
    path = text.removeprefix("unix:")
    if path.lower() in ("", "off"):
        return "off"
    if path.lower() == "auto":
        return "auto"
    return _parse_address(f"unix:{path}").path


def _duration(
    default: float,
    help: str,  # noqa: A002
    lowest: float = 0.001,
    *,
    live: bool = False,
    weakest: float | None = None,
) -> float:
    return _setting(
        default,
        _seconds(lowest, 86400.0),
        accepted=f"a number of seconds from {lowest:g} to 86400, such as 30 or 0.5",
        metavar="SECONDS",
        help=help,
        live=live,
        weakest=weakest,
    )


def _rate(sender: str) -> Rate:
    return _setting(
        Rate(),
        _parse_rate,
        accepted="off, or BYTES/FRAMES such as 1048576/500, either of them 0 for no bound, and otherwise "
        f"{_LEAST_RATE} bytes or more,",
        metavar="BYTES/FRAMES",
        help=f"most that one {sender} may send in a second, such as 1048576/500, either of them 0 for no "
        "bound; beyond it relayd reads more slowly, and drops nothing",
        live=True,
    )


def _count(
    default: int,
    help: str,  # noqa: A002
    lowest: int,
    highest: int,
    metavar: str,
    weakest: int | None = None,
) -> int:
    return _setting(
        default,
        _whole(lowest, highest),
        accepted=f"a whole number from {lowest} to {highest}",
        metavar=metavar,
        help=help,
        live=True,
        weakest=weakest,
    )


def _room(help: str, weakest: int | None = None) -> int | Auto:  # noqa: A002
    return _setting(
        "auto",
        _whole_or_auto(1, 1_000_000),
        accepted="auto, or a whole number from 1 to 1000000",
        metavar="COUNT",
        help=f"{help}; auto is what there is room for: see `relayd check`",
        live=True,
        weakest=weakest,
    )


@frozen(kw_only=True)
class Settings:
    """The whole configuration. Durations are seconds, sizes are bytes."""

    listen: tuple[Address, ...] = _setting(
        (Address(host="127.0.0.1", port=8080),),
        _parse_listeners,
        accepted="an address such as :8080, 8080, 10.0.0.5:8080, [::1]:8080, unix:/run/relayd.sock or fd:NAME, "
        "with +tls or +plain and +proxy or +direct behind it if need be, each once,",
        metavar="ADDR",
        help="where to listen: :8080 (every address, IPv4 and IPv6), 8080 (this machine only, 127.0.0.1), "
        "10.0.0.5:8080, [::1]:8080 or unix:/path; "
        "port 0 takes a free one; fd:NAME or fd:3 is a socket that systemd passed on, and without --listen "
        "all that it passed are taken; give it again for more. Behind an address, as in 127.0.0.1:8080+plain, "
        "+tls or +plain says whether TLS is spoken there (by default: if there is a certificate), +proxy or "
        "+direct whether a PROXY header comes first (by default: as --proxy-protocol says)",
    )
    tls_cert: str = _setting(
        "",
        _parse_path,
        accepted="an absolute path, or off,",
        metavar="FILE",
        help="certificate chain in PEM, the server's own first; with it every listener speaks TLS that is not "
        "marked +plain; read again when it changes, and on SIGHUP",
    )
    tls_key: str = _setting(
        "",
        _parse_path,
        accepted="an absolute path, or off,",
        metavar="FILE",
        help="private key of --tls-cert in PEM, which others must not be able to read",
    )
    domain: tuple[str, ...] = _setting(
        (),
        _parse_domains,
        accepted="off, or a host name such as relay.example.org (an international one as xn--…; no wildcard), "
        "each once,",
        metavar="NAME",
        help="have a CA issue a certificate for this name, which must lead here, and keep it renewed, by ACME; "
        "to set it is to agree to the CA's terms of service, whose address the log shows; give it again for "
        "more, each with a certificate of its own",
    )
    http_listen: tuple[Address, ...] = _setting(
        (),
        _parse_http_addresses,
        accepted="off, or an address such as :80, 10.0.0.5:80 or fd:NAME, each once,",
        metavar="ADDR",
        help="where to show a CA challenges by http-01, and nothing else to anybody: :80; without it, "
        "tls-alpn-01 on the port of TLS, 443, has to do",
    )
    state_dir: str = _setting(
        "auto",
        _parse_state_directory,
        accepted="an absolute path or auto",
        metavar="DIR",
        help="directory, of relayd's own and with mode 0700, for keys and certificates of --domain; auto is "
        "systemd's StateDirectory=, or else /var/lib/relayd",
    )
    acme_directory: str = _setting(
        LETS_ENCRYPT,
        _parse_https_url,
        accepted="a URL that begins with https://",
        metavar="URL",
        help="the CA of --domain, by the URL of its ACME directory",
    )
    acme_ca_file: str = _setting(
        "",
        _parse_path,
        accepted="an absolute path, or off,",
        metavar="FILE",
        help="certificates in PEM to trust for TLS with the CA, instead of the public ones",
    )
    acme_email: str = _setting(
        "",
        _parse_email,
        accepted="one e-mail address, or off,",
        metavar="ADDRESS",
        help="where the CA may write to",
    )
    acme_eab_file: str = _setting(
        "",
        _parse_path,
        accepted="an absolute path, or off,",
        metavar="FILE",
        help='TOML with key-id = "…" and hmac-key = "…" (base64url), of an account with the CA; for a CA that '
        "issues to its customers only; others must not be able to read it",
    )
    metrics_listen: tuple[Address, ...] = _setting(
        (),
        _parse_metrics_addresses,
        accepted="off, or an address such as 9464, 0.0.0.0:9464, [::1]:9464, unix:/run/m.sock or fd:NAME, each "
        "once,",
        metavar="ADDR",
        help="where to answer GET /metrics for Prometheus: 9464 or :9464 (this machine only), unix:/path, or "
        "an interface's address written out: 10.0.0.5:9464, 0.0.0.0:9464 for all; fd:NAME or fd:4 is a socket "
        "that systemd passed on; give it again for more",
    )
    proxy_protocol: ProxyProtocol = _setting(
        "off",
        _parse_proxy_protocol,
        accepted="off or require",
        metavar="MODE",
        help="require: each connection comes from one of --trusted-proxies and begins with a PROXY header, "
        "version 1 or 2, that says whose it is; off: none does; a listener marked +proxy or +direct goes its "
        "own way",
    )
    trusted_proxies: tuple[TrustedProxy, ...] = _setting(
        (),
        _parse_trusted_proxies,
        accepted="off, or networks such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32, with no bit set behind the "
        "prefix, or the word unix, each once,",
        metavar="CIDR",
        help="proxies that are believed when they say who is calling, by a PROXY header, X-Forwarded-For or "
        "Forwarded: addresses or networks, or unix for whoever may open unix sockets; give it again for more",
        live=True,
    )
    grace: float = _duration(
        30.0, "how long the phones of a binary that went away wait for it to come back", lowest=0.0
    )
    heartbeat_interval: float = _duration(30.0, "time between two pings to a peer", weakest=300)
    heartbeat_timeout: float = _duration(
        30.0, "close a peer that gives no sign of life this long after a ping", weakest=300
    )
    probe_timeout: float = _duration(
        10.0,
        "how long the holder of a server-id has to answer when another binary claims it",
        live=True,
        weakest=60,
    )
    handshake_timeout: float = _duration(
        5.0, "how long a client has for its whole request head", live=True, weakest=60
    )
    message_timeout: float = _duration(
        30.0, "how long a message may take from its first byte to its last", live=True, weakest=300
    )
    write_timeout: float = _duration(
        10.0, "close a peer that takes none of the bytes waiting for it for this long", live=True, weakest=120
    )
    drain_timeout: float = _duration(
        10.0,
        "after SIGTERM, SIGINT or `relayd drain`, how long to wait for connections to close",
        lowest=0.0,
        live=True,
    )
    max_frame_bytes: int = _count(
        262144, "largest message accepted", 1, 64 * 1024 * 1024, "BYTES", weakest=4 * 1024 * 1024
    )
    max_phones: int = _count(
        16, "phones that one server-id may have at a time", 1, 1_000_000, "COUNT", weakest=1024
    )
    max_connections: int | Auto = _room(
        "connections that there may be at a time, in all; one more gets 503", weakest=500_000
    )
    max_connections_per_address: int = _count(
        256,
        "connections that one address may have at a time (IPv6: one /64); one more gets 503",
        1,
        1_000_000,
        "COUNT",
        weakest=10_000,
    )
    max_handshakes: int | Auto = _room(
        "connections whose request is not answered yet, beside the others; one more gets 503 unread",
        weakest=20_000,
    )
    upgrade_rate: int = _count(
        10,
        "upgrades that one address (IPv6: one /64) may ask for in a minute, after a burst; one more gets 429; "
        "0 is no limit",
        0,
        60_000,
        "COUNT",
        weakest=600,
    )
    upgrade_burst: int = _count(
        20,
        "upgrades that one address may ask for at once, before --upgrade-rate",
        1,
        60_000,
        "COUNT",
        weakest=2_000,
    )
    outbox_bytes: int = _count(
        4194304,
        "most that may wait for one phone; beyond it the phone is closed",
        1,
        1024**3,
        "BYTES",
        weakest=64 * 1024 * 1024,
    )
    production: bool = _setting(
        False,
        _parse_switch,
        accepted="true or false",
        metavar="BOOL",
        help="refuse to start as what the internet should not meet: as root, with capabilities, without TLS "
        "where no proxy does it, with a limit so high that it is none",
    )
    max_buffered_bytes: int | Auto = _setting(
        "auto",
        _whole_or_auto(1048576, 1024**4),
        accepted="auto, or a whole number from 1048576 to 1099511627776",
        metavar="BYTES",
        help="most that may wait in all buffers together; beyond it the connections that hold most are closed; "
        "auto is a quarter of the memory that the machine or the cgroup has",
        live=True,
    )
    phone_rate: Rate = _rate("phone")
    binary_rate: Rate = _rate("binary")
    require_token: bool = _setting(
        True,
        _parse_switch,
        accepted="true or false",
        metavar="BOOL",
        help="refuse phones that send no x-pyrycode-token header (its value is never looked at)",
        live=True,
    )
    log_level: Level = _setting(
        "info",
        _parse_level,
        accepted=f"one of {', '.join(LEVELS)}",
        metavar="LEVEL",
        help=f"least important events to log: {', '.join(LEVELS)}",
        live=True,
    )
    log_format: LogFormat = _setting(
        "auto",
        _parse_log_format,
        accepted="one of auto, text, json, journal",
        metavar="FORMAT",
        help="auto (the journal if stderr leads there, text on a terminal, JSON lines elsewhere), text, json "
        "or journal (auto, with a warning, where no journal is)",
    )
    admin_socket: str = _setting(
        "auto",
        _parse_socket,
        accepted="an absolute path of at most 107 bytes, auto or off",
        metavar="PATH",
        help="unix socket of `relayd status` and the like, for root and relayd's own user; auto is "
        f"{DEFAULT_ADMIN_SOCKET}, if that directory is there and may be written to; off is none",
    )

    def resolved(self, address: Address) -> Address:
        """``address`` with what its listener speaks: True where there is TLS, or a PROXY header."""
        if address.tls is None and self._certified:
            address = evolve(address, tls=True)
        if address.proxy is None and self.proxy_protocol == "require":
            address = evolve(address, proxy=True)
        return address

    @property
    def _certified(self) -> bool:
        """Whether there is a certificate, or is to be one."""
        return bool(self.tls_cert or self.domain)

    def contradiction(self) -> str | None:
        """What of these settings, each acceptable alone, cannot be together, in one line; None if nothing."""
        if bool(self.tls_cert) != bool(self.tls_key):
            missing, there = ("tls-key", "tls-cert") if self.tls_cert else ("tls-cert", "tls-key")
            return f"{missing}: is not set, but {there} is: TLS takes both"
        for address in self.listen:
            if address.tls and not self._certified:
                return (
                    f"listen: {address} is to speak TLS, for which domain, or tls-cert and tls-key, must be set"
                )
            if self.resolved(address).proxy and not address.path and not self.trusted_proxies:
                return (
                    f"trusted-proxies: is not set, but {address} requires a PROXY header: name the proxies "
                    "that may send it, as in --trusted-proxies 127.0.0.1"
                )
        if self.domain and not any(self.resolved(address).tls for address in self.listen):
            return "domain: is set, but every listener is marked +plain, so nobody would see its certificate"
        if self.http_listen and not self.domain:
            return "http-listen: is set, but domain is not, so no CA would come there"
        return next(self._too_weak(), None) if self.production else None

    def _too_weak(self) -> Iterator[str]:
        """What ``--production`` does not take for a limit."""
        for proxy in self.trusted_proxies:
            if proxy != "unix" and not proxy.prefixlen:
                yield (
                    f"trusted-proxies: {proxy} lets everybody say who he is, which is too weak for production; "
                    "name the proxies alone"
                )
        for attribute in fields(Settings):
            weakest, value = setting_of(attribute).weakest, getattr(self, attribute.name)
            if weakest is not None and isinstance(value, int | float) and not 0 < value <= weakest:
                name = flag_of(attribute.name)
                yield (
                    f"{name}: {shown(value)} is too weak a limit for production; "
                    f"set it to more than 0 and at most {weakest:.12g}, or do not set it"
                )
