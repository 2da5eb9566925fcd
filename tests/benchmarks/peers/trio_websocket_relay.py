"""A relay on plain trio-websocket, a memory channel of 256 for each phone: ``trio_websocket_relay.py PORT``."""

import contextlib
import json
import secrets
import sys

import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

HEARTBEAT = 30
MAX_PHONES = 16


@define
class Server:
    """A binary and its phones' outboxes."""

    binary: WebSocketConnection
    phones: dict[str, trio.MemorySendChannel[str]] = field(factory=dict)


servers: dict[str, Server] = {}


async def heartbeat(connection: WebSocketConnection) -> None:
    """Ping for as long as there are answers."""
    while True:
        await trio.sleep(HEARTBEAT)
        with trio.fail_after(HEARTBEAT):
            await connection.ping()


async def serve_binary(connection: WebSocketConnection, server_id: str) -> None:
    """Give each frame to the phone that it names."""
    if server_id in servers:
        await connection.aclose(4409, "server-id already claimed")
        return
    server = servers[server_id] = Server(connection)
    try:
        while True:
            envelope = json.loads(await connection.get_message())
            outbox = server.phones.get(envelope["conn_id"])
            if outbox:
                with contextlib.suppress(trio.BrokenResourceError):
                    await outbox.send(json.dumps(envelope["frame"], separators=(",", ":")))
    finally:
        del servers[server_id]
        for outbox in server.phones.values():
            outbox.close()


async def write_outbox(connection: WebSocketConnection, outbox: trio.MemoryReceiveChannel[str]) -> None:
    """Send what is queued, until the binary is gone."""
    async with outbox:
        async for frame in outbox:
            await connection.send_message(frame)
        await connection.aclose(4404, "binary is gone")


async def serve_phone(connection: WebSocketConnection, server_id: str, nursery: trio.Nursery) -> None:
    """Wrap each frame for the binary."""
    server = servers.get(server_id)
    if server is None or len(server.phones) == MAX_PHONES:
        code, reason = (4429, "too many phones") if server else (4404, "no server with that id")
        await connection.aclose(code, reason)
        return
    conn_id = f"c-{secrets.token_urlsafe(16)}"
    server.phones[conn_id], outbox = trio.open_memory_channel[str](256)
    try:
        nursery.start_soon(write_outbox, connection, outbox)
        while True:
            frame = json.loads(await connection.get_message())
            envelope = {"conn_id": conn_id, "frame": frame}
            await server.binary.send_message(json.dumps(envelope, separators=(",", ":")))
    finally:
        del server.phones[conn_id]


async def serve(request: WebSocketRequest) -> None:
    """Accept a connection and serve it."""
    server_id = dict(request.headers)[b"x-pyrycode-server"].decode()
    connection = await request.accept()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heartbeat, connection)
            if request.path == "/v1/server":
                await serve_binary(connection, server_id)
            else:
                await serve_phone(connection, server_id, nursery)
            nursery.cancel_scope.cancel()
    except* (ConnectionClosed, trio.TooSlowError):
        pass


trio.run(lambda: serve_websocket(serve, "127.0.0.1", int(sys.argv[1]), None, max_message_size=262144))
