"""A table for a terminal: it uses the width that there is, and leaves out first what is missed least."""

import unicodedata
from collections.abc import Collection, Sequence
from typing import Final

from attrs import frozen

__all__ = ["Column", "table"]

_CUT: Final = "…"


@frozen
class Column:
    """What is true of a column, whatever is in it."""

    title: str
    #: It is never made narrower than this, in columns of the terminal.
    least: int
    #: Whether it holds numbers, which end at the right.
    right: bool = False
    #: Where there is not room for all, the column with the highest goes first; one with 0 stays.
    dispensable: int = 0


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, keep: Collection[str] = ()
) -> list[str]:
    """The titles and then the ``rows``, each as a line.

    A line has at most ``width`` columns of the terminal, unless what may not go needs more. Columns with
    titles in ``keep`` may not. What is cut ends with an ellipsis.
    """
    shown = list(range(len(columns)))
    going = [number for number in shown if columns[number].dispensable and columns[number].title not in keep]
    going.sort(key=lambda number: columns[number].dispensable)
    while going and sum(columns[number].least + 1 for number in shown) - 1 > width:
        shown.remove(going.pop())
    lines = [[column.title for column in columns], *rows]
    widths = {number: max(columns[number].least, *(_width(line[number]) for line in lines)) for number in shown}
    while sum(widths.values()) + len(shown) - 1 > width:
        wider = [number for number in shown if widths[number] > columns[number].least]
        if not wider:
            break
        widths[max(wider, key=widths.__getitem__)] -= 1
    return [
        " ".join(_cell(line[number], widths[number], columns[number].right) for number in shown).rstrip()
        for line in lines
    ]


def _cell(text: str, width: int, right: bool) -> str:
    if _width(text) > width:
        while _width(text) >= width:
            text = text[:-1]
        text += _CUT
    padding = " " * (width - _width(text))
    return padding + text if right else text + padding


def _width(text: str) -> int:
    """Columns that a terminal needs for it."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )
