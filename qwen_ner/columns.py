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


def printable(text: str, limit: int | None = None) -> str:
    """`text` on one line, safe for a terminal: what it cannot show is escaped, what is over `limit` columns cut.

    >>> print(printable("a\\x1b[31m\\nb"), printable("组织机构名称", 8))
    a\\x1b[31m\\nb 组织机…
    """
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    if limit is None or width(shown) <= limit:
        return shown
    return next(f"{shown[:n]}…" for n in range(limit, -1, -1) if width(shown[:n]) < limit)


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
