"""Text in terminal columns, of which a Chinese character takes two.

In: strings. Out: their widths, or aligned lines. Knows nothing of what they mean.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """Terminal columns that `text` takes: two for a wide or full-width character, none for a combining one.

    Source: East Asian Width, Unicode Standard Annex #11.

    >>> width("ab"), width("药品")
    (2, 4)
    """
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines: the first column aligned left, the others right, each as wide as its widest cell.

    >>> print("\\n".join(align([["", "rows"], ["药品", "1,200"], ["a", "3"]])))
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
