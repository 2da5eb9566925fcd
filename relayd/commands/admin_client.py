"""Ask a running relayd, at its admin socket (`relayd.edge.admin`)."""

import argparse
import http.client
import json
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from relayd.commands import Unanswered
from relayd.configuration import load
from relayd.flags import add_settings, given
from relayd.settings import DEFAULT_ADMIN_SOCKET

__all__ = ["Unanswered", "ask", "configure_socket", "socket_path"]

_TIMEOUT: Final = 10.0
"""Seconds without a byte from the daemon."""

_MEANWHILE: Final = 0.05
"""Seconds from one look at what else there is to do to the next."""


def configure_socket(parser: argparse.ArgumentParser) -> None:
    """Take the flags that lead to the admin socket."""
    add_settings(parser, only=("admin_socket",))


def socket_path(options: argparse.Namespace) -> str:
    """Where relayd with the same flags, variables and file has its admin socket.

    Raises `relayd.configuration.BadSetting`, or `Unanswered` if it has none.
    """
    loaded = load(given(options), os.environ)
    path = loaded.settings.admin_socket
    if path == "off":
        source = loaded.sources["admin_socket"]
        raise Unanswered(f"the admin socket is off ({source}): restart relayd with --admin-socket PATH")
    return DEFAULT_ADMIN_SOCKET if path == "auto" else path


def ask(path: str, method: str, *segments: str, meanwhile: Callable[[], None] | None = None) -> Any:
    """The document that answers a request at the socket ``path``; ``segments`` are those of its target.

    While there is no answer yet, ``meanwhile`` is called time and again. Raises `Unanswered`, and what
    that raises.
    """
    connection = _UnixConnection(path)
    try:
        connection.request(method, "/" + "/".join(quote(segment, safe="") for segment in segments))
        if meanwhile is not None:
            _wait(connection.sock, meanwhile)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 403:
            raise PermissionError
        document = json.loads(body)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise Unanswered(
            f"relayd is not running, or not with this admin socket: nobody listens on {path}. Start it "
            "(systemctl start relayd, or relayd --admin-socket PATH), or name its socket with --admin-socket"
        ) from None
    except PermissionError:
        raise Unanswered(f"only root and relayd's own user may use {path}: try again with sudo") from None
    except TimeoutError:
        raise Unanswered(f"relayd does not answer at {path}: see whether its process is stuck") from None
    except (OSError, http.client.HTTPException, ValueError):
        raise Unanswered(
            f"relayd hung up at {path} before its answer was whole: it has just ended, or is busy with others"
        ) from None
    finally:
        connection.close()
    if answer.status >= 400:
        raise Unanswered(str(document.get("error", f"what listens at {path} is no admin socket of relayd's")))
    return document


def _wait(answering: socket.socket, meanwhile: Callable[[], None]) -> None:
    """Until there is something to read. Raises TimeoutError."""
    deadline = time.monotonic() + _TIMEOUT
    while not select.select([answering], [], [], _MEANWHILE)[0]:
        if time.monotonic() > deadline:
            raise TimeoutError
        meanwhile()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("relayd", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(self._path)
