"""HTTP to a CA that can neither take for ever nor send without end.

What requests and urllib3 call a timeout is for each wait for bytes, and they have no bound for how many
come. Here both are bounded where all that a CA sends has to come through, its status lines, headers,
redirects and bodies alike: in the socket.
"""

import ssl
import time
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["BoundedTls", "bound"]


class _Socket(ssl.SSLSocket):
    """A connection of a `BoundedTls`."""

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int | None = None, flags: int = 0) -> int:
        """What http.client reads everything by. Raises TimeoutError or OSError beyond the bounds."""
        tls = self.context
        assert isinstance(tls, BoundedTls)
        seconds_left = tls.ends - time.monotonic()
        if seconds_left <= 0:
            raise TimeoutError
        if tls.bytes_left <= 0:
            raise OSError("too much")
        self.settimeout(min(self.gettimeout() or seconds_left, seconds_left))
        size = super().recv_into(buffer, nbytes, flags)
        tls.bytes_left -= size
        return size


class BoundedTls(ssl.SSLContext):
    """TLS that verifies whom it speaks to; nothing is received before `begin`.

    Made with `ssl.PROTOCOL_TLS_CLIENT`. It trusts nobody until it is told whom.
    """

    sslsocket_class = _Socket
    #: Until when there may be bytes, by the monotonic clock, and how many more.
    ends = 0.0
    bytes_left = 0

    def begin(self, seconds: float, size: int) -> None:
        """From now on: receive for so many ``seconds``, and ``size`` bytes, over all connections."""
        self.ends = time.monotonic() + seconds
        self.bytes_left = size


def bound(session: requests.Session) -> BoundedTls:
    """Have ``session`` speak HTTPS within bounds, and nothing else; what sets them.

    A response that is compressed is refused, by `requests.exceptions.ContentDecodingError`: a few bytes of
    it may be any number of others.
    """
    tls = BoundedTls(ssl.PROTOCOL_TLS_CLIENT)
    session.adapters.clear()
    session.mount("https://", _Adapter(tls))
    session.headers["Accept-Encoding"] = "identity"
    session.hooks["response"].append(_refuse_compressed)
    return tls


class _Adapter(HTTPAdapter):
    def __init__(self, tls: BoundedTls) -> None:
        self._tls = tls
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._tls, **kwargs)


def _refuse_compressed(response: requests.Response, *args: object, **kwargs: object) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        response.close()
        raise requests.exceptions.ContentDecodingError
