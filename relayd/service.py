"""The relay as a process: signals, SIGHUP and what it changes, and what the service manager is told."""

import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, closing

import trio

from relayd.configuration import BadSetting, reloaded
from relayd.daemon import Relay
from relayd.edge.passed import PassedSockets
from relayd.ops.events import Draining, Event, Reloaded, ReloadRefused
from relayd.ops.log import Log
from relayd.ops.process import prepare_process
from relayd.ops.production import NotForProduction, refuse_metrics_listener
from relayd.ops.systemd import ServiceManager, status_of
from relayd.setting import flag_of
from relayd.settings import Settings

__all__ = ["run"]


async def run(
    settings: Settings,
    log: Log,
    reread: Callable[[], Settings],
    passed: PassedSockets,
    manager: ServiceManager,
) -> int:
    """Be the daemon until SIGTERM or SIGINT, and drain; return the exit status.

    ``manager`` is told what becomes of it. SIGHUP has the settings ``reread``, which may raise
    `relayd.configuration.BadSetting`. The status is 0 after a drain, 128 and the signal's number if a
    second signal cut it short. Raises `relayd.edge.listener.CannotListen`, or a group of it, if a listener
    cannot be opened, or fails, and `relayd.ops.production.NotForProduction`, or a group, for a socket that was
    passed on.
    """
    status = 0
    refusal = ""
    prepare_process()

    def emit(event: Event) -> None:
        log.emit(event)
        if isinstance(event, Draining):
            manager.stopping(counts(), relay.settings.drain_timeout)

    def counts() -> str:
        binaries, phones = relay.registry.connected_binaries, relay.registry.connected_phones
        return status_of(binaries, phones, draining=relay.draining, refusal=refusal)

    relay = Relay(settings, emit, passed)

    async def serve(*, task_status: trio.TaskStatus[Sequence[str]]) -> None:
        await relay.serve(task_status=task_status)
        nursery.cancel_scope.cancel()

    async def obey(signals: AsyncIterator[int]) -> None:
        nonlocal status, refusal
        ending = False
        async with trio.open_nursery() as draining:
            async for number in signals:
                if number == signal.SIGHUP:
                    with manager.reloading(counts):
                        refusal = _reload(relay, log, reread)
                elif ending:
                    status = 128 + number
                    nursery.cancel_scope.cancel()
                else:
                    ending = True
                    draining.start_soon(relay.drain, signal.Signals(number).name)

    with ExitStack() as stack:
        # As in `Relay.serve`, before any descriptor of ours can be taken for one that was passed on.
        for_metrics = [
            stack.enter_context(closing(listener))
            for listener in passed.listeners(settings.metrics_listen, (*settings.listen, *settings.http_listen))
        ]
        for listener in for_metrics:
            refuse_metrics_listener(listener.address, settings)
        signals = stack.enter_context(trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey, signals)
            nursery.start_soon(log.run)
            await nursery.start(serve)
            if settings.metrics_listen:
                # Memory and time to start that only those pay who ask for it.
                from relayd.ops.metrics_server import serve_metrics

                await nursery.start(serve_metrics, relay, relay.emit, for_metrics)
            manager.ready(counts())
            nursery.start_soon(manager.run, counts)
    return status


def _reload(relay: Relay, log: Log, reread: Callable[[], Settings]) -> str:
    """Why nothing has changed, in one line; empty if the settings were taken over."""
    try:
        settings, changed, needs_restart = reloaded(relay.settings, reread())
        relay.consider(settings)
    except (BadSetting, NotForProduction) as refusal:
        log.emit(ReloadRefused(str(refusal)))
        return str(refusal)
    # A level that hides it is no reason to say nothing, neither the old one nor the new.
    log.level = "info"
    relay.emit(Reloaded(_names(changed), _names(needs_restart)))
    log.level = settings.log_level
    relay.apply(settings)
    return ""


def _names(settings: Sequence[str]) -> str:
    return ", ".join(map(flag_of, settings)) or "none"
