"""The relay's answers in HTTP: /healthz, the upgrade, and what it refuses."""

import base64
import json
import secrets
from collections.abc import Mapping
from typing import Final

import h11
import trio
from attrs import frozen

from relayd import __version__
from relayd.doctor.findings import Failed, Finding, Patience, Status, TooOften, within
from relayd.doctor.reach import opened
from relayd.doctor.target import Plan

__all__ = [
    "BINARY",
    "PHONE",
    "check_extras",
    "check_headers",
    "check_health",
    "check_upgrade",
    "new_server_id",
    "refused",
]

USER_AGENT: Final = f"relayd-doctor/{__version__}"

BINARY: Final[Mapping[str, str]] = {"user-agent": USER_AGENT, "x-pyrycode-version": __version__}
"""What a binary's upgrade needs beside its server-id."""

PHONE: Final[Mapping[str, str]] = {"user-agent": USER_AGENT, "x-pyrycode-token": "doctor"}
"""What a phone's upgrade needs beside its server-id."""

_LEGS: Final = (("/v1/server", BINARY), ("/v1/client", PHONE))

MAX_BODY: Final = 65536

_SILENT: Final = (
    "does the relay listen there, or something that waits for another protocol, such as TLS (wss://)?"
)

_ADVICE: Final = {
    301: "dial the address that it redirects to",
    302: "dial the address that it redirects to",
    307: "dial the address that it redirects to",
    308: "dial the address that it redirects to",
    400: "so a relay refuses what lacks a header: does a proxy remove x-pyrycode- headers or user-agent?",
    401: "something in front of the relay wants a password: let it pass /v1/ without one",
    403: "a rule of a firewall or proxy in front of the relay keeps this address or path out, or relayd is not "
    "told who is calling: then its log has proxy_refused",
    404: "the path: does the proxy pass /v1/ on? relayd knows no prefix, so the proxy must take it away",
    405: "a proxy in between has changed the method: it must pass the upgrade on as it is",
    426: "the proxy does not pass the upgrade on: it must speak HTTP/1.1 and forward Connection and Upgrade",
    502: "the proxy does not reach the relay: is relayd running, and at the address that the proxy has?",
    503: "the relay drains or is full, or a proxy knows no healthy one: does its /healthz say 200?",
    504: "the proxy gets no answer from the relay in time: is relayd running, and its address right?",
}


@frozen
class Answer:
    """A response. ``headers`` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    took: float
    """Seconds from the dial on."""

    @property
    def shown(self) -> str:
        """The status and who says it."""
        return _shown(self.status, self.headers.get("server"))


def new_server_id() -> str:
    """A server-id that nobody else has."""
    return f"doctor-{secrets.token_urlsafe(16)}"


def refused(status: int, server: str | None, retry_after: str | None, path: str) -> Failed:
    """For an upgrade to ``path`` that was answered with another status than 101, and with these headers."""
    if status == 429:
        return TooOften(retry_after)
    if 500 <= status < 600:
        advice = _ADVICE.get(status, "look at the log of what answers there, and of relayd")
    else:
        advice = _ADVICE.get(status, "what answers there is no relay: is it the right host, port and path?")
    return Failed(f"{path} answers {_shown(status, server)} instead of 101", advice)


async def check_health(plan: Plan) -> Finding:
    """What /healthz says, which is no more than load balancers see."""
    path = plan.target.prefix + "/healthz"
    answer = await _ask(plan, path, {"user-agent": USER_AGENT})
    if answer.status in (401, 403, 404):
        return Finding(
            f"{path} answers {answer.shown}",
            Status.WARN,
            "if it is not kept from strangers on purpose, have the proxy pass it on",
        )
    try:
        said = json.loads(answer.body)
        state = said["status"]
        counts = f"{said['connected_binaries']} binaries, {said['connected_phones']} phones"
        seen = (
            f'{answer.status} "{state}", version {said["version"]}, {counts}, up {said["uptime_seconds"]:.0f} s'
        )
    except (ValueError, KeyError, TypeError):
        raise Failed(
            f"{path} answers {answer.shown}, without the five members that a relay gives",
            _ADVICE.get(answer.status, "does a proxy answer there itself?"),
        ) from None
    if answer.status != 200 or state != "ok":
        raise Failed(seen, "the relay drains: it takes nobody in before it has been started again")
    if "no-store" not in answer.headers.get("cache-control", ""):
        return Finding(
            seen, Status.WARN, "without Cache-Control: no-store, a cache in between may answer instead"
        )
    return Finding(seen)


async def check_upgrade(plan: Plan) -> Finding:
    """Whether a phone's upgrade gets through to a relay."""
    path = plan.target.prefix + "/v1/client"
    answer = await _ask(plan, path, {**_UPGRADE, **PHONE, "x-pyrycode-server": new_server_id()})
    if answer.status != 101:
        raise refused(answer.status, answer.headers.get("server"), None, path)
    if "permessage-deflate" in answer.headers.get("sec-websocket-extensions", ""):
        raise Failed("compression is on, unasked", "no compression may be negotiated: turn it off in the proxy")
    return Finding(f"{path} answers 101, {answer.took * 1000:.1f} ms after the dial began")


async def check_headers(plan: Plan) -> Finding:
    """Whether each header that must be there is missed."""
    admitted = []
    for path, headers in _LEGS:
        complete = {"x-pyrycode-server": new_server_id(), **headers}
        for missing in complete:
            rest = {name: value for name, value in complete.items() if name != missing}
            answer = await _ask(plan, plan.target.prefix + path, {**_UPGRADE, **rest})
            if answer.status == 101:
                admitted.append((path, missing))
            elif answer.status != 400:
                raise Failed(
                    f"{path} without {missing} answers {answer.shown} instead of 400",
                    "a relay looks at the headers before anything else: what in front of it answers here?",
                )
    wrong = [f"{path} without {name}" for path, name in admitted if name != "x-pyrycode-token"]
    if wrong:
        raise Failed(
            "admitted: " + ", ".join(wrong),
            "a relay must answer 400; for user-agent, see whether a proxy in between adds one",
        )
    if admitted:
        return Finding(
            "400 for each header that is missing, but for the token, which this relay does not ask for"
        )
    return Finding("400 for each of 6 headers that is missing")


async def check_extras(plan: Plan) -> Finding:
    """What relayd does beyond the protocol; no relay must."""
    phone = {**_UPGRADE, **PHONE}
    newer = await _ask(plan, plan.target.prefix + "/v2/client", {**phone, "x-pyrycode-server": new_server_id()})
    longer = await _ask(plan, plan.target.prefix + "/v1/client", {**phone, "x-pyrycode-server": "x" * 129})
    has = [
        what
        for what, there in (
            ("/v2/ names", newer.status == 101),
            ("a bound of 128 bytes for server-ids", longer.status == 400),
        )
        if there
    ]
    return Finding(f"beyond the protocol, this relay has {' and '.join(has) or 'nothing that was looked for'}")


_UPGRADE: Final[Mapping[str, str]] = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": base64.b64encode(secrets.token_bytes(16)).decode(),
}


async def _ask(plan: Plan, path: str, headers: Mapping[str, str]) -> Answer:
    """GET ``path``, again and again if the relay says that it is too often. Raises Failed."""
    patience = Patience(plan.timeout)
    while (answer := await _ask_once(plan, path, headers)).status == 429:
        await patience.wait(TooOften(answer.headers.get("retry-after")))
    return answer


async def _ask_once(plan: Plan, path: str, headers: Mapping[str, str]) -> Answer:
    """GET ``path``; the connection is closed after the answer's head (101) or body. Raises Failed."""
    start = trio.current_time()
    fields = [("host", plan.target.authority), *headers.items()]
    if "connection" not in headers:
        fields.append(("connection", "close"))
    parser = h11.Connection(h11.CLIENT)
    request = parser.send(h11.Request(method="GET", target=path, headers=fields)) or b""
    head: h11.Response | h11.InformationalResponse | None = None
    body = b""
    said_something = False
    async with opened(plan) as stream:
        with within(plan.timeout, f"{path}: no answer", _SILENT):
            try:
                await stream.send_all(request + (parser.send(h11.EndOfMessage()) or b""))
                while len(body) <= MAX_BODY:
                    event = parser.next_event()
                    if event is h11.NEED_DATA:
                        data = await stream.receive_some(4096)
                        said_something |= bool(data)
                        parser.receive_data(bytes(data))
                    elif isinstance(event, h11.Data):
                        body += event.data
                    elif isinstance(event, h11.Response):
                        head = event
                    elif isinstance(event, h11.InformationalResponse):
                        if event.status_code == 101:
                            head = event
                            break
                    else:
                        break
            except h11.RemoteProtocolError:
                if said_something and head is None:
                    raise Failed(
                        f"{path}: what answers there does not speak HTTP/1.1",
                        "is it the right port? If it wants TLS, dial wss://",
                    ) from None
            except trio.BrokenResourceError:
                pass  # as good as the end, below
    if head is None:
        raise Failed(
            f"{path}: the connection ended without an answer",
            "look at the log of what listens there; if it wants TLS, dial wss://; "
            "if it wants a PROXY header, dial the proxy that sends one",
        )
    shown = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    return Answer(head.status_code, shown, body, trio.current_time() - start)


def _shown(status: int, server: str | None) -> str:
    return f"{status} (Server: {server})" if server else f"{status} (no Server header)"
