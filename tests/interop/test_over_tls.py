"""The same binaries and phones in JavaScript and in Go, and the same that they do, through TLS."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.interop.clients import LANGUAGES, Program, start_program
from tests.interop.test_other_languages import (  # noqa: F401 (they run here, with this file's fixtures)
    program,
    room,
    test_binary_that_closes_leaves_its_phones_to_its_successor_which_closes_them_with_4404,
    test_close_directive_reaches_the_phone_as_its_code_after_its_frame,
    test_frames_of_1_byte_to_200_kib_go_both_ways_to_the_addressed_phone_alone,
    test_hundreds_of_frames_in_a_row_arrive_in_order_each_at_its_phone,
    test_phone_that_closes_gets_its_code_back_and_the_binary_a_notice,
    test_phone_that_sends_what_may_not_be_is_closed_with_its_code,
    test_ping_gets_its_pong,
)
from tests.relay_process import RelayProcess, relay_factory


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA's certificate, and with a server's and its key."""
    directory = tmp_path_factory.mktemp("ca")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.pem")
    server = ca.issue_cert("127.0.0.1")
    for blob in server.cert_chain_pems:
        blob.write_to_path(directory / "chain.pem", append=True)
    server.private_key_pem.write_to_path(directory / "key.pem")
    (directory / "key.pem").chmod(0o600)
    return directory


@pytest.fixture(scope="module")
def relay(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with relay_factory(tmp_path_factory.mktemp("relay")) as start:
        yield start("--tls-cert", str(authority / "chain.pem"), "--tls-key", str(authority / "key.pem"))


@pytest.fixture(scope="module")
def programs(authority: Path) -> Iterator[dict[str, Program]]:
    running: dict[str, Program] = {}
    try:
        for language in LANGUAGES:
            running[language] = start_program(language, authority / "ca.pem")
        yield running
    finally:
        for each in running.values():
            each.end()
