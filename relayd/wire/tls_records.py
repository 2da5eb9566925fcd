"""Where TLS records begin and end (RFC 8446, section 5.1): that much of them is in the clear."""

from typing import Final

__all__ = ["RecordCounter"]

_HEADER: Final = 5


class RecordCounter:
    """Counts records before they are decrypted, whatever is in them, so that one can stop in time."""

    __slots__ = ("_inside", "left")

    def __init__(self) -> None:
        # Bytes that are still to come of the record that has begun.
        self._inside = 0
        #: How many records may begin.
        self.left = 0

    def advance(self, data: bytes, start: int) -> int:
        """The end of what may be taken of ``data`` from ``start`` on: as many records as are left.

        A header that is not whole is not taken; nor would it be of use to anybody.
        """
        size, left = len(data), self.left
        begin = start + self._inside
        whole = size - _HEADER
        for taken in range(left):
            if begin > whole:
                self.left = left - taken
                break
            begin += _HEADER + (data[begin + 3] << 8 | data[begin + 4])
        else:
            self.left = 0
        end = min(begin, size)
        self._inside = begin - end
        return end
