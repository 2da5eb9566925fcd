"""relayd: a WebSocket relay between binaries and their phones that can read none of their frames."""

__version__ = "0.1.0"
