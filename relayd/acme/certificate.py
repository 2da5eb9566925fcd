"""Keys and certificates: made, and looked at before they are used."""

import hashlib
from datetime import UTC, datetime, timedelta

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

__all__ = ["BadCertificate", "Certificate", "challenge_pem", "checked_key", "new_key"]

_ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""RFC 8737, section 3."""


class BadCertificate(ValueError):
    """It is none, or not what it should be; the text is ours."""


@frozen
class Certificate:
    """A certificate of one domain, with its key and those above it."""

    domain: str
    chain_pem: bytes
    """The domain's own first."""
    key_pem: bytes
    begins: datetime
    ends: datetime

    @classmethod
    def of(cls, domain: str, chain_pem: bytes, key_pem: bytes) -> "Certificate":
        """What these are for ``domain``. Raises `BadCertificate` if they are not for it, or not a pair."""
        try:
            leaf = x509.load_pem_x509_certificates(chain_pem)[0]
            key = load_pem_private_key(key_pem, password=None)
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            same_key = _public(leaf.public_key()) == _public(key.public_key())
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
            raise BadCertificate("cannot be read") from None
        if not same_key:
            raise BadCertificate("key and certificate are no pair")
        if domain not in names.get_values_for_type(x509.DNSName):
            raise BadCertificate("is of another domain")
        return cls(domain, chain_pem, key_pem, leaf.not_valid_before_utc, leaf.not_valid_after_utc)

    @classmethod
    def from_pem(cls, domain: str, pem: bytes) -> "Certificate":
        """Of one file, as `pem` writes it. Raises `BadCertificate`."""
        key_pem, begin, rest = pem.partition(b"-----BEGIN CERTIFICATE-----")
        return cls.of(domain, begin + rest, key_pem)

    @property
    def pem(self) -> bytes:
        """All of it as one file, so that a key is never found without its certificate."""
        return self.key_pem + self.chain_pem


def new_key() -> bytes:
    """A new private key in PEM, for P-256: what every CA and every client takes, at a tenth of RSA's cost."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def checked_key(key_pem: bytes) -> bytes:
    """The same again, if it is a key as `new_key` makes them. Raises `BadCertificate`."""
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadCertificate("cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadCertificate("is no key for P-256")
    return key_pem


def challenge_pem(domain: str, authorization: str) -> bytes:
    """What to show a CA that asks for ``acme-tls/1``: a key and its certificate (RFC 8737, section 3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    # DER of an OCTET STRING of 32 bytes.
    digest = b"\x04\x20" + hashlib.sha256(authorization.encode("ascii")).digest()
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=True)
        .add_extension(x509.UnrecognizedExtension(_ACME_IDENTIFIER, digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def _public(key: object) -> bytes:
    read = getattr(key, "public_bytes")  # noqa: B009
    found: bytes = read(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found
