"""Keys and certificates: what is refused before it is used, and what a challenge shows."""

import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from relayd.acme.certificate import BadCertificate, Certificate, challenge_pem, checked_key, new_key
from tests.acme.fakes import DAY, START, made_certificate


def test_a_certificate_in_one_file_is_what_it_was() -> None:
    made = made_certificate("a.example", START, START + 90 * DAY)
    read = Certificate.from_pem("a.example", made.pem)
    assert read == made
    assert (read.begins, read.ends) == (START, START + 90 * DAY)


@pytest.mark.parametrize(
    ("pem", "problem"),
    [
        (b"", "cannot be read"),
        (b"\xff\x00", "cannot be read"),
        (new_key(), "cannot be read"),
        (made_certificate("a.example").chain_pem, "cannot be read"),
        (made_certificate("a.example").pem[:-100], "cannot be read"),
        (made_certificate("a.example").pem.replace(b"M", b"N"), "cannot be read"),
        (made_certificate("b.example").pem, "is of another domain"),
        (new_key() + made_certificate("a.example").chain_pem, "are no pair"),
    ],
)
def test_a_file_that_is_no_certificate_of_the_domain_with_its_key_is_refused(pem: bytes, problem: str) -> None:
    with pytest.raises(BadCertificate, match=problem):
        Certificate.from_pem("a.example", pem)


def test_an_account_key_must_be_one_for_p_256() -> None:
    made = new_key()
    assert checked_key(made) == made
    others = (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1()))
    for other in others:
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        with pytest.raises(BadCertificate, match="is no key for P-256"):
            checked_key(other.private_bytes(*form))
    for text in (b"", b"\x00", made[:-60]):
        with pytest.raises(BadCertificate, match="cannot be read"):
            checked_key(text)


def test_a_challenge_shows_the_digest_of_the_authorization_in_a_critical_extension(tmp_path: Path) -> None:
    pem = challenge_pem("a.example", "token.thumb")
    certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERT") :])
    extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"))
    assert extension.critical
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert extension.value.value == b"\x04\x20" + hashlib.sha256(b"token.thumb").digest()
    # The same, as OpenSSL reads it.
    file = tmp_path / "challenge.pem"
    file.write_bytes(pem)
    text = subprocess.run(
        ["openssl", "x509", "-in", file, "-noout", "-text"], stdout=subprocess.PIPE, check=True
    )
    assert "DNS:a.example" in text.stdout.decode()
