"""The admin socket: what an operator may see of the relay, and do to it.

HTTP/1.1 and JSON on a unix socket, one request per connection, for root and for the user that relayd
runs as. `docs/operations.md` has the requests. It stands beside `relayd.edge.http`, since it is another
way for bytes to arrive, and it needs to see connections, which `relayd.ops` may not.
"""

import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, Protocol
from urllib.parse import unquote

import msgspec
import trio
from attrs import fields

from relayd import __version__
from relayd.edge.admission import Admission
from relayd.edge.connection import WebSocket
from relayd.edge.descriptors import descriptor_limit, open_descriptors
from relayd.edge.listener import CannotListen, Listener, open_private_listener
from relayd.edge.request import JSON_HEADERS, Answer, Request, encode_head, hang_up, read_request, send_answer
from relayd.edge.stream import PlainStream
from relayd.edge.tally import Traffic
from relayd.edge.watched import Watched
from relayd.ops.events import (
    AdminUnavailable,
    Emit,
    LimitReached,
    OperatorClosed,
    OperatorEvicted,
    RequestRefused,
)
from relayd.routing.connection import Connection
from relayd.routing.slot import Phone, Slot
from relayd.setting import flag_of, shown
from relayd.settings import DEFAULT_ADMIN_SOCKET, Settings
from relayd.wire.close import BY_OPERATOR

__all__ = ["Admin", "Operated", "open_admin_socket"]

_TIMEOUT: Final = 30.0
"""Seconds for a request and its whole answer: 20,000 connections are listed in less than one."""

_MOST_CONNECTIONS: Final = 32
"""Served at a time. One more is closed at once: whoever may connect here has no use for so many."""

_PER_TURN: Final = 64
"""Connections listed before other tasks have their turn, which takes less than half a millisecond."""


class Operated(Watched, Protocol):
    """What the admin socket needs of the relay."""

    @property
    def listening(self) -> Sequence[str]:
        """The addresses of the open listeners."""

    @property
    def uptime(self) -> float:
        """Seconds since the start."""

    async def drain(self, cause: str) -> None:
        """Close every connection and end the relay; nothing if that is under way."""


def open_admin_socket(setting: str, emit: Emit) -> Listener | None:
    """Open what ``--admin-socket`` says; None if it is off.

    Raises `relayd.edge.listener.CannotListen` for a path that somebody chose. The default one may be
    another relay's, and to try relayd out beside that is no mistake: it costs a warning.
    """
    if setting == "off":
        return None
    if setting != "auto":
        return open_private_listener(setting, "--admin-socket")
    if not os.access(os.path.dirname(DEFAULT_ADMIN_SOCKET), os.W_OK | os.X_OK):
        return None
    try:
        return open_private_listener(DEFAULT_ADMIN_SOCKET, "--admin-socket")
    except CannotListen as failure:
        emit(AdminUnavailable(DEFAULT_ADMIN_SOCKET, str(failure)))
    return None


class Admin:
    """Answers requests at the admin socket; `handle` is for `relayd.edge.listener.accept_connections`."""

    def __init__(self, relay: Operated, emit: Emit) -> None:
        self._relay = relay
        self._emit = emit
        self._open = 0

    async def handle(self, stream: PlainStream) -> None:
        """One connection, from its request to its answer. Closes it in the turn in which this returns."""
        if self._open >= _MOST_CONNECTIONS:
            stream.close()
            self._emit(LimitReached("operators", "admin"))
            return
        self._open += 1
        try:
            async with trio.open_nursery() as nursery:
                with trio.move_on_after(_TIMEOUT), suppress(trio.BrokenResourceError):
                    await self._serve(stream, nursery)
        finally:
            self._open -= 1
            # Without a checkpoint: its descriptor may be the reserve's.
            stream.close()

    async def _serve(self, stream: PlainStream, nursery: trio.Nursery) -> None:
        """Raises `trio.BrokenResourceError`. What takes longer than the answer goes on in ``nursery``."""
        timeout = self._relay.settings.handshake_timeout
        try:
            uid = _peer_uid(stream)
            if uid not in (0, os.geteuid()):
                raise Answer(403)
            request = await read_request(stream, trio.current_time() + timeout)
            if request is not None:
                await self._obey(request, uid, stream, nursery)
        except Answer as answer:
            await send_answer(stream, timeout, answer)
            if answer.status >= 400:
                self._emit(RequestRefused("admin", answer.status))

    async def _obey(self, request: Request, uid: int, stream: PlainStream, nursery: trio.Nursery) -> None:
        """Raises `Answer`, or has answered."""
        path = request.head.target.partition(b"?")[0].decode("ascii", "replace")
        match request.head.method, [unquote(part) for part in path.split("/")[1:]]:
            case b"GET", ["status"]:
                raise Answer.document(200, await self._status())
            case b"GET", ["connections"]:
                await stream.send_all(encode_head(200, JSON_HEADERS, None))
                for piece in _in_turns(self._listed()):
                    await stream.send_all(piece)
                await hang_up(stream)
            case b"POST", ["connections", conn_id, "close"]:
                raise self._close(conn_id, uid)
            case b"POST", ["servers", server_id, "evict"]:
                raise self._evict(server_id, uid)
            case b"POST", ["drain"]:
                answer = Answer.document(202, self._drain_begins())
                await stream.send_all(encode_head(202, answer.headers, len(answer.body)) + answer.body)
                # Not before the answer has gone out: with nobody connected, it is over at once.
                nursery.start_soon(self._relay.drain, "admin")
                await hang_up(stream)
            case _, ["status"] | ["connections"]:
                raise Answer.not_allowed()
            case _, ["drain"] | ["connections", _, "close"] | ["servers", _, "evict"]:
                raise Answer.not_allowed(b"POST")
            case _:
                raise Answer.document(404, {"error": "no such request"})

    def _close(self, conn_id: str, uid: int) -> Answer:
        found = self._relay.registry.find_phone(conn_id)
        if found is None:
            return Answer.document(404, {"error": "no phone has that conn_id; `relayd top` shows them all"})
        slot, phone = found
        self._emit(OperatorClosed(slot.server_id, conn_id, uid))
        phone.connection.end(BY_OPERATOR)
        return Answer.document(200, {"server_id": slot.server_id, "remote": phone.connection.remote})

    def _evict(self, server_id: str, uid: int) -> Answer:
        phones = self._relay.registry.evict(server_id)
        if phones is None:
            return Answer.document(404, {"error": "nobody holds that server-id; `relayd top` shows them all"})
        self._emit(OperatorEvicted(server_id, phones, uid))
        return Answer.document(200, {"phones": phones})

    def _drain_begins(self) -> dict[str, Any]:
        relay = self._relay
        return {
            "connections": len(relay.connections),
            "drain_timeout_seconds": relay.settings.drain_timeout,
            "already_draining": relay.draining,
        }

    async def _status(self) -> dict[str, Any]:
        """The document of ``/status``. It adds up everybody, in turns."""
        relay = self._relay
        # Those that end from now on are in this list, and not in these totals.
        carried, connections = Traffic(relay.tally.ended), list(relay.connections)
        accepted = sum(count for (_, status), count in relay.tally.requests.items() if status == 101)
        while batch := connections[-_PER_TURN:]:
            del connections[-_PER_TURN:]
            for connection in batch:
                carried.add(connection)
            await trio.lowlevel.checkpoint()
        registry, settings = relay.registry, relay.settings
        return {
            "version": __version__,
            "pid": os.getpid(),
            "state": "draining" if relay.draining else "serving",
            "uptime_seconds": round(relay.uptime, 3),
            "listeners": relay.listening,
            "connected": {
                "binaries": registry.connected_binaries,
                "phones": registry.connected_phones,
                "connections": len(relay.connections),
            },
            "in_grace": registry.graces,
            "descriptors": {"open": open_descriptors(), "limit": descriptor_limit()},
            "buffered": {
                "bytes": relay.budget.used,
                "limit_bytes": relay.budget.limit,
                "connections_closed": relay.tally.buffers_full.total(),
                "connections_paused": relay.tally.pauses.under_way,
            },
            "limits": _limits(relay.admission, relay.tally.limited),
            "totals": {"connections": accepted, **_summed(carried)},
            "settings": {
                flag_of(attribute.name): shown(value)
                for attribute in fields(Settings)
                if (value := getattr(settings, attribute.name)) != attribute.default
            },
        }

    def _listed(self) -> Iterator[bytes]:
        """The document of ``/connections``, about a connection at a time."""
        relay = self._relay
        yield b'{"uptime_seconds":%.3f,"servers":[' % relay.uptime
        for number, (slot, grace_end) in enumerate(relay.registry.slots()):
            server = msgspec.json.encode(_server(slot, grace_end))
            # Open again for its phones.
            yield (b"," if number else b"") + server.removesuffix(b"]}")
            for index, phone in enumerate(list(slot.phones.values())):
                yield (b"," if index else b"") + msgspec.json.encode(_phone(phone))
            yield b"]}"
        yield b"]}"


def _in_turns(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """``pieces``, as many at once as one turn may take."""
    while batch := list(islice(pieces, _PER_TURN)):
        yield b"".join(batch)


def _limits(admission: Admission, limited: Mapping[str, int]) -> dict[str, Any]:
    """What there is of each now, and may be, and who was turned away."""
    limits = admission.limits
    return {
        "connections": {"now": admission.connections, "limit": limits.connections},
        "connections_per_address": {
            "most": admission.most_connections,
            "limit": limits.connections_per_address,
        },
        "handshakes": {"now": admission.handshakes, "limit": limits.handshakes},
        "handshakes_per_address": {"most": admission.most_handshakes, "limit": limits.handshakes_per_address},
        "upgrade_rate": {
            "addresses": admission.addresses,
            "per_minute": limits.upgrade_rate,
            "burst": limits.upgrade_burst,
        },
        "turned_away": dict(limited),
    }


def _summed(carried: Traffic) -> dict[str, int]:
    frames, sizes = carried.frames, carried.bytes
    return {
        "frames_in": frames["from_binary"] + frames["from_phone"],
        "bytes_in": sizes["from_binary"] + sizes["from_phone"],
        "frames_out": frames["to_binary"] + frames["to_phone"],
        "bytes_out": sizes["to_binary"] + sizes["to_phone"],
    }


def _server(slot: Slot, grace_end: float | None) -> dict[str, Any]:
    binary = slot.binary
    return {
        "server_id": slot.server_id,
        "grace_seconds_left": None if grace_end is None else round(grace_end - trio.current_time(), 3),
        "binary": None if binary is None else {"version": slot.version, **_connection(binary)},
        "phones": [],
    }


def _phone(phone: Phone) -> dict[str, Any]:
    return {"conn_id": phone.conn_id, "device_name": phone.device_name, **_connection(phone.connection)}


def _connection(connection: Connection) -> dict[str, Any]:
    assert isinstance(connection, WebSocket)
    round_trip = connection.round_trip
    return {
        "remote": connection.remote,
        "age_seconds": round(trio.current_time() - connection.since, 3),
        "round_trip_seconds": None if round_trip is None else round(round_trip, 6),
        "backlog_bytes": connection.outbox.charge,
        "frames_in": connection.inbox.received_count,
        "bytes_in": connection.inbox.received_bytes,
        "frames_out": connection.outbox.delivered,
        "bytes_out": connection.outbox.sent_bytes,
    }


def _peer_uid(stream: PlainStream) -> int:
    """The user whose process connected (SO_PEERCRED of unix(7))."""
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    uid: int = struct.unpack("iII", credentials)[1]
    return uid
