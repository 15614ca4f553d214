"""What can be wrong in an annotated file, and what a format cannot hold.

In: faults, values, places. Out: one `DataError` for all faults of a file, and values as messages show them. Knows
nothing of what a row means.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ...columns import printable
from ...entities import NerError

DOCUMENTS = 10
"""Documents of a folder from which on each is a group: a tenth of fewer, held out, would be less than one."""

SHOWN_FAULTS = 20
"""How many faults a `DataError` prints; `.faults` has them all."""

NESTED = "nested or overlapping entities"
LINE_BREAKS = "line breaks in texts, written as spaces"
CHANGES = (NESTED, LINE_BREAKS)
"""Losses that change a text or its entities. The others (ids, scores, document marks) are beside the annotation."""

Report = Callable[[str], None]
"""Takes one fault of a row, as value and remedy; the caller puts the place before it."""

Note = Callable[[str, str], None]
"""Takes (what, where) of something that one side of a conversion has and the other has no place for."""


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
        lines = [head, *self.faults[:SHOWN_FAULTS], *([f"… and {more:,} more"] if more > 0 else [])]
        return printable("\n  ".join(lines))


class LineFault(NerError):
    """A line that cannot be read at all."""


class Faults:
    """The faults of one file, collected row by row, and the ids that its rows have taken."""

    def __init__(self, path: str, unit: str = "line") -> None:
        self.path, self.unit, self.rows = path, unit, 0
        self.found: list[str] = []
        self._ids: dict[str, int] = {}

    def row(self, place: str) -> Report:
        """Count a row; what takes its faults."""
        self.rows += 1
        return lambda fault: self.found.append(f"{place}: {fault}")

    @contextmanager
    def reading(self, place: str, rows: int = 1) -> Iterator[Report]:
        """Count `rows`, and take their faults, a `NerError` of the block among them; reading goes on behind it."""
        self.rows += rows
        try:
            yield lambda fault: self.found.append(f"{place}: {fault}")
        except NerError as fault:
            self.found.append(f"{place}: {fault}")

    def check_id(self, identity: str, number: int, report: Report) -> None:
        """Report an id that an earlier row has."""
        if (first := self._ids.setdefault(identity, number)) != number:
            report(f"the id {quote(identity)} is {self.unit} {first}'s too; give each row its own")

    def finish(self, what: str, remedy: str) -> None:
        """Raise `DataError` if there are faults, `NerError(what)` if there was no row."""
        if self.found:
            raise DataError(self.path, self.found, self.rows)
        if not self.rows:
            raise NerError(what, place=self.path, remedy=remedy)


def ignore(*_: str) -> None:
    """The `Note` for callers that want the examples only, the `Report` of what looks at rows that are read again."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a remedy: a suggestion, if a known name is close.

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
    shown = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "row"), count(1343, "row"), count(2, "entity")
    ('1 row', '1,343 rows', '2 entities')
    """
    plural = f"{noun.removesuffix('y')}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
