"""What something costs, whatever else runs on the machine."""

from collections.abc import Callable
from time import process_time

__all__ = ["least_time"]


def least_time(action: Callable[[], None]) -> float:
    """Seconds of the processor that ``action`` takes: the least of several, which others add nothing to."""
    times = []
    for _ in range(7):
        begun = process_time()
        action()
        times.append(process_time() - begun)
    return min(times)
