"""Records that carry nothing: a client that asks for new keys, and for new keys, and sends next to no data.

Python has no way to ask for them, so libssl is called as it is.
"""

import contextlib
import ctypes
import ctypes.util
import socket
from collections.abc import Callable

import pytest
import trio

from relayd.edge.stream import PlainStream
from relayd.edge.tls_handshake import accept_tls
from relayd.edge.turns import Gate
from tests.edge.pairs import Pair
from tests.relay_process import WAIT, RelayProcess

UPDATES = 8_000
"""27 bytes each: 216 KB."""


def key_updates(sock: socket.socket, count: int, per_byte: int = 0, begin: bytes = b"") -> bytes:
    """Shake hands on ``sock``; as many requests for new keys, encrypted and not sent.

    After each ``per_byte`` of them there is a byte of data; 0 stands for none at all. ``begin`` stands before.
    """
    name = ctypes.util.find_library("ssl")
    if name is None:
        pytest.fail("libssl is missing: apt-get install libssl3")
    libssl, libcrypto = ctypes.CDLL(name), ctypes.CDLL(ctypes.util.find_library("crypto"))
    for function in (libssl.TLS_client_method, libssl.SSL_CTX_new, libssl.SSL_new):
        function.restype = ctypes.c_void_p
    for function in (libcrypto.BIO_new, libcrypto.BIO_s_mem):
        function.restype = ctypes.c_void_p
    context = ctypes.c_void_p(libssl.SSL_CTX_new(ctypes.c_void_p(libssl.TLS_client_method())))
    client = ctypes.c_void_p(libssl.SSL_new(context))
    libssl.SSL_set_fd(client, sock.fileno())
    # OpenSSL waits by itself, which it cannot on a socket that Python gives a timeout.
    sock.settimeout(None)
    assert libssl.SSL_connect(client) == 1
    sock.settimeout(WAIT)
    memory = ctypes.c_void_p(libcrypto.BIO_new(ctypes.c_void_p(libcrypto.BIO_s_mem())))
    libssl.SSL_set0_wbio(client, memory)
    buffer = ctypes.create_string_buffer(4096)
    made = bytearray()
    if begin:
        libssl.SSL_write(client, begin, len(begin))
    for number in range(count):
        libssl.SSL_key_update(client, 0)
        libssl.SSL_do_handshake(client)
        if per_byte and number % per_byte == per_byte - 1:
            libssl.SSL_write(client, b"x", 1)
        while (size := libcrypto.BIO_read(memory, buffer, len(buffer))) > 0:
            made += buffer.raw[:size]
    libssl.SSL_free(client)
    libssl.SSL_CTX_free(context)
    return bytes(made)


@pytest.mark.parametrize(
    ("count", "per_byte", "turns", "data"),
    [(3000, 0, 18, 0), (3000, 100, 18, 13), (3000, 1, 90, 3000)],
    ids=["without data", "with next to none", "with as much"],
)
async def test_records_without_data_are_read_a_few_a_turn_and_only_while_data_makes_up_for_them(
    pair: Pair, count: int, per_byte: int, turns: int, data: int
) -> None:
    context = pair.server()
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with ours, theirs:
        made = b""

        async def shake() -> None:
            nonlocal made
            made = await trio.to_thread.run_sync(key_updates, theirs, count, per_byte)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake)
            with Gate().approached() as place:
                stream = await accept_tls(PlainStream(ours), lambda _hello: context, place, lambda: None)
        theirs.sendall(made)
        theirs.shutdown(socket.SHUT_WR)
        taken, received = 0, 0
        while (part := stream.try_receive(65_536)) != b"":
            taken += 1
            received += len(part or b"")
    assert taken >= turns
    assert abs(received - data) <= 1


def test_peer_that_sends_records_without_data_is_hung_up_on(
    start_relay: Callable[..., RelayProcess], pair: Pair
) -> None:
    # Nothing else would end it within the test's time.
    relay = start_relay(*pair.flags, "--handshake-timeout", "600")
    with socket.create_connection(("127.0.0.1", relay.port), WAIT) as sock:
        updates = key_updates(sock, UPDATES)
        try:
            sock.sendall(updates)
            while sock.recv(4096):
                pass
        except ConnectionError:
            pass
    assert relay.event("limit_reached", bound="tls_without_data")["remote"].startswith("127.0.0.1:")
    with socket.create_connection(("127.0.0.1", relay.port), WAIT) as sock:
        # A few are nobody's business.
        sock.sendall(key_updates(sock, 20))
        sock.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while data := sock.recv(4096):
                pass
            assert data, "hung up on"
    assert len(relay.events("limit_reached")) == 1
