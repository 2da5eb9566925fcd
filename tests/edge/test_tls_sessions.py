"""What OpenSSL keeps of TLS sessions that are over: memory that no budget of ours counts."""

import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from relayd.edge.certificates import read_certificate

VISITS = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """What serves a certificate, as a listener has it."""
    directory = tmp_path_factory.mktemp("tls")
    pair = trustme.CA().issue_cert("relay.example.org")
    chain, key = directory / "chain.pem", directory / "key.pem"
    pair.cert_chain_pems[0].write_to_path(chain)
    pair.private_key_pem.write_to_path(key)
    Path(key).chmod(0o600)
    return read_certificate(str(chain), str(key)).context


def visit(server: ssl.SSLContext, version: ssl.TLSVersion, *, tickets: bool, goodbye: bool) -> None:
    """A handshake in memory, and its end: with close_notify from both, or by hanging up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(to_client, to_server)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (ours, theirs) * 3:
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert theirs.version() is not None
    for side in (ours, theirs, ours) if goodbye else ():
        with suppress(ssl.SSLWantReadError):
            side.unwrap()


@pytest.mark.parametrize(
    ("version", "tickets", "goodbye", "kept"),
    [
        (ssl.TLSVersion.TLSv1_2, False, True, VISITS),
        (ssl.TLSVersion.TLSv1_2, False, False, 0),
        (ssl.TLSVersion.TLSv1_2, True, True, 0),
        (ssl.TLSVersion.TLSv1_3, True, True, 0),
        (ssl.TLSVersion.TLSv1_3, False, True, 0),
    ],
)
def test_sessions_are_kept_of_tls_1_2_without_tickets_that_ended_with_a_goodbye_and_of_nobody_else(
    server: ssl.SSLContext, version: ssl.TLSVersion, tickets: bool, goodbye: bool, kept: int
) -> None:
    before = server.session_stats()["number"]
    for _ in range(VISITS):
        visit(server, version, tickets=tickets, goodbye=goodbye)
    assert server.session_stats()["number"] - before == kept
