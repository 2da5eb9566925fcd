"""journald's native protocol: a datagram is an entry, with fields of its own.

It is described in systemd's "Native Journal Protocol", and the journal's fields in
systemd.journal-fields(7). An entry too long for a datagram would go as a sealed memfd. Ours never
need that: what strangers say is cut at the edge, so an entry has a few KiB and the smallest send
buffer that Linux has by default holds 200.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from relayd.ops.events import Event, Level
from relayd.ops.lines import quoted, values_of

__all__ = ["SOCKET", "JournalSocket", "as_entry", "encode_fields", "error_line", "is_journal"]

SOCKET: Final = "/run/systemd/journal/socket"

_PRIORITIES: Final[dict[Level, int]] = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""As in syslog(3)."""

_UNENCODABLE: Final = "backslashreplace"
"""Bytes of a file's name that are not UTF-8 come as lone surrogates."""

_SEND_BUFFER: Final = 8 * 1024 * 1024
"""What the protocol's description advises, and libsystemd asks for; the kernel caps it."""


def is_journal(fd: int, environment: Mapping[str, str]) -> bool:
    """Whether ``fd`` leads to the journal: JOURNAL_STREAM says of which device and inode that is true.

    See systemd.exec(5). The variable alone says nothing: who inherits it may have another stderr.
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def error_line(text: str) -> str:
    """``text`` as a line for standard error: where that is the journal, with an error's priority before it.

    See sd-daemon(3); without it, what comes by standard error is "info" to the journal.
    """
    return f"<{_PRIORITIES['error']}>{text}" if is_journal(2, os.environ) else text


def as_entry(event: Event) -> bytes:
    """``event`` as a datagram: its fields with RELAYD_ in front, empty ones left out, and a MESSAGE."""
    pairs = [("MESSAGE", "")]
    shown = {}
    for name, value in values_of(event).items():
        if value == "":
            shown[name] = ""
        else:
            shown[name] = quoted(value)
            pairs.append((f"RELAYD_{name.upper()}", str(value)))
    pairs[0] = ("MESSAGE", event.message.format_map(shown).rstrip(" "))
    return _constant(event.message_id, event.level, event.name) + encode_fields(pairs)


def encode_fields(pairs: Sequence[tuple[str, str]]) -> bytes:
    """Names and values as the protocol wants them: a value with a line feed goes with its length."""
    text = "".join([f"{name}={value}\n" for name, value in pairs])
    if text.count("\n") == len(pairs):
        return text.encode("utf-8", _UNENCODABLE)
    return b"".join([_with_length(name, value.encode("utf-8", _UNENCODABLE)) for name, value in pairs])


def _with_length(name: str, data: bytes) -> bytes:
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


class JournalSocket:
    """Where entries for journald go in. It need not be there: each entry looks for it anew."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    def write(self, data: bytes) -> int:
        """Send one entry, or raise OSError: there is no waiting, and no half of an entry."""
        # Not connected, as a journald that was started anew may have another socket under the same name.
        return self._socket.sendto(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._path)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


@cache
def _constant(message_id: str, level: Level, name: str) -> bytes:
    """What is the same in every entry of one event."""
    return encode_fields(
        [
            ("MESSAGE_ID", message_id),
            ("PRIORITY", str(_PRIORITIES[level])),
            ("SYSLOG_IDENTIFIER", "relayd"),
            ("RELAYD_EVENT", name),
        ]
    )
