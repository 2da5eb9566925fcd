"""``GET /metrics`` on a listener of its own, and the two tasks that look at the relay while it is there."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final, NoReturn

import trio

from relayd.edge.listener import Listener, accept_connections, open_listener
from relayd.edge.places import Places
from relayd.edge.request import Answer, Request, answer_or, send_answer
from relayd.edge.stream import PlainStream
from relayd.edge.tally import Histogram
from relayd.edge.watched import Watched
from relayd.ops.events import Emit, MetricsListening
from relayd.ops.metrics import Metrics

__all__ = ["serve_metrics"]

_MOST_CONNECTIONS: Final = 8
"""Scrapes at a time. Prometheus has one, and a person another."""

_LAG_INTERVAL: Final = 0.25
"""Seconds between two looks at how late the loop is."""

_OUTBOX_INTERVAL: Final = 1.0
"""Seconds between two looks at the fullest outbox."""

_PER_TURN: Final = 4096
"""Outboxes that are looked at before other tasks have their turn."""

_OPENMETRICS: Final = b"application/openmetrics-text"
_TEXT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS_TYPE: Final = b"application/openmetrics-text; version=1.0.0; charset=utf-8"


async def serve_metrics(
    relay: Watched,
    emit: Emit,
    passed: Sequence[Listener] = (),
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the metrics of ``relay`` on its ``metrics_listen`` until cancelled.

    ``passed`` are the listeners that its ``fd:`` addresses stand for; whoever adopted them closes them.
    Started, it reports the addresses bound. Raises `relayd.edge.listener.CannotListen`, in a group if a
    listener fails later on.
    """
    metrics = Metrics(relay)
    places = Places(_MOST_CONNECTIONS, "scrapes", "metrics", emit)

    async def handle(stream: PlainStream) -> None:
        with places.serving(stream):
            await _answer(stream, metrics, relay.settings.handshake_timeout)

    with ExitStack() as stack:
        listeners = list(passed)
        for address in relay.settings.metrics_listen:
            if address.fd:
                continue
            listener = await open_listener(address, "--metrics-listen")
            stack.callback(listener.close)
            listeners.append(listener)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_lag, relay.tally.loop_lag)
            nursery.start_soon(_watch_outboxes, relay)
            for listener in listeners:
                listener.keep_reserve()
                nursery.start_soon(accept_connections, listener, PlainStream, handle, nursery, emit)
                emit(MetricsListening(str(listener.address)))
            task_status.started([str(listener.address) for listener in listeners])


async def _answer(stream: PlainStream, metrics: Metrics, timeout: float) -> None:
    deadline = trio.current_time() + timeout
    as_openmetrics = await answer_or(stream, deadline, timeout, _judge, lambda answer: None)
    if as_openmetrics is not None:
        body = await metrics.text(as_openmetrics=as_openmetrics)
        content_type = _OPENMETRICS_TYPE if as_openmetrics else _TEXT_TYPE
        headers = ((b"content-type", content_type), (b"cache-control", b"no-store"))
        await send_answer(stream, timeout, Answer(200, headers, body))


def _judge(request: Request) -> bool:
    """Whether OpenMetrics is asked for. Raises `Answer` for anything but ``GET /metrics``."""
    if request.head.target.partition(b"?")[0] != b"/metrics":
        raise Answer(404)
    if request.head.method != b"GET":
        raise Answer.not_allowed()
    accepted = b",".join(request.head.values(b"accept"))
    return any(part.partition(b";")[0].strip().lower() == _OPENMETRICS for part in accepted.split(b","))


async def _watch_lag(lag: Histogram) -> NoReturn:
    while True:
        due = trio.current_time() + _LAG_INTERVAL
        await trio.sleep_until(due)
        lag.observe(max(trio.current_time() - due, 0.0))


async def _watch_outboxes(relay: Watched) -> NoReturn:
    while True:
        await trio.sleep(_OUTBOX_INTERVAL)
        fullest = 0
        for number, connection in enumerate(list(relay.connections), 1):
            fullest = max(fullest, connection.outbox.charge)
            if number % _PER_TURN == 0:
                await trio.lowlevel.checkpoint()
        relay.tally.fullest.observe(fullest)
