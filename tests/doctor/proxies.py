"""What may stand between a client and a relay, and what it may do to the bytes."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias

import trio

__all__ = ["answering", "clumping", "cutting", "flipping", "forgetting", "passing", "proxied", "reordering"]

Stream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Pump: TypeAlias = Callable[[Stream, Stream], Awaitable[None]]

HOLD: Final = 0.35
"""Seconds of `clumping`: between three and four of the doctor's pauses."""


async def passing(source: Stream, sink: Stream) -> None:
    """Pass bytes on as they come."""
    async for data in source:
        await sink.send_all(data)


async def clumping(source: Stream, sink: Stream) -> None:
    """Once something has come, wait for what else comes."""
    await sink.send_all(await _head(source))
    while held := await _all_within(source, HOLD):
        await sink.send_all(held)


async def flipping(source: Stream, sink: Stream) -> None:
    """Change a byte in whatever is long."""
    async for data in source:
        passed = bytearray(data)
        if len(passed) > 1000:
            passed[len(passed) // 2] = ord("X")
        await sink.send_all(passed)


async def reordering(source: Stream, sink: Stream) -> None:
    """Turn around the order of small frames that come at about the same time."""
    await sink.send_all(await _head(source))
    while held := await _all_within(source, 0.05):
        frames = []
        while held:
            end = 2 + held[1]
            assert held[1] < 126, "reordering is for small frames"
            frames.append(held[:end])
            held = held[end:]
        await sink.send_all(b"".join(reversed(frames)))


async def cutting(source: Stream, sink: Stream) -> None:
    """Hang up when the first frames have come."""
    await sink.send_all(await _head(source))
    await sink.send_all(await source.receive_some())


async def forgetting(source: Stream, sink: Stream) -> None:
    """When the first frames have come, take bytes and pass none on."""
    await cutting(source, sink)
    async for _ in source:
        pass


@asynccontextmanager
async def proxied(
    port: int, *, up: Pump = passing, down: Pump = passing, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A proxy before 127.0.0.1:``port``, for the body; its own port."""

    async def handle(client: Stream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as both:

            async def until_end(pump: Pump, source: Stream, sink: Stream) -> None:
                # When one side has hung up, so does the proxy.
                with suppress(trio.BrokenResourceError):
                    await pump(source, sink)
                both.cancel_scope.cancel()

            both.start_soon(until_end, up, client, server)
            both.start_soon(until_end, down, server, client)

    async with _served(handle, tls) as own:
        yield own


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[int]:
    """Something that answers every request so, or never (None), for the body; its port."""

    async def handle(client: Stream) -> None:
        request = await client.receive_some()
        if answer is None:
            await trio.sleep_forever()
        if request:
            await client.send_all(answer)

    async with _served(handle, None) as port:
        yield port


@asynccontextmanager
async def _served(
    handle: Callable[[Stream], Awaitable[None]], tls: ssl.SSLContext | None
) -> AsyncIterator[int]:
    async def served(stream: Stream) -> None:
        async with stream:
            # A client may dislike the certificate.
            with suppress(trio.BrokenResourceError):
                await handle(stream)

    async with trio.open_nursery() as nursery:
        transports = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listeners: list[trio.abc.Listener[Any]] = [*transports]
        if tls is not None:
            listeners = [trio.SSLListener(transport, tls, https_compatible=True) for transport in transports]
        nursery.start_soon(trio.serve_listeners, served, listeners)
        yield transports[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _head(source: Stream) -> bytes:
    """The answer to the upgrade, which comes before any frame."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = await source.receive_some()
        if not data:
            break
        head += data
    return head


async def _all_within(source: Stream, seconds: float) -> bytes:
    """What comes in ``seconds`` from the first byte on; empty at the end."""
    held = bytes(await source.receive_some())
    if held:
        with trio.move_on_after(seconds):
            async for data in source:
                held += data
    return held
