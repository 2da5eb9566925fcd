"""A stream to the relay: address, connection, TLS."""

import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import trio

from relayd.doctor.findings import Failed, Finding, Status, within
from relayd.doctor.target import Plan

__all__ = ["Stream", "check_address", "check_connection", "check_tls", "opened"]

Stream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]

RENEW_DAYS: Final = 21
"""Certificates of 90 days are renewed 30 before their end: with less than this, nobody renews it."""

_FIREWALL: Final = "does a firewall drop packets to this port, and is this the right address?"

_REFUSALS: Final = {
    errno.ECONNREFUSED: (
        "nobody listens there",
        "is the relay running, and on this address? Without --listen it is on 127.0.0.1:8080 only",
    ),
    errno.ETIMEDOUT: ("no answer", _FIREWALL),
    errno.EHOSTUNREACH: ("no way to that host", "is the host up, and is there a route to it?"),
    errno.ENETUNREACH: (
        "no way to that network",
        "has this machine a network, and IPv6 if the address is one?",
    ),
}

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module has no name for.
_NO_CHECK_TIME: Final = 0x200000

_ADVICE: Final = {
    # By number of X509_V_ERR_…: the words are OpenSSL's and change.
    9: "the certificate is not valid yet: is this machine's clock right, and the server's when it was made?",
    10: "renew the certificate, and have the server that holds it read it again",
    18: "it is signed by itself: get one from an authority, or give the certificate with --ca-file",
    19: "its authority is not among those that this machine trusts: give it with --ca-file",
    20: "send the whole chain (fullchain.pem, not cert.pem); for an authority of your own, give --ca-file",
    21: "send the whole chain (fullchain.pem, not cert.pem); for an authority of your own, give --ca-file",
    62: "dial a name that is in the certificate, or get one for this name",
    64: "dial a name that is in the certificate, or get one for this address",
}


async def check_address(plan: Plan) -> Finding:
    """Name to addresses."""
    host = plan.target.host
    try:
        with within(plan.timeout, f"no answer for {host} from the name servers", "is DNS reachable from here?"):
            found = await trio.socket.getaddrinfo(host, plan.target.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a name that DNS can hold"
        raise Failed(
            f"{host}: {reason}", "is the name spelled right, and does it have an A or AAAA record?"
        ) from None
    return Finding(", ".join(sorted({str(address[0]) for *_, address in found})))


async def check_connection(plan: Plan) -> Finding:
    """TCP."""
    start = trio.current_time()
    stream = await _connected(plan)
    took = trio.current_time() - start
    async with stream:
        return Finding(f"{stream.socket.getpeername()[0]} port {plan.target.port} in {took * 1000:.1f} ms")


async def check_tls(plan: Plan) -> Finding:
    """TLS and the certificate. Without TLS: whether that is all right."""
    if not plan.target.secure:
        if plan.target.loopback:
            return Finding("plain ws:// on this machine", Status.SKIP)
        return Finding(
            "plain ws:// over a network: who listens on the way sees tokens and server-ids",
            Status.WARN,
            "put a proxy with a certificate in front of the relay, and dial wss://",
        )
    async with await _secured(plan, await _connected(plan)) as stream:
        version = stream.version()
        certificate: dict[str, Any] = stream.getpeercert()  # verified, so it is there
    left = (ssl.cert_time_to_seconds(certificate["notAfter"]) - datetime.now(UTC).timestamp()) / 86400
    seen = f"{version}, {_described(certificate)}, {left:.0f} days left"
    if left < RENEW_DAYS:
        return Finding(seen, Status.WARN, "renew the certificate: what renews it by itself has not done so")
    return Finding(seen)


@asynccontextmanager
async def opened(plan: Plan) -> AsyncIterator[Stream]:
    """A stream to the relay, with TLS if its URL says so, for the body. Raises Failed."""
    stream: Stream = await _connected(plan)
    if plan.target.secure:
        stream = await _secured(plan, stream)
    try:
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


async def _connected(plan: Plan) -> trio.SocketStream:
    where = f"{plan.target.host} port {plan.target.port}"
    try:
        with within(plan.timeout, f"{where}: no connection", _FIREWALL):
            return await trio.open_tcp_stream(plan.target.host, plan.target.port)
    except OSError as error:
        cause: BaseException | None = error
        if error.errno is None and error.__cause__ is not None:  # trio's summary of several attempts
            cause = error.__cause__
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
        number = cause.errno if isinstance(cause, OSError) else None
        seen, advice = _REFUSALS.get(number or 0, (str(cause), "is this machine's network as it should be?"))
        raise Failed(f"{where}: {seen}", advice) from None


async def _secured(plan: Plan, raw: Stream) -> trio.SSLStream[trio.SocketStream]:
    assert isinstance(raw, trio.SocketStream)
    stream = trio.SSLStream(raw, plan.tls, server_hostname=plan.target.host, https_compatible=True)
    silent = "is this the port for wss://? What listens there takes the connection and says nothing"
    try:
        with within(plan.timeout, "no TLS handshake", silent):
            await stream.do_handshake()
    except trio.BrokenResourceError as broken:
        await trio.aclose_forcefully(stream)
        if isinstance(broken.__cause__, ssl.SSLCertVerificationError):
            raise await _distrusted(plan, broken.__cause__) from None
        raise _no_tls(broken.__cause__) from None
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _no_tls(cause: BaseException | None) -> Failed:
    reason = cause.reason if isinstance(cause, ssl.SSLError) else None
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return Failed(
            "what answers there does not speak TLS",
            "relayd itself speaks plain ws://: dial the port of the proxy that holds the certificate, or ws://",
        )
    if reason is None or "EOF" in reason:
        return Failed(
            "the connection ended in the TLS handshake",
            "look at the log of what listens there: has it a certificate for this name?",
        )
    return Failed(
        f"TLS: {reason.lower().replace('_', ' ')}",
        "the other side and this one have no TLS in common: it should offer TLS 1.2 or 1.3",
    )


async def _distrusted(plan: Plan, error: ssl.SSLCertVerificationError) -> Failed:
    advice = _ADVICE.get(error.verify_code, "have a certificate that this machine can verify")
    presented = await _presented(plan)
    seen = error.verify_message.rstrip(".")
    return Failed(f"{seen}: {_described(presented)}" if presented else seen, advice)


async def _presented(plan: Plan) -> dict[str, Any] | None:
    """What certificate is shown by a server that is not trusted.

    The ssl module decodes only what it has verified. So the certificate is fetched, and then verified
    against itself, at no particular time. Nothing is sent on either connection.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with trio.fail_after(plan.timeout):
            async with await trio.open_tcp_stream(plan.target.host, plan.target.port) as raw:
                encoded = await _certificate(raw, context, plan.target.host, binary=True)
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
            context.load_verify_locations(cadata=encoded)
            async with await trio.open_tcp_stream(plan.target.host, plan.target.port) as raw:
                decoded: dict[str, Any] = await _certificate(raw, context, plan.target.host, binary=False)
                return decoded
    except (OSError, trio.BrokenResourceError, trio.TooSlowError):
        return None


async def _certificate(raw: trio.SocketStream, context: ssl.SSLContext, host: str, *, binary: bool) -> Any:
    stream = trio.SSLStream(raw, context, server_hostname=host, https_compatible=True)
    await stream.do_handshake()
    return stream.getpeercert(binary_form=binary)


def _described(certificate: dict[str, Any]) -> str:
    names = ", ".join(value for _, value in certificate.get("subjectAltName", ())) or "no names"
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    subject, issuer = _shortened(certificate["subject"]), _shortened(certificate["issuer"])
    return f"certificate of {subject} for {names}, by {issuer}, until {until:%Y-%m-%d}"


def _shortened(name: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    parts = {key: value for relative in name for key, value in relative}
    return parts.get("commonName") or parts.get("organizationName") or "nobody named"
