"""Every setting: its default, what is accepted, and what cannot be together.

One attrs field per setting. What such a field carries is `relayd.setting`'s, and where values come from is
`relayd.configuration`'s.
"""

from collections.abc import Iterator
from typing import Final

from attrs import evolve, fields, frozen

from relayd.ops.events import LEVELS, Level
from relayd.setting import count, duration, flag_of, rate, room, setting, setting_of, shown
from relayd.values import (
    Address,
    Auto,
    LogFormat,
    ProxyProtocol,
    Rate,
    TrustedProxy,
    parse_domains,
    parse_email,
    parse_http_addresses,
    parse_https_url,
    parse_level,
    parse_listeners,
    parse_log_format,
    parse_metrics_addresses,
    parse_path,
    parse_proxy_protocol,
    parse_socket,
    parse_state_directory,
    parse_switch,
    parse_trusted_proxies,
    whole_or_auto,
)

__all__ = ["DEFAULT_ADMIN_SOCKET", "Settings"]

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"

_WIDEST: Final = {4: 8, 6: 16}
"""The shortest prefixes of networks that may be one's own, by version of IP: 10.0.0.0/8, and a /16 of IPv6."""

_PATH: Final = "an absolute path (or, in a flag alone, one from the current directory)"
"""A service has no current directory to speak of, so neither its file nor its variables mean one."""

DEFAULT_ADMIN_SOCKET: Final = "/run/relayd/admin.sock"
"""What ``auto`` stands for."""


@frozen(kw_only=True)
class Settings:
    """The whole configuration. Durations are seconds, sizes are bytes."""

    listen: tuple[Address, ...] = setting(
        (Address(host="127.0.0.1", port=8080),),
        parse_listeners,
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
    tls_cert: str = setting(
        "",
        parse_path,
        accepted=f"{_PATH}, or off,",
        is_path=True,
        metavar="FILE",
        help="certificate chain in PEM, the server's own first; with it every listener speaks TLS that is not "
        "marked +plain; read again when it changes, and on SIGHUP",
    )
    tls_key: str = setting(
        "",
        parse_path,
        accepted=f"{_PATH}, or off,",
        is_path=True,
        metavar="FILE",
        help="private key of --tls-cert in PEM, which others must not be able to read",
    )
    domain: tuple[str, ...] = setting(
        (),
        parse_domains,
        accepted="off, or a host name such as relay.example.org (an international one as xn--…; no wildcard), "
        "each once,",
        metavar="NAME",
        help="have a CA issue a certificate for this name, which must lead here, and keep it renewed, by ACME; "
        "to set it is to agree to the CA's terms of service, whose address the log shows; give it again for "
        "more, each with a certificate of its own",
    )
    http_listen: tuple[Address, ...] = setting(
        (),
        parse_http_addresses,
        accepted="off, or an address such as :80, 10.0.0.5:80 or fd:NAME, each once,",
        metavar="ADDR",
        help="where to show a CA challenges by http-01, and nothing else to anybody: :80; without it, "
        "tls-alpn-01 on the port of TLS, 443, has to do",
    )
    state_dir: str = setting(
        "auto",
        parse_state_directory,
        accepted=f"{_PATH}, or auto,",
        is_path=True,
        metavar="DIR",
        help="directory, of relayd's own and with mode 0700, for keys and certificates of --domain; auto is "
        "systemd's StateDirectory=, or else /var/lib/relayd",
    )
    acme_directory: str = setting(
        LETS_ENCRYPT,
        parse_https_url,
        accepted="a URL that begins with https://",
        metavar="URL",
        help="the CA of --domain, by the URL of its ACME directory",
    )
    acme_ca_file: str = setting(
        "",
        parse_path,
        accepted=f"{_PATH}, or off,",
        is_path=True,
        metavar="FILE",
        help="certificates in PEM to trust for TLS with the CA, instead of the public ones",
    )
    acme_email: str = setting(
        "",
        parse_email,
        accepted="one e-mail address, or off,",
        metavar="ADDRESS",
        help="where the CA may write to",
    )
    acme_eab_file: str = setting(
        "",
        parse_path,
        accepted=f"{_PATH}, or off,",
        is_path=True,
        metavar="FILE",
        help='TOML with key-id = "…" and hmac-key = "…" (base64url), of an account with the CA; for a CA that '
        "issues to its customers only; others must not be able to read it",
    )
    metrics_listen: tuple[Address, ...] = setting(
        (),
        parse_metrics_addresses,
        accepted="off, or an address such as 9464, 0.0.0.0:9464, [::1]:9464, unix:/run/m.sock or fd:NAME, each "
        "once,",
        metavar="ADDR",
        help="where to answer GET /metrics for Prometheus: 9464 or :9464 (this machine only), unix:/path, or "
        "an interface's address written out: 10.0.0.5:9464, 0.0.0.0:9464 for all; fd:NAME or fd:4 is a socket "
        "that systemd passed on; give it again for more",
    )
    proxy_protocol: ProxyProtocol = setting(
        "off",
        parse_proxy_protocol,
        accepted="off or require",
        metavar="MODE",
        help="require: each connection comes from one of --trusted-proxies and begins with a PROXY header, "
        "version 1 or 2, that says whose it is; off: none does; a listener marked +proxy or +direct goes its "
        "own way",
    )
    trusted_proxies: tuple[TrustedProxy, ...] = setting(
        (),
        parse_trusted_proxies,
        accepted="off, or networks such as 10.0.0.0/8, 192.0.2.7 (as IPv4, never ::ffff:192.0.2.7) or "
        "2001:db8::/32, with no bit set behind the prefix, or the word unix, each once,",
        metavar="CIDR",
        help="proxies that are believed when they say who is calling, by a PROXY header, X-Forwarded-For or "
        "Forwarded: addresses or networks, or unix for whoever may open unix sockets; give it again for more",
        live=True,
    )
    grace: float = duration(
        30.0, "how long the phones of a binary that went away wait for it to come back", lowest=0.0, weakest=300
    )
    heartbeat_interval: float = duration(30.0, "time between two pings to a peer", weakest=300)
    heartbeat_timeout: float = duration(
        30.0, "close a peer that gives no sign of life this long after a ping", weakest=300
    )
    probe_timeout: float = duration(
        10.0,
        "how long the holder of a server-id has to answer when another binary claims it",
        live=True,
        weakest=60,
    )
    handshake_timeout: float = duration(
        5.0,
        "how long a client has for a PROXY header, TLS and its whole request head together; its answer may "
        "take as long again",
        live=True,
        weakest=60,
    )
    message_timeout: float = duration(
        30.0, "how long a message may take from its first byte to its last", live=True, weakest=300
    )
    write_timeout: float = duration(
        10.0, "close a peer that takes none of the bytes waiting for it for this long", live=True, weakest=120
    )
    drain_timeout: float = duration(
        10.0,
        "after SIGTERM, SIGINT or `relayd drain`, how long to wait for connections to close",
        lowest=0.0,
        live=True,
    )
    max_frame_bytes: int = count(
        262144, "largest message accepted", 1, 64 * 1024 * 1024, "BYTES", weakest=4 * 1024 * 1024
    )
    max_phones: int = count(
        16, "phones that one server-id may have at a time", 1, 1_000_000, "COUNT", weakest=1024
    )
    max_connections: int | Auto = room(
        "connections that there may be at a time, in all; one more gets 503", weakest=500_000
    )
    max_connections_per_address: int = count(
        256,
        "connections that one address may have at a time (IPv6: one /64); one more gets 503",
        1,
        1_000_000,
        "COUNT",
        weakest=10_000,
    )
    max_handshakes: int | Auto = room(
        "connections whose request is not answered yet, beside the others; one more gets 503 unread",
        weakest=20_000,
    )
    upgrade_rate: int = count(
        10,
        "upgrades that one address (IPv6: one /64) may ask for in a minute, after a burst; one more gets 429; "
        "0 is no limit, and there is none for loopback addresses and unix sockets, where proxies are",
        0,
        60_000,
        "COUNT",
        weakest=600,
    )
    upgrade_burst: int = count(
        20,
        "upgrades that one address may ask for at once, before --upgrade-rate",
        1,
        60_000,
        "COUNT",
        weakest=2_000,
    )
    outbox_bytes: int = count(
        4194304,
        "most that may wait for one phone; beyond it the phone is closed",
        1,
        1024**3,
        "BYTES",
        weakest=64 * 1024 * 1024,
    )
    production: bool = setting(
        False,
        parse_switch,
        accepted="true or false",
        metavar="BOOL",
        help="refuse to start as what the internet should not meet: as root, with capabilities, without TLS "
        "where no proxy does it, with a limit so high that it is none (docs/security.md has them all)",
    )
    max_buffered_bytes: int | Auto = setting(
        "auto",
        whole_or_auto(1048576, 1024**4),
        accepted="auto, or a whole number from 1048576 to 1099511627776",
        metavar="BYTES",
        help="most that may wait in all buffers together; beyond it the connections that hold most are closed; "
        "auto is a quarter of the memory that the machine or the cgroup has",
        live=True,
        weakest=64 * 1024**3,
    )
    phone_rate: Rate = rate("phone")
    binary_rate: Rate = rate("binary")
    require_token: bool = setting(
        True,
        parse_switch,
        accepted="true or false",
        metavar="BOOL",
        help="refuse phones that send no x-pyrycode-token header (its value is never looked at)",
        live=True,
    )
    log_level: Level = setting(
        "info",
        parse_level,
        accepted=f"one of {', '.join(LEVELS)}",
        metavar="LEVEL",
        help=f"least important events to log: {', '.join(LEVELS)}",
        live=True,
    )
    log_format: LogFormat = setting(
        "auto",
        parse_log_format,
        accepted="one of auto, text, json, journal",
        metavar="FORMAT",
        help="auto (the journal if stderr leads there, text on a terminal, JSON lines elsewhere), text, json "
        "or journal (auto, with a warning, where no journal is)",
    )
    admin_socket: str = setting(
        "auto",
        parse_socket,
        accepted=f"{_PATH} of at most 107 bytes, auto or off",
        is_path=True,
        metavar="PATH",
        help="unix socket of `relayd status` and the like, for root and relayd's own user; auto is "
        f"{DEFAULT_ADMIN_SOCKET}, if that directory is there and may be written to; off is none",
    )

    def resolved(self, address: Address) -> Address:
        """``address`` with what its listener speaks: True where there is TLS, or a PROXY header."""
        if address.tls is None and self.certified:
            address = evolve(address, tls=True)
        if address.proxy is None and self.proxy_protocol == "require":
            address = evolve(address, proxy=True)
        return address

    @property
    def certified(self) -> bool:
        """Whether there is a certificate, or is to be one."""
        return bool(self.tls_cert or self.domain)

    def contradiction(self) -> str | None:
        """What of these settings, each acceptable alone, cannot be together, in one line; None if nothing."""
        if bool(self.tls_cert) != bool(self.tls_key):
            missing, there = ("tls-key", "tls-cert") if self.tls_cert else ("tls-cert", "tls-key")
            return f"{missing}: is not set, but {there} is: TLS takes both"
        for address in self.listen:
            if address.tls and not self.certified:
                return (
                    f"listen: {address} is to speak TLS, for which domain, or tls-cert and tls-key, must be set"
                )
            if self.resolved(address).proxy and not address.path and not self.trusted_proxies:
                return (
                    f"trusted-proxies: is not set, but {address} requires a PROXY header: name the proxies "
                    "that may send it, as in --trusted-proxies 127.0.0.1"
                )
        if self.domain and not any(self.resolved(address).tls for address in self.listen):
            return (
                "domain: is set, but every listener is marked +plain, so nobody would see its certificate: "
                "leave +plain away from one of them, or add one, as in --listen :443"
            )
        if self.http_listen and not self.domain:
            return (
                "http-listen: is set, but domain is not, so no CA would come there: set domain to the name "
                "that leads here, as in --domain relay.example.org, or do not set http-listen"
            )
        return next(self._too_weak(), None) if self.production else None

    def _too_weak(self) -> Iterator[str]:
        """What ``--production`` does not take for a limit."""
        for proxy in self.trusted_proxies:
            if proxy != "unix" and proxy.prefixlen < _WIDEST[proxy.version]:
                yield (
                    f"trusted-proxies: {proxy} lets everybody say who he is, which is too weak for production; "
                    "name the proxies alone"
                )
        for attribute in fields(Settings):
            weakest, value = setting_of(attribute).weakest, getattr(self, attribute.name)
            if weakest is None or not isinstance(value, int | float):
                continue
            unlimited = not value and setting_of(attribute).zero_is_none
            if unlimited or value > weakest:
                name, more = flag_of(attribute.name), "more than 0 and " if unlimited else ""
                yield (
                    f"{name}: {shown(value)} is too weak a limit for production; "
                    f"set it to {more}at most {weakest:.12g}, or do not set it"
                )
