"""Networks of the test's own: on one machine where a client may have any address, and between two.

A machine is a network namespace, which lives as long as a process of ours: so nothing is left of it, however a
test ends.
"""

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest

from tests.relay_process import WAIT

__all__ = ["HERE", "HERE_6", "Machine", "Network", "connected_from", "network_of_its_own", "network_of_two"]

HERE: Final = "10.77.0.1"
HERE_6: Final = "fd77::1"
"""Where a relay of such a network is found that listens on every address."""

_PEERS_ADDRESS: Final = "10.77.0.2"
_PEERS_NETWORK: Final = "10.78.0.0/16"

_CLONE_NEWNET: Final = 0x40000000
_IPV6_FREEBIND: Final = 78


class Machine:
    """A network namespace."""

    def __init__(self) -> None:
        self._keeper = _started(["unshare", "--net", "sh", "-c", "echo made; exec cat"])
        assert self._keeper.stdout is not None
        assert self._keeper.stderr is not None
        if self._keeper.stdout.readline() != b"made\n":
            why = self._keeper.stderr.read().decode().strip()
            self.close()
            pytest.fail(f"no network namespace: {why}; run this test as root")
        self.pid = self._keeper.pid
        #: What stands before a command that is to run on this machine.
        self.wrapper = ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that the body makes are this machine's, and processes that it starts are on it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._enter(f"/proc/{self.pid}/ns/net")
            try:
                yield
            finally:
                # Left so, whatever else the tests did would be done in here.
                self._enter(f"/proc/self/fd/{home}")
        finally:
            os.close(home)

    def run(self, *commands: str) -> None:
        """Run ``ip`` on it, with the words of each command."""
        with self.entered():
            for command in commands:
                _ip(command)

    def close(self) -> None:
        """Let go of it."""
        self._keeper.kill()
        with self._keeper:
            pass

    @staticmethod
    def _enter(path: str) -> None:
        # os.setns comes with Python 3.12.
        namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(namespace)


@contextmanager
def network_of_its_own() -> Iterator[None]:
    """Be on a machine of its own during the body, and start processes there.

    10.77.0.0/16 and fd77::/16 are all this machine's, and none of it is loopback.
    """
    machine = Machine()
    try:
        machine.run(
            "link set lo up",
            f"address add {HERE}/16 dev lo",
            f"address add {HERE_6}/128 dev lo",
            "-6 route add local fd77::/16 dev lo",
        )
        with machine.entered():
            yield
    finally:
        machine.close()


def connected_from(source: str, port: int) -> socket.socket:
    """A connection of a client at ``source``, of either family, to the relay at ``port`` of `HERE`."""
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


class Network:
    """A machine for the relay and one for its peers, who have as many addresses as they like.

    The cable between them can be pulled.
    """

    def __init__(self, relay: Machine, peers: Machine) -> None:
        self._relay = relay
        #: What stands before a command that is to run on the relay's machine.
        self.wrapper = relay.wrapper
        self._peers = peers
        self._addresses = 0
        _ip(f"link add cable netns {relay.pid} type veth peer name cable netns {peers.pid}")
        relay.run(
            "link set lo up",
            f"address add {HERE}/30 dev cable",
            "link set cable up",
            f"route add {_PEERS_NETWORK} via {_PEERS_ADDRESS}",
        )
        peers.run(
            "link set lo up",
            f"address add {_PEERS_ADDRESS}/30 dev cable",
            "link set cable up",
            f"route add local {_PEERS_NETWORK} dev lo",
        )

    def connect(self, port: int, receive_buffer: int = 0) -> socket.socket:
        """A connection from an address of its own to the relay, over the cable."""
        self._addresses += 1
        with self._peers.entered():
            sock = socket.socket()
        sock.settimeout(WAIT)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind((f"10.78.{self._addresses >> 8}.{self._addresses & 255}", 0))
        sock.connect((HERE, port))
        return sock

    def connect_locally(self, port: int) -> socket.socket:
        """A connection from the relay's own machine."""
        with self._relay.entered():
            return socket.create_connection(("127.0.0.1", port), WAIT)

    def pull_the_cable(self) -> None:
        """From now on every packet is lost, in both directions, and nobody is told."""
        self._peers.run("link set cable down")

    def plug_it_in(self) -> None:
        """Packets pass again."""
        self._peers.run("link set cable up")


@contextmanager
def network_of_two() -> Iterator[Network]:
    """Both machines and the cable between them."""
    with ExitStack() as stack:
        machines = []
        for _ in range(2):
            machines.append(Machine())
            stack.callback(machines[-1].close)
        yield Network(*machines)


def _ip(command: str) -> None:
    with _started(["ip", *command.split()]) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        pytest.fail(f"{command[0]} is missing, which this test needs: install iproute2 and util-linux")
