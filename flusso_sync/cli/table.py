"""Tables for people: aligned, one row a line, nothing in them that a terminal would obey."""

from __future__ import annotations

import unicodedata
from typing import Any, Iterator, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> Iterator[str]:
    """The lines of a table; columns named in ``right`` are aligned to the right, None is shown as ``-``."""
    shown = [list(header)] + [["-" if cell is None else plain(str(cell)) for cell in row] for row in rows]
    widths = [max(_width(row[column]) for row in shown) for column in range(len(header))]
    for row in shown:
        cells = []
        for name, cell, width in zip(header, row, widths):
            room = " " * (width - _width(cell))
            cells.append(room + cell if name in right else cell + room)
        yield "  ".join(cells).rstrip()


def plain(text: str) -> str:
    """The text on one line, control characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def _width(text: str) -> int:
    """Columns on a terminal: wide letters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )
