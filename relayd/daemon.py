"""The composition root: listeners, the root nursery, drain."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from relayd import __version__
from relayd.configuration import BadSetting
from relayd.edge.admin import Admin, open_admin_socket
from relayd.edge.admission import Admission, Refusal
from relayd.edge.arrivals import Arrivals, Newcomer
from relayd.edge.caller import Caller
from relayd.edge.certificates import Certificates
from relayd.edge.connection import NeverOpened, WebSocket
from relayd.edge.http import Endpoint
from relayd.edge.listener import Listener, accept_connections, open_listener
from relayd.edge.passed import PassedSockets
from relayd.edge.shared import Shared
from relayd.edge.stream import PlainStream
from relayd.edge.tally import Tally
from relayd.edge.timing import Timing
from relayd.edge.turns import Turns
from relayd.ops.capacity import System, beyond_memory, buffer_limit, limits_of, too_few_descriptors
from relayd.ops.events import (
    AdminListening,
    BuffersBounded,
    Capacity,
    DescriptorsMissing,
    Draining,
    Emit,
    Event,
    InternalError,
    LimitReached,
    Listening,
    Stopped,
)
from relayd.ops.production import refuse_limits, refuse_listener
from relayd.routing.binary import serve_binary
from relayd.routing.budget import Budget
from relayd.routing.heartbeat import Heartbeats
from relayd.routing.phone import serve_phone
from relayd.routing.registry import Refused, Registry
from relayd.settings import Settings
from relayd.values import Address
from relayd.wire.close import SHUTTING_DOWN
from relayd.wire.upgrade import BinaryHello, PhoneHello

if TYPE_CHECKING:
    from relayd.domains import Domains

__all__ = ["Relay", "import_domains"]

_ARRIVAL: Final = 1.0
"""Seconds that a drain waits for the requests of those who were let in just before it began."""


class Relay:
    """The whole relay but its signals: `serve` runs it, `drain` ends it.

    Tests run it in a nursery of theirs; `relayd.service` runs it as a process.
    """

    def __init__(self, settings: Settings, emit: Emit, passed: PassedSockets | None = None) -> None:
        """``passed`` are the sockets that ``fd:`` addresses among the settings stand for.

        Raises `relayd.edge.certificates.BadCertificate`, and `relayd.configuration.BadSetting` for what
        only shows when it is used.
        """
        #: In force for whatever begins from now on.
        self.settings = settings
        self._report = emit
        #: What has happened so far, in numbers.
        self.tally = Tally()
        self._system = System.here()
        #: How many there are, and may be.
        self.admission = Admission(limits_of(settings, self._system))
        timing: Timing | None = None
        if settings.metrics_listen:
            timing = Timing(self.tally.inside.observe, self.tally.round_trips.observe)
        #: What may be buffered, and what is.
        self.budget = Budget(buffer_limit(settings, self._system))
        self._shared = Shared(Turns(), self.budget, self.tally.pauses, self.emit, timing)
        #: Those that are open, closing handshakes included.
        self.connections: set[WebSocket] = set()
        # Of the open listeners.
        self._addresses: Sequence[Address] = ()
        self._started = trio.current_time()
        self._connection_ended = trio.lowlevel.ParkingLot()
        #: Whether the relay is about to end.
        self.draining = False
        self._passed = PassedSockets() if passed is None else passed
        #: Of accepting from passed sockets. That ends as a drain begins.
        self._passed_scopes: list[trio.CancelScope] = []
        #: Around all that `drain` ends.
        self._scope = trio.CancelScope()
        self._unfinished = 0
        self._ended = trio.Event()
        self.registry = Registry(
            grace=settings.grace,
            probe_timeout=settings.probe_timeout,
            max_phones=settings.max_phones,
            emit=self.emit,
        )
        files = (settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        self._certificates = Certificates(self.emit, files)
        self._domains: Domains | None = None
        if settings.domain:
            self._domains = import_domains()(settings, self._certificates, os.environ, self.emit)
        self._arrivals = Arrivals(self, self.admission, self._certificates, self.tally, self.emit)
        self._admin = Admin(self, self.emit)
        self._heartbeats = Heartbeats(interval=settings.heartbeat_interval, timeout=settings.heartbeat_timeout)

    async def serve(self, *, task_status: trio.TaskStatus[Sequence[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until `drain` has ended it. Started, it reports the addresses bound.

        Raises `relayd.edge.listener.CannotListen`, in a group if the listener fails later on, and
        `relayd.ops.production.NotForProduction` for a socket that was passed on.
        """
        try:
            await self._serve(task_status)
            if self._scope.cancelled_caught:
                # Behind whatever those had to say that were cut off.
                self.emit(Stopped(self._unfinished))
        finally:
            self._ended.set()

    async def _serve(self, task_status: trio.TaskStatus[Sequence[str]]) -> None:
        with ExitStack() as stack:
            listeners, of_challenges = await self._open_listeners(stack)
            admin = open_admin_socket(self.settings.admin_socket, self.emit)
            if admin is not None:
                stack.callback(admin.close)
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.registry.expire_graces)
                    nursery.start_soon(self._heartbeats.run)
                    nursery.start_soon(self._certificates.watch)
                    self._certificates.announce()
                    if self._domains is not None:
                        stack.callback(self._domains.close)
                        self._domains.restore()
                        nursery.start_soon(self._domains.serve, of_challenges)
                    for listener in listeners:
                        nursery.start_soon(self._accept, listener, nursery)
                        self.emit(Listening(str(listener.address), listener.passed_as))
                    if admin is not None:
                        nursery.start_soon(
                            accept_connections, admin, PlainStream, self._handle_admin, nursery, self.emit
                        )
                        self.emit(AdminListening(admin.address.path))
                    self.emit(BuffersBounded(self.budget.limit))
                    self._announce_limits()
                    for beyond in beyond_memory(self.settings, self._system):
                        self.emit(beyond)
                    self._addresses = [listener.address for listener in listeners]
                    task_status.started(self.listening)

    async def _open_listeners(self, stack: ExitStack) -> tuple[list[Listener], list[Listener]]:
        """Those of the relay, and those that only answer challenges; ``stack`` closes them."""
        settings = self.settings
        listeners: list[Listener] = []
        of_challenges: list[Listener] = []
        fds = {address.fd for address in settings.http_listen if address.fd}
        # Passed ones first, while no descriptor of ours can be taken for one.
        wanted = (*settings.listen, *settings.http_listen)
        for listener in self._passed.listeners(wanted, settings.metrics_listen):
            stack.callback(listener.close)
            (of_challenges if listener.passed_as in fds else listeners).append(listener)
        for listener in listeners:
            refuse_listener(settings.resolved(listener.address), settings)
        for flag, addresses, opened in (
            ("--listen", settings.listen, listeners),
            ("--http-listen", settings.http_listen, of_challenges),
        ):
            for address in addresses:
                if not address.fd:
                    listener = await open_listener(address, flag)
                    stack.callback(listener.close)
                    opened.append(listener)
        for listener in listeners:
            listener.address = settings.resolved(listener.address)
        return listeners, of_challenges

    async def drain(self, cause: str) -> None:
        """Close every connection with 1001, wait for them up to the drain timeout, and end `serve`.

        Meanwhile ``/healthz`` answers 503, and so does an upgrade. But no more is accepted from passed
        sockets: who dials them waits for the next process. Who was let in before gets his upgrade, and 1001.
        ``cause`` is for the log. If it is under way already, this does nothing.
        """
        if self.draining:
            return
        self.draining = True
        self.emit(Draining(cause, len(self.connections)))
        for connection in list(self.connections):
            connection.end(SHUTTING_DOWN)
        for scope in self._passed_scopes:
            scope.cancel()
        with trio.move_on_after(self.settings.drain_timeout):
            if self._passed_scopes:
                await self._let_arrive()
            while self.connections:
                await self._connection_ended.park()
        self._unfinished = len(self.connections)
        self._scope.cancel()
        await self._ended.wait()

    @property
    def refusing(self) -> bool:
        """Whether upgrades are refused."""
        return self.draining and not self._passed_scopes

    @property
    def listening(self) -> Sequence[str]:
        """The addresses of the open listeners."""
        return list(map(str, self._addresses))

    def consider(self, settings: Settings) -> None:
        """Raises `relayd.ops.production.NotForProduction` if they would not do for a start on our listeners."""
        refuse_limits(settings, self._system)
        for address in self._addresses:
            refuse_listener(address, settings)

    def apply(self, settings: Settings) -> None:
        """Go on with ``settings``, of which only those may differ that can change while running.

        Certificates are read again.
        """
        known = set(beyond_memory(self.settings, self._system))
        self.settings = settings
        self._certificates.reload()
        self.registry.apply(probe_timeout=settings.probe_timeout, max_phones=settings.max_phones)
        self.budget.limit = buffer_limit(settings, self._system)
        self.budget.relieve()
        limits = limits_of(settings, self._system)
        if limits != self.admission.limits:
            self.admission.apply(limits)
            self._announce_limits()
        for beyond in beyond_memory(settings, self._system):
            if beyond not in known:
                self.emit(beyond)

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return trio.current_time() - self._started

    @property
    def certificate_end(self) -> float | None:
        """When the first certificate ends, in seconds since 1970; 0 while one is missing, None without TLS."""
        if self._domains is not None and not self._domains.complete:
            return 0.0
        return self._certificates.soonest_end

    def readiness(self) -> Mapping[str, Any]:
        """The document of ``/readyz``."""
        # Who asks has got through to a listener, and all of them are open before the first one accepts.
        status = "draining" if self.draining else "ok"
        return {"status": status, "version": __version__, "uptime_seconds": int(self.uptime)}

    def refusal(self, caller: Caller) -> Refusal | None:
        """Count that ``caller`` asks for an upgrade; why he may not have it, if so."""
        refusal = self.admission.attempt(caller.key, trio.current_time())
        if refusal is not None:
            self.emit(LimitReached(refusal.bound, str(caller.client)))
        return refusal

    def health(self) -> Mapping[str, Any]:
        """The document of ``/healthz`` (contract: "Endpoints")."""
        return {
            "status": "draining" if self.draining else "ok",
            "version": __version__,
            "connected_binaries": self.registry.connected_binaries,
            "connected_phones": self.registry.connected_phones,
            "uptime_seconds": int(self.uptime),
        }

    def answered(self, endpoint: Endpoint, status: int) -> None:
        """Count a request's answer."""
        self.tally.requests[endpoint, status] += 1

    def emit(self, event: Event) -> None:
        """Count ``event`` and report it."""
        self.tally.count(event)
        self._report(event)

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        with trio.CancelScope() as scope:
            if listener.passed_as:
                self._passed_scopes.append(scope)
                if self.draining:
                    scope.cancel()
            let_in = partial(self._arrivals.let_in, listener.address)
            await accept_connections(listener, let_in, self._handle, nursery, self.emit)
        listener.close()

    async def _let_arrive(self) -> None:
        # One turn for those who accept, and one for what they accepted last.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(_ARRIVAL):
            while self.admission.handshakes:
                await self._connection_ended.park()

    async def _handle(self, newcomer: Newcomer) -> None:
        """One connection, from its first byte to its last. Nothing that goes wrong in it gets out."""
        try:
            await self._serve_connection(newcomer)
        except* NeverOpened:
            pass
        except* Exception as errors:  # noqa: BLE001 (one bug must not cost every connection)
            self.emit(InternalError.of(str(newcomer.peer), errors))
        finally:
            newcomer.stream.close()

    async def _handle_admin(self, stream: PlainStream) -> None:
        try:
            await self._admin.handle(stream)
        except* Exception as errors:  # noqa: BLE001 (nor may one here)
            self.emit(InternalError.of("admin", errors))

    async def _serve_connection(self, newcomer: Newcomer) -> None:
        try:
            arrived = await self._arrivals.receive(newcomer, self.settings)
        finally:
            if self.draining:
                self._connection_ended.unpark_all()
        if arrived is not None:
            remote, key, hello = str(arrived.client), arrived.key, arrived.upgrade.hello
            connection = WebSocket(arrived.stream, remote, arrived.upgrade, self.settings, self._shared)
            # It has what came with the head, and lets go of it before its life is over.
            del arrived
            with self.admission.connected(key), self._tracked(connection):
                async with connection.opened():
                    await self._route(connection, hello)

    def _announce_limits(self) -> None:
        limits, system = self.admission.limits, self._system
        self.emit(Capacity(limits.connections, limits.handshakes, system.descriptors, system.memory))
        missing = too_few_descriptors(limits, system)
        if missing:
            self.emit(DescriptorsMissing(missing))

    @contextmanager
    def _tracked(self, connection: WebSocket) -> Iterator[None]:
        """Let `drain` know of ``connection`` until it is closed for good."""
        self.connections.add(connection)
        if self.draining:
            connection.end(SHUTTING_DOWN)
        try:
            yield
        finally:
            self.connections.remove(connection)
            self.tally.count_ended(connection)
            self._connection_ended.unpark_all()

    async def _route(self, connection: WebSocket, hello: BinaryHello | PhoneHello) -> None:
        registry, heartbeats = self.registry, self._heartbeats
        try:
            if isinstance(hello, BinaryHello):
                await serve_binary(connection, hello, registry=registry, heartbeats=heartbeats, emit=self.emit)
            else:
                await serve_phone(connection, hello, registry=registry, heartbeats=heartbeats)
        except Refused as refusal:
            connection.end(refusal.close)


def import_domains() -> "type[Domains]":
    """`relayd.domains.Domains`. Raises `BadSetting` if what it takes is not installed."""
    try:
        # Two thirds of an idle relay's memory again, for those alone who set it.
        from relayd.domains import Domains
    except ModuleNotFoundError as missing:
        raise BadSetting(
            f"domain: takes the module {missing.name}, which is not installed; install relayd with its extra: "
            "pip install 'relayd-VERSION.whl[acme]'"
        ) from None
    return Domains
