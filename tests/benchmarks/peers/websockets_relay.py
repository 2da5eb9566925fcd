"""A relay on websockets, asyncio and uvloop, a queue of 256 for each phone: ``websockets_relay.py PORT``."""

import asyncio
import contextlib
import json
import secrets
import sys

import uvloop
from attrs import define, field
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

MAX_PHONES = 16


@define
class Phone:
    """A phone's connection and outbox."""

    connection: ServerConnection
    outbox: asyncio.Queue[str] = field(factory=lambda: asyncio.Queue(256))
    gone: bool = False


@define
class Server:
    """A binary and its phones."""

    binary: ServerConnection
    phones: dict[str, Phone] = field(factory=dict)


servers: dict[str, Server] = {}


async def serve_binary(connection: ServerConnection, server_id: str) -> None:
    """Give each frame to the phone that it names."""
    if server_id in servers:
        await connection.close(4409, "server-id already claimed")
        return
    server = servers[server_id] = Server(connection)
    try:
        async for message in connection:
            envelope = json.loads(message)
            phone = server.phones.get(envelope["conn_id"])
            if phone:
                await phone.outbox.put(json.dumps(envelope["frame"], separators=(",", ":")))
    finally:
        del servers[server_id]
        for phone in list(server.phones.values()):
            await phone.connection.close(4404, "binary is gone")


async def write_outbox(phone: Phone) -> None:
    """Send what is queued; once the phone is gone, only empty the queue, for the binary may be waiting."""
    while True:
        frame = await phone.outbox.get()
        if not phone.gone:
            try:
                await phone.connection.send(frame)
            except ConnectionClosed:
                phone.gone = True


async def serve_phone(connection: ServerConnection, server_id: str) -> None:
    """Wrap each frame for the binary."""
    server = servers.get(server_id)
    if server is None or len(server.phones) == MAX_PHONES:
        code, reason = (4429, "too many phones") if server else (4404, "no server with that id")
        await connection.close(code, reason)
        return
    conn_id = f"c-{secrets.token_urlsafe(16)}"
    phone = server.phones[conn_id] = Phone(connection)
    writer = asyncio.create_task(write_outbox(phone))
    try:
        async for message in connection:
            envelope = {"conn_id": conn_id, "frame": json.loads(message)}
            await server.binary.send(json.dumps(envelope, separators=(",", ":")))
    finally:
        del server.phones[conn_id]
        writer.cancel()


async def handle(connection: ServerConnection) -> None:
    """Serve a connection."""
    assert connection.request
    serve_one = serve_binary if connection.request.path == "/v1/server" else serve_phone
    with contextlib.suppress(ConnectionClosed):
        await serve_one(connection, connection.request.headers["x-pyrycode-server"])


async def main() -> None:
    """Listen for ever; the library does the heartbeats."""
    async with serve(
        handle,
        "127.0.0.1",
        int(sys.argv[1]),
        compression=None,
        max_size=262144,
        ping_interval=30,
        ping_timeout=30,
    ) as server:
        await server.serve_forever()


uvloop.run(main())
