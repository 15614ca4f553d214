"""Text in columns of a terminal, where Chinese characters are two wide.

In: texts. Out: texts of a known width. Knows nothing of what they say.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """Terminal columns: two for a wide or full-width character, none for a combining one (Unicode annex 11).

    >>> width("ab"), width("药品")
    (2, 4)
    """
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines: the first cell flush left, the others flush right, each column as wide as its widest cell.

    >>> print("\\n".join(aligned([["", "rows"], ["药品", "1,200"], ["a", "3"]])))
           rows
    药品  1,200
    a         3
    """
    columns = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell + " " * (size - width(cell)) if not at else " " * (size - width(cell)) + cell
            for at, (cell, size) in enumerate(zip(row, columns, strict=True))
        ).rstrip()
        for row in rows
    ]
