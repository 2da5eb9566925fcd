"""Port 80, for a CA that wants to see a challenge (http-01 of RFC 8555, section 8.3), and for nothing else."""

from collections.abc import Iterable, Mapping
from typing import Final

import trio

from relayd.edge.listener import Listener, accept_connections
from relayd.edge.places import Places
from relayd.edge.request import Answer, Request, answer_or
from relayd.edge.stream import PlainStream
from relayd.ops.events import ChallengesListening, Emit

__all__ = ["serve_challenges"]

_MOST_CONNECTIONS: Final = 64
"""At a time: a CA looks from some five places, twice with retries, and the rest is room."""

_PATH: Final = b"/.well-known/acme-challenge/"


async def serve_challenges(
    listeners: Iterable[Listener], responses: Mapping[str, str], timeout: float, emit: Emit
) -> None:
    """Answer on ``listeners`` with the pending ``responses``, by their tokens; 404 to all else.

    Until cancelled. A request may take ``timeout`` seconds, and so may its answer. Raises a group of
    `relayd.edge.listener.CannotListen` if a listener fails.
    """
    places = Places(_MOST_CONNECTIONS, "challenges", "challenges", emit)

    def judge(request: Request) -> None:
        target = request.head.target
        response = responses.get(target.removeprefix(_PATH).decode("ascii", "replace"))
        if not target.startswith(_PATH) or response is None or request.head.method != b"GET":
            raise Answer(404)
        raise Answer(200, ((b"content-type", b"application/octet-stream"),), response.encode("ascii"))

    async def handle(stream: PlainStream) -> None:
        with places.serving(stream):
            deadline = trio.current_time() + timeout
            await answer_or(stream, deadline, timeout, judge, lambda answer: None)

    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(accept_connections, listener, PlainStream, handle, nursery, emit)
            emit(ChallengesListening(str(listener.address), listener.passed_as))
