"""The server's part of a TLS handshake: who asks is read by us first, and OpenSSL answers him."""

import ssl
from collections.abc import Callable
from typing import Final

import trio

from relayd.edge.stream import PlainStream
from relayd.edge.tls import PIECE, TlsStream
from relayd.edge.turns import Place
from relayd.wire.client_hello import BadClientHello, ClientHello, ClientHelloReader, ClientHelloTooLong

__all__ = ["TlsFailed", "accept_tls"]

_MOST_CUT: Final = 32 * 1024
"""Bytes in which a ClientHello has to have come. Cut into records of a byte each, it may be six times as long.
Nobody does that but to fill memory."""

_RANDOM: Final = slice(11, 43)
"""Where a ServerHello has it, when its record comes first."""

_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""There, it is no ServerHello but asks for another ClientHello (RFC 8446, section 4.1.3)."""


class TlsFailed(Exception):
    """There will be no TLS on this connection."""

    def __init__(self, reason: str) -> None:
        """``reason`` is OpenSSL's, such as ``UNSUPPORTED_PROTOCOL``, or ``HUNG_UP``."""
        super().__init__(reason)
        self.reason = reason


async def accept_tls(
    below: PlainStream,
    choose: Callable[[ClientHello | None], ssl.SSLContext],
    place: Place,
    on_limit: Callable[[], None],
) -> TlsStream:
    """Do the server's part of a TLS handshake on ``below``. Raises `TlsFailed`; cancelled, ``below`` is spoilt.

    ``choose`` is told what the client asks for; nothing, if that could not be understood. Each time that
    something has come, it is read and answered when there is a ``place``, which whoever has made it takes back
    in the end. ``on_limit`` is for the `TlsStream`.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello, given, rest = await _read_hello(below, place)
    tls = choose(hello).wrap_bio(incoming, outgoing, server_side=True)
    while True:
        incoming.write(given[:PIECE])
        given = given[PIECE:]
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            answer = outgoing.read()
            await _send(below, answer, place)
            if given:
                continue
            if answer[_RANDOM] == _RETRY:
                _, given, rest = await _read_hello(below, place, rest, second=True)
            elif hello is None:
                # Whatever it was going to be, it has begun as none.
                raise TlsFailed("UNEXPECTED_MESSAGE") from None
            else:
                given, rest = rest or await _receive(below, place), b""
        except ssl.SSLError as error:
            # The alert says why.
            await _send(below, outgoing.read(), place)
            raise TlsFailed(error.reason or "PROTOCOL_ERROR") from None
        else:
            await _send(below, outgoing.read(), place)
            return TlsStream(below, tls, incoming, outgoing, on_limit, given + rest)


async def _read_hello(
    below: PlainStream, place: Place, received: bytes = b"", *, second: bool = False
) -> tuple[ClientHello | None, bytes, bytes]:
    """What the client asks for, if that can be understood; the bytes that say so; what came behind them.

    OpenSSL would take as much memory as a ClientHello is said to have bytes, 128 KiB of them, at the first.
    """
    reader = ClientHelloReader(second=second)
    data = received
    while len(received) < _MOST_CUT:
        if not data:
            data = await _receive(below, place)
            received += data
        try:
            hello = reader.feed(data)
        except ClientHelloTooLong:
            break
        except BadClientHello:
            if second:
                raise TlsFailed("UNEXPECTED_MESSAGE") from None
            return None, received, b""
        if hello is not None:
            return hello, received[: reader.taken], received[reader.taken :]
        data = b""
        await trio.lowlevel.checkpoint()
    raise TlsFailed("EXCESSIVE_MESSAGE_SIZE")


async def _receive(below: PlainStream, place: Place) -> bytes:
    """What comes next, with the place held. Raises `TlsFailed`."""
    place.leave()
    await place.enter()
    while (data := below.try_receive(PIECE)) is None:
        place.leave()
        await below.wait_readable()
        await place.enter()
    if not data:
        raise TlsFailed("HUNG_UP")
    return data


async def _send(below: PlainStream, data: bytes, place: Place) -> None:
    """Send ``data``, and let others run if there is none. Raises `TlsFailed`.

    Nobody keeps a place while he takes nothing: it is held again behind that.
    """
    await trio.lowlevel.checkpoint()
    try:
        sent = below.try_send([data]) if data else 0
        if sent < len(data):
            place.leave()
            await below.send_all(data[sent:])
            await place.enter()
    except (OSError, trio.BrokenResourceError):
        raise TlsFailed("HUNG_UP") from None
