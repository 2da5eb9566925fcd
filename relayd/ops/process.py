"""What the process asks of the system and of its own runtime before it serves."""

import ctypes
import gc
import resource
from typing import Final

__all__ = ["prepare_process"]

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

_KEPT: Final = 16 * 1024 * 1024
"""Bytes of free memory at the heap's end that are not given back to the kernel."""

_MAPPED: Final = 1024 * 1024
"""Bytes from which a block is mapped on its own, and unmapped when it is freed. No read is so large."""


def prepare_process() -> None:
    """Raise the limit of file descriptors as far as it goes, and tune garbage collection and malloc."""
    # The soft limit of 1024 is there for select(2). Here every connection takes a descriptor, and out of
    # descriptors means out of reach.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Connections are freed without the collector's help, and it would walk through all of them, half a
    # second for 5,000, each time that a quarter more have come. So it looks rarely, for what else there is.
    gc.freeze()
    gc.set_threshold(10_000, 20, 10)
    # By default glibc gives the kernel back what the frames of one turn took, and asks for it again in the
    # next: that is a page fault for every few frames, and a quarter of their cost.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED)
