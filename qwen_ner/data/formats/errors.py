"""What is wrong with an annotated file: its faults with their lines, and how a value is shown in them.

In: values, names, places. Out: one `DataError` for all faults of a file. Knows nothing of what a row means.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from typing import Any

from ...entities import NerError

SHOWN_FAULTS = 20
"""How many faults a `DataError` prints; `.faults` has them all."""

Report = Callable[[str], None]
"""Takes one fault of a row: value and remedy; the place is put before it."""

Note = Callable[[str, str], None]
"""Takes (what, where) of something that a file says and an `Example` has no place for."""


class DataError(NerError):
    """Every fault of one file. `faults` are all of them, `train.json:412: …` each; the message prints the first 20.

    >>> print(DataError("data/train.jsonl", ["train.jsonl:1: the text is empty; delete the row"], 7))
    data/train.jsonl has 1 fault in 7 rows
      train.jsonl:1: the text is empty; delete the row
    """

    def __init__(self, path: str, faults: list[str], rows: int) -> None:
        super().__init__("faults in the rows", place=path)
        self.path, self.faults, self.rows = path, faults, rows

    def __reduce__(self) -> Any:
        return DataError, (self.path, self.faults, self.rows)

    def __str__(self) -> str:
        head = f"{self.path} has {count(len(self.faults), 'fault')} in {count(self.rows, 'row')}"
        more = len(self.faults) - SHOWN_FAULTS
        return "\n  ".join([head, *self.faults[:SHOWN_FAULTS], *([f"… and {more:,} more"] if more > 0 else [])])


class LineFault(Exception):
    """What makes a whole line unreadable."""


def ignore(_: str, __: str) -> None:
    """The `Note` of who only wants the examples."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy's tail: which known name was meant, where one is near.

    >>> nearest("adress", ["address", "book"])
    '; did you mean "address"?'
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {quote(close[0])}?" if close else ""


def quote(value: object) -> str:
    """A value as JSON writes it, cut to 60 characters, safe to print.

    >>> print(quote("叶老桂"), quote({"text": 3}), quote(None))
    "叶老桂" {"text": 3} null
    """
    shown = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "row"), count(1343, "row")
    ('1 row', '1,343 rows')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
