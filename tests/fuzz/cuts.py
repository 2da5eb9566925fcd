"""The same bytes in other pieces."""

from itertools import cycle

__all__ = ["cut"]


def cut(stream: bytes, one: int, other: int) -> list[bytes]:
    """``stream`` in pieces of ``one`` and of ``other`` bytes, in turns. Not both may be 0."""
    pieces = []
    position = 0
    sizes = cycle((one, other))
    while position < len(stream):
        size = next(sizes)
        pieces.append(stream[position : position + size])
        position += size
    return pieces
