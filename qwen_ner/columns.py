"""Text for a terminal: in columns, of which a Chinese character takes two, and without control characters.

In: strings. Out: their widths, or what can be printed. Knows nothing of what they mean.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, marks of writing direction, half a surrogate pair."""


def printable(text: str, *, one_line: bool = False) -> str:
    """`text` with what would command the terminal, or could not be printed, as escapes; line feeds too if `one_line`.

    >>> print(printable("\x1b[31m地址"))
    \\x1b[31m地址
    """
    safe = _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return safe.replace("\n", "\\n") if one_line else safe


def join_names(items: Iterable[str], limit: int = 5) -> str:
    """The first `limit` of `items`, and how many more there are.

    >>> join_names(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    every = [printable(item, one_line=True) for item in items]
    more = f" and {len(every) - limit:,} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type if it says nothing.

    >>> first_line(ValueError("no such id\\n  at 3")), first_line(KeyError())
    ('no such id', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
    rows = [[printable(cell, one_line=True) for cell in row] for row in rows]
    columns = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell + " " * (size - width(cell)) if not at else " " * (size - width(cell)) + cell
            for at, (cell, size) in enumerate(zip(row, columns, strict=True))
        ).rstrip()
        for row in rows
    ]
