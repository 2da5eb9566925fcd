"""Port 80, for a CA that wants to see a challenge (http-01 of RFC 8555, section 8.3), and for nothing else."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

import trio

from relayd.edge.listener import accept_connections, open_listener
from relayd.edge.request import Answer, Request, answer_or
from relayd.edge.stream import PlainStream
from relayd.ops.events import ChallengesListening, Emit, InternalError
from relayd.settings import Address

__all__ = ["serve_challenges"]

_MOST_CONNECTIONS: Final = 64
"""At a time. For whoever comes beyond that, the oldest is hung up on: a CA is quick, and strangers who hold
connections to keep it out are not."""

_PATH: Final = b"/.well-known/acme-challenge/"


async def serve_challenges(
    addresses: Sequence[Address],
    responses: Mapping[str, str],
    timeout: float,
    emit: Emit,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer with the pending ``responses``, by their tokens, until cancelled; 404 to all else.

    A request may take ``timeout`` seconds, and so may its answer. Started, it reports the addresses bound.
    Raises `relayd.edge.listener.CannotListen`, in a group if a listener fails later on.
    """
    open_scopes: dict[trio.CancelScope, None] = {}

    def judge(request: Request) -> None:
        target = request.head.target
        response = responses.get(target.removeprefix(_PATH).decode("ascii", "replace"))
        if not target.startswith(_PATH) or response is None or request.head.method != b"GET":
            raise Answer(404)
        raise Answer(200, ((b"content-type", b"application/octet-stream"),), response.encode("ascii"))

    async def handle(stream: PlainStream) -> None:
        if len(open_scopes) == _MOST_CONNECTIONS:
            oldest = next(iter(open_scopes))
            del open_scopes[oldest]
            oldest.cancel()
        with trio.CancelScope() as scope:
            open_scopes[scope] = None
            try:
                deadline = trio.current_time() + timeout
                await answer_or(stream, deadline, timeout, judge, lambda answer: None)
            except* Exception as errors:  # noqa: BLE001 (a bug here must not cost a single connection)
                emit(InternalError.of("challenges", errors))
            finally:
                open_scopes.pop(scope, None)
                stream.close()

    with ExitStack() as stack:
        listeners = []
        for address in addresses:
            listener = await open_listener(address, "--http-listen")
            stack.callback(listener.close)
            listeners.append(listener)
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(accept_connections, listener, handle, nursery, emit)
                emit(ChallengesListening(str(listener.address)))
            task_status.started([str(listener.address) for listener in listeners])
