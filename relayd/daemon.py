"""The composition root: listeners, the root nursery, signals, drain."""

import signal
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import PurePath
from typing import Any

import trio

from relayd import __version__
from relayd.configuration import BadSetting, reloaded
from relayd.edge.admin import Admin, open_admin_socket
from relayd.edge.connection import NeverOpened, WebSocket
from relayd.edge.http import answer_request
from relayd.edge.listener import Listener, accept_connections, open_listener, remote_address
from relayd.edge.traffic import Traffic
from relayd.edge.turns import Turns
from relayd.ops.events import (
    AdminListening,
    Draining,
    Emit,
    InternalError,
    Listening,
    Reloaded,
    ReloadRefused,
    RequestRefused,
    Stopped,
)
from relayd.ops.log import Log
from relayd.ops.process import prepare_process
from relayd.routing.binary import serve_binary
from relayd.routing.heartbeat import Heartbeats
from relayd.routing.phone import serve_phone
from relayd.routing.registry import Refused, Registry
from relayd.settings import Settings, flag_of
from relayd.wire.close import SHUTTING_DOWN
from relayd.wire.upgrade import BinaryHello, PhoneHello

__all__ = ["Relay", "run"]


class Relay:
    """The whole relay but its signals: `serve` runs it, `drain` ends it.

    Tests run it in a nursery of theirs; `run` runs it as a process.
    """

    def __init__(self, settings: Settings, emit: Emit) -> None:
        #: In force for whatever begins from now on.
        self.settings = settings
        self._emit = emit
        #: Accepted and not yet closed for good.
        self.connections: set[WebSocket] = set()
        #: How many were accepted, and what those that are gone have carried.
        self.accepted = 0
        self.carried = Traffic()
        #: The addresses of the open listeners.
        self.listening: Sequence[str] = ()
        self._started = trio.current_time()
        self._connection_ended = trio.lowlevel.ParkingLot()
        #: Whether upgrades are refused, because the relay is about to end.
        self.draining = False
        self._scope = trio.CancelScope()
        self.registry = Registry(
            grace=settings.grace,
            probe_timeout=settings.probe_timeout,
            max_phones=settings.max_phones,
            emit=emit,
        )
        self._turns = Turns()
        self._admin = Admin(self, emit)
        self._heartbeats = Heartbeats(interval=settings.heartbeat_interval, timeout=settings.heartbeat_timeout)

    async def serve(self, *, task_status: trio.TaskStatus[Sequence[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until `drain` has ended it. Started, it reports the addresses bound.

        Raises `relayd.edge.listener.CannotListen`, in a group if the listener fails later on.
        """
        with ExitStack() as stack:
            listeners: list[Listener] = []
            for address in self.settings.listen:
                listener = await open_listener(address)
                stack.callback(listener.close)
                listeners.append(listener)
            admin = open_admin_socket(self.settings.admin_socket, self._emit)
            if admin is not None:
                stack.callback(admin.close)
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.registry.expire_graces)
                    nursery.start_soon(self._heartbeats.run)
                    for listener in listeners:
                        nursery.start_soon(accept_connections, listener, self._handle, nursery, self._emit)
                        self._emit(Listening(str(listener.address)))
                    if admin is not None:
                        nursery.start_soon(accept_connections, admin, self._handle_admin, nursery, self._emit)
                        self._emit(AdminListening(admin.address.path))
                    self.listening = [str(listener.address) for listener in listeners]
                    task_status.started(self.listening)

    async def drain(self, cause: str) -> None:
        """Close every connection with 1001, wait for them up to the drain timeout, and end `serve`.

        Meanwhile ``/healthz`` answers 503, and so does an upgrade. ``cause`` is for the log. If it is
        under way already, this does nothing.
        """
        if self.draining:
            return
        self.draining = True
        self._emit(Draining(cause, len(self.connections)))
        for connection in list(self.connections):
            connection.end(SHUTTING_DOWN)
        with trio.move_on_after(self.settings.drain_timeout):
            while self.connections:
                await self._connection_ended.park()
        self._emit(Stopped(len(self.connections)))
        self._scope.cancel()

    def apply(self, settings: Settings) -> None:
        """Go on with ``settings``, of which only those may differ that can change while running."""
        self.settings = settings
        self.registry.apply(probe_timeout=settings.probe_timeout, max_phones=settings.max_phones)

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return trio.current_time() - self._started

    def readiness(self) -> Mapping[str, Any]:
        """The document of ``/readyz``."""
        status = "draining" if self.draining else "ok" if self.listening else "starting"
        return {"status": status, "version": __version__, "uptime_seconds": int(self.uptime)}

    def health(self) -> Mapping[str, Any]:
        """The document of ``/healthz`` (contract: "Endpoints")."""
        return {
            "status": "draining" if self.draining else "ok",
            "version": __version__,
            "connected_binaries": self.registry.connected_binaries,
            "connected_phones": self.registry.connected_phones,
            "uptime_seconds": int(self.uptime),
        }

    async def _handle(self, stream: trio.SocketStream) -> None:
        """One connection from its first byte to its last. Nothing that goes wrong in it gets out."""
        remote = remote_address(stream)
        try:
            await self._serve_connection(stream, remote)
        except* NeverOpened:
            pass
        except* Exception as errors:  # noqa: BLE001 (one bug must not cost every connection)
            self._emit(InternalError(remote, _whereabouts(errors)))
        finally:
            await trio.aclose_forcefully(stream)

    async def _handle_admin(self, stream: trio.SocketStream) -> None:
        try:
            await self._admin.handle(stream)
        except* Exception as errors:  # noqa: BLE001 (nor may one here)
            self._emit(InternalError("admin", _whereabouts(errors)))

    async def _serve_connection(self, stream: trio.SocketStream, remote: str) -> None:
        def on_refused(status: int) -> None:
            self._emit(RequestRefused(remote, status))

        upgrade = await answer_request(stream, self.settings, self, on_refused)
        if upgrade is not None:
            connection = WebSocket(stream, remote, upgrade, self.settings, self._turns)
            with self._tracked(connection):
                async with connection.opened():
                    await self._route(connection, upgrade.hello)

    @contextmanager
    def _tracked(self, connection: WebSocket) -> Iterator[None]:
        """Let `drain` know of ``connection`` until it is closed for good."""
        self.accepted += 1
        self.connections.add(connection)
        if self.draining:
            connection.end(SHUTTING_DOWN)
        try:
            yield
        finally:
            self.connections.remove(connection)
            self.carried = self.carried.plus(connection)
            self._connection_ended.unpark_all()

    async def _route(self, connection: WebSocket, hello: BinaryHello | PhoneHello) -> None:
        registry, heartbeats = self.registry, self._heartbeats
        try:
            if isinstance(hello, BinaryHello):
                await serve_binary(connection, hello, registry=registry, heartbeats=heartbeats, emit=self._emit)
            else:
                await serve_phone(connection, hello, registry=registry, heartbeats=heartbeats)
        except Refused as refusal:
            connection.end(refusal.close)


async def run(settings: Settings, log: Log, reread: Callable[[], Settings]) -> int:
    """Be the daemon until SIGTERM or SIGINT, and drain; return the exit status.

    SIGHUP has the settings ``reread``, which may raise `relayd.configuration.BadSetting`. The status is 0
    after a drain, 128 and the signal's number if a second signal cut it short. Raises a group of
    `relayd.edge.listener.CannotListen` if a listener cannot be opened, or fails.
    """
    status = 0
    prepare_process()
    relay = Relay(settings, log.emit)

    async def obey(signals: AsyncIterator[int]) -> None:
        nonlocal status
        ending = False
        async with trio.open_nursery() as draining:
            async for number in signals:
                if number == signal.SIGHUP:
                    _reload(relay, log, reread)
                elif ending:
                    status = 128 + number
                    nursery.cancel_scope.cancel()
                else:
                    ending = True
                    draining.start_soon(relay.drain, signal.Signals(number).name)

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey, signals)
            await relay.serve()
            nursery.cancel_scope.cancel()
    return status


def _reload(relay: Relay, log: Log, reread: Callable[[], Settings]) -> None:
    try:
        settings, changed, needs_restart = reloaded(relay.settings, reread())
    except BadSetting as refusal:
        log.emit(ReloadRefused(str(refusal)))
        return
    log.level = settings.log_level
    relay.apply(settings)
    log.emit(Reloaded(", ".join(map(flag_of, changed)), ", ".join(map(flag_of, needs_restart))))


def _whereabouts(error: BaseException) -> str:
    """The class of every error in a group and the line that raised it: where to look, and no more."""
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(_whereabouts(inner) for inner in error.exceptions)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
