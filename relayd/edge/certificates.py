"""Which certificate a TLS connection gets: from files that are read again when they change, or by name."""

import os
import ssl
import stat
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import trio
from attrs import frozen

from relayd.ops.events import CertificateLoaded, CertificateRefused, Emit
from relayd.wire.client_hello import ClientHello

__all__ = [
    "CHALLENGE_PROTOCOL",
    "BadCertificate",
    "Certificate",
    "Certificates",
    "make_certificate",
    "read_certificate",
]

_LOOK_INTERVAL: Final = 5.0
"""Seconds between two looks at the files. They are taken once two looks found the same: half written, they
would be refused, and a key that comes a moment after its certificate as well."""

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption, which every client of the last ten years has
(RFC 9325, section 4.2). TLS 1.3 has no others."""

_PROTOCOL: Final = "http/1.1"

_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
"""X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL's x509_vfy.h."""

CHALLENGE_PROTOCOL: Final = "acme-tls/1"
"""The protocol of a CA that looks whether we have its challenge (RFC 8737)."""


class BadCertificate(Exception):
    """A certificate or its key is of no use; the text is the one line to show."""


@frozen
class Certificate:
    """A certificate that is ready to be served."""

    context: ssl.SSLContext
    names: tuple[str, ...]
    """What it is for: DNS names and addresses; none if that cannot be told, as of one that has expired."""
    expires: float | None
    """In seconds since 1970; None if it has expired already."""


def read_certificate(cert: str, key: str) -> Certificate:
    """Read a chain and its key from PEM files of these names. Raises `BadCertificate`."""
    return make_certificate(_read(cert, "certificate"), _read(key, "key", secret=True), cert, key)


def make_certificate(
    chain: bytes, key: bytes, chain_name: str, key_name: str, *, early: bool = False
) -> Certificate:
    """Make one of a chain and its key in PEM; the names are for errors. Raises `BadCertificate`.

    ``early``: whether its life may begin later.
    """
    context = _loaded(chain, key, chain_name, key_name, _PROTOCOL)
    return _examined(context, chain_name, (_EXPIRED, _NOT_YET_VALID) if early else (_EXPIRED,))


def _loaded(chain: bytes, key: bytes, chain_name: str, key_name: str, protocol: str) -> ssl.SSLContext:
    """A context that serves this. Raises `BadCertificate`."""
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        raise BadCertificate(f"{chain_name}: there is no certificate in PEM in it")
    if b"PRIVATE KEY-----" not in key:
        raise BadCertificate(f"{key_name}: there is no private key in PEM in it")
    context = _server_context(protocol)
    try:
        with ExitStack() as stack:
            # OpenSSL reads files only; these are in memory.
            chain_path, key_path = (_in_memory(content, stack) for content in (chain, key))
            context.load_cert_chain(chain_path, key_path, password=_refuse_password(key_name))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadCertificate(f"{key_name}: is not the key of {chain_name}") from None
        raise BadCertificate(f"{chain_name} and {key_name}: refused by OpenSSL: {_said(error)}") from None
    return context


class Certificates:
    """Chooses among certificates; `watch` keeps those from files up to date."""

    def __init__(self, emit: Emit, files: tuple[str, str] | None = None) -> None:
        """``files`` are the names of a chain and its key, read at once. Raises `BadCertificate`."""
        self._emit = emit
        self._files = files
        self._seen = _signature(files)
        self._loaded = self._seen
        self._default = None if files is None else read_certificate(*files)
        self._by_name: dict[str, Certificate] = {}
        self._challenges: dict[str, ssl.SSLContext] = {}
        # Without a certificate, a handshake ends with an alert.
        self._nothing = _server_context(_PROTOCOL)

    def choose(self, hello: ClientHello | None) -> ssl.SSLContext:
        """What a client that says ``hello`` gets."""
        hello = hello or ClientHello()
        if CHALLENGE_PROTOCOL.encode("ascii") in hello.protocols and hello.server_name in self._challenges:
            return self._challenges[hello.server_name]
        found = self._by_name.get(hello.server_name, self._default)
        return self._nothing if found is None else found.context

    @property
    def soonest_end(self) -> float | None:
        """When the first of them ends, in seconds since 1970; None if there is none.

        0 for one that had ended before it was read.
        """
        found = [*self._by_name.values(), *([] if self._default is None else [self._default])]
        return min((certificate.expires or 0.0 for certificate in found), default=None)

    def install(self, domain: str, chain: bytes, key: bytes) -> None:
        """Serve ``domain`` with this from now on; who asks for no name gets the first.

        Raises `BadCertificate`.
        """
        # A CA has just made it: if its life has not begun, it is our clock that is wrong.
        names = (f"certificate of {domain}", f"key of {domain}")
        certificate = make_certificate(chain, key, *names, early=True)
        self._by_name[domain] = certificate
        if self._files is None and next(iter(self._by_name)) == domain:
            self._default = certificate

    def offer_challenge(self, domain: str, chain: bytes, key: bytes) -> None:
        """Show this to a CA that asks for ``domain`` by ``acme-tls/1``. Raises `BadCertificate`."""
        # Not examined: no client but a CA would accept it.
        self._challenges[domain] = _loaded(chain, key, "challenge", "key of the challenge", CHALLENGE_PROTOCOL)

    def withdraw_challenge(self, domain: str) -> None:
        """No CA is expected any more."""
        self._challenges.pop(domain, None)

    def reload(self) -> None:
        """Read the files again, at once. What is no good is refused, loudly, and the old stays."""
        if self._files is None:
            return
        self._seen = self._loaded = _signature(self._files)
        try:
            self._default = read_certificate(*self._files)
        except BadCertificate as refusal:
            self._emit(CertificateRefused(str(refusal)))
        else:
            self.announce()

    def announce(self) -> None:
        """Report what was read from files."""
        if self._default is not None and self._files is not None:
            self._emit(loaded_event(self._files[0], self._default))

    async def watch(self) -> NoReturn:
        """Read the files again whenever they have changed, until cancelled."""
        while True:
            await trio.sleep(_LOOK_INTERVAL)
            found = _signature(self._files)
            settled, self._seen = found == self._seen, found
            if settled and found != self._loaded:
                self.reload()


def loaded_event(name: str, certificate: Certificate) -> CertificateLoaded:
    """The event for a ``certificate`` that was read from the file called ``name``."""
    expires = "has expired" if certificate.expires is None else _date(certificate.expires)
    return CertificateLoaded(name, expires, ", ".join(certificate.names))


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _server_context(protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols([protocol])
    # None of them is weak, and the client knows what its processor is good at: a phone without instructions for
    # AES asks for ChaCha20 first.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    # To renegotiate costs the server more than the client; TLS 1.3 cannot (RFC 9325, section 3.5).
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _read(name: str, what: str, *, secret: bool = False) -> bytes:
    try:
        with open(name, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise BadCertificate(f"{name}: is no file")
            if secret and mode & stat.S_IRWXO:
                raise BadCertificate(f"{name}: others can read this {what}; mend it with: chmod o= {name}")
            return file.read()
    except OSError as error:
        raise BadCertificate(f"{name}: cannot be read: {error.strerror}") from None


def _in_memory(content: bytes, stack: ExitStack) -> str:
    descriptor = os.memfd_create("relayd", os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return f"/proc/self/fd/{descriptor}"


def _refuse_password(name: str) -> Callable[[], str]:
    def refuse() -> str:
        raise BadCertificate(
            f"{name}: is encrypted, and nobody is there to type a password; "
            f"decrypt it with: openssl pkey -in {name}"
        )

    return refuse


def _said(error: ssl.SSLError) -> str:
    return (error.reason or "unknown reason").replace("_", " ").lower()


def _examined(context: ssl.SSLContext, name: str, excused: Collection[int]) -> Certificate:
    """What a client that trusts the certificate itself finds: the proof that it serves, its names, its end.

    ``excused`` are OpenSSL's codes for what it may find fault with.
    """
    client = _client_context()
    try:
        # As it is served: to look for it in the file as well would be to find another than OpenSSL has.
        client.load_verify_locations(cadata=_shaken_hands(client, context).getpeercert(binary_form=True))
        client.verify_mode = ssl.CERT_REQUIRED
        found: Mapping[str, Any] = _shaken_hands(client, context).getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in excused:
            return Certificate(context, (), None)
        raise BadCertificate(f"{name}: no client would accept it: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise BadCertificate(f"{name}: refused by OpenSSL: {_said(error)}") from None
    except UnicodeDecodeError:
        raise BadCertificate(
            f"{name}: has a name that is not ASCII; have it issued with the xn-- form of that name"
        ) from None
    names = tuple(str(value) for _, value in found.get("subjectAltName", ()))
    return Certificate(context, names, ssl.cert_time_to_seconds(found["notAfter"]))


def _client_context() -> ssl.SSLContext:
    """A client that takes any certificate, unless it is told to verify."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.set_alpn_protocols([_PROTOCOL])
    return client


def _shaken_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLObject:
    """The client's end of a handshake of the two in memory. Raises `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_side=False)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    # Each does what it can in its turn: three are enough for any version.
    for side in (ours, theirs) * 4:
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return ours


def _signature(files: tuple[str, str] | None) -> tuple[tuple[int, ...], ...]:
    """What changes when the files do; nothing in the place of one that is not there."""
    found: list[tuple[int, ...]] = []
    for name in files or ():
        try:
            status = os.stat(name)
        except OSError:
            found.append(())
        else:
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
