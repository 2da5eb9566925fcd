"""A network of two machines, made of namespaces: the cable between them can be pulled.

Each namespace lives as long as a process of ours, so nothing is left of it, however a test ends.
"""

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.attacks.peers import PATIENCE

RELAY_ADDRESS = "10.77.0.1"
_PEERS_ADDRESS = "10.77.0.2"
_PEERS_NETWORK = "10.78.0.0/16"

_CLONE_NEWNET = 0x40000000


class Machine:
    """A network namespace."""

    def __init__(self) -> None:
        if shutil.which("ip") is None or shutil.which("unshare") is None:
            raise AssertionError("this test makes network namespaces: apt-get install iproute2 util-linux")
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo made; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stderr is not None
        if self._keeper.stdout.readline() != b"made\n":
            why = self._keeper.stderr.read().decode().strip()
            self.close()
            raise AssertionError(f"this test makes network namespaces, which takes root: {why}")
        self.pid = self._keeper.pid
        #: What stands before a command that is to run on this machine.
        self.wrapper = ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def run(self, command: str) -> None:
        """Run a command on it."""
        subprocess.run([*self.wrapper, *command.split()], check=True)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that the body makes are this machine's."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            self._enter(f"/proc/{self.pid}/ns/net")
            yield
        finally:
            self._enter(f"/proc/self/fd/{home}")
            os.close(home)

    def close(self) -> None:
        """Let go of it."""
        self._keeper.kill()
        with self._keeper:
            pass

    @staticmethod
    def _enter(path: str) -> None:
        # os.setns comes with Python 3.12.
        namespace = os.open(path, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(namespace)


class Network:
    """A machine for the relay and one for its peers, who have as many addresses as they like."""

    def __init__(self, relay: Machine, peers: Machine) -> None:
        self._relay = relay
        #: What stands before a command that is to run on the relay's machine.
        self.wrapper = relay.wrapper
        self._peers = peers
        self._addresses = 0
        ends = f"ip link add cable netns {relay.pid} type veth peer name cable netns {peers.pid}"
        subprocess.run(ends.split(), check=True)
        relay.run("ip link set lo up")
        relay.run(f"ip address add {RELAY_ADDRESS}/30 dev cable")
        relay.run("ip link set cable up")
        relay.run(f"ip route add {_PEERS_NETWORK} via {_PEERS_ADDRESS}")
        peers.run("ip link set lo up")
        peers.run(f"ip address add {_PEERS_ADDRESS}/30 dev cable")
        peers.run("ip link set cable up")
        peers.run(f"ip route add local {_PEERS_NETWORK} dev lo")

    def connect(self, port: int, receive_buffer: int = 0) -> socket.socket:
        """A connection from an address of its own to the relay, over the cable."""
        self._addresses += 1
        with self._peers.entered():
            sock = socket.socket()
        sock.settimeout(PATIENCE)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind((f"10.78.{self._addresses >> 8}.{self._addresses & 255}", 0))
        sock.connect((RELAY_ADDRESS, port))
        return sock

    def connect_locally(self, port: int) -> socket.socket:
        """A connection from the relay's own machine."""
        with self._relay.entered():
            return socket.create_connection(("127.0.0.1", port), PATIENCE)

    def pull_the_cable(self) -> None:
        """From now on every packet is lost, in both directions, and nobody is told."""
        self._peers.run("ip link set cable down")

    def plug_it_in(self) -> None:
        """Packets pass again."""
        self._peers.run("ip link set cable up")


@contextmanager
def network() -> Iterator[Network]:
    """Both machines and the cable between them."""
    relay = Machine()
    try:
        peers = Machine()
        try:
            yield Network(relay, peers)
        finally:
            peers.close()
    finally:
        relay.close()
