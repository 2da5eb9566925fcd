"""A network of the test's own, in which a client may have any address that it likes."""

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.relay_process import WAIT

__all__ = ["HERE", "HERE_6", "connected_from", "network_of_its_own"]

HERE: Final = "10.77.0.1"
HERE_6: Final = "fd77::1"
"""Where a relay of such a network is found that listens on every address."""

_CLONE_NEWNET: Final = 0x40000000
_IPV6_FREEBIND: Final = 78


@contextmanager
def network_of_its_own() -> Iterator[None]:
    """Be in a new network namespace during the body, and start processes there.

    10.77.0.0/16 and fd77::/16 are all this machine's own, and none of it is loopback.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            pytest.fail(f"no network namespace: {os.strerror(ctypes.get_errno())}; run this test as root")
        try:
            for arguments in (
                ["link", "set", "lo", "up"],
                ["address", "add", f"{HERE}/16", "dev", "lo"],
                ["address", "add", f"{HERE_6}/128", "dev", "lo"],
                ["-6", "route", "add", "local", "fd77::/16", "dev", "lo"],
            ):
                _ip(arguments)
            yield
        finally:
            # Left so, whatever else the tests did would be done in here.
            assert libc.setns(before, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(before)


def connected_from(source: str, port: int) -> socket.socket:
    """A connection of a client at ``source``, of either family, to the relay at ``port``."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    try:
        client.settimeout(WAIT)
        if family == socket.AF_INET6:
            client.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        client.bind((source, 0))
        client.connect((HERE_6 if family == socket.AF_INET6 else HERE, port))
    except BaseException:
        client.close()
        raise
    return client


def _ip(arguments: list[str]) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.fail("ip is missing, which this test needs: install iproute2")
