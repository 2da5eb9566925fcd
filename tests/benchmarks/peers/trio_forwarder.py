"""A bare TCP forwarder on trio, as a floor: ``trio_forwarder.py PORT BACKEND_PORT``."""

import sys

import trio

PORT, BACKEND = int(sys.argv[1]), int(sys.argv[2])


async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    """Carry bytes until ``source`` ends."""
    while data := await source.receive_some(65536):
        await sink.send_all(data)


async def serve(near: trio.SocketStream) -> None:
    """Pair a connection with one of our own to the backend."""
    try:
        async with await trio.open_tcp_stream("127.0.0.1", BACKEND) as far, trio.open_nursery() as nursery:
            nursery.start_soon(copy, near, far)
            await copy(far, near)
            nursery.cancel_scope.cancel()
    except* (OSError, trio.BrokenResourceError):
        pass


trio.run(trio.serve_tcp, serve, PORT)
