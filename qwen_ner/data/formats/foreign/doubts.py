"""Cells of a table that may say something else than they are read as.

In: a `Header` and the columns of its texts and surfaces. Out: nothing, or a fault for each such cell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ....entities import NerError
from ..errors import DataError, quote
from .cells import name_parts
from .headers import Header
from .items import NUMBERS
from .sheets import Typed


def check_typed(path: Path, header: Header, text: int, surfaces: Sequence[int]) -> None:
    """Raise `DataError` for texts and surfaces that Excel keeps as a number or date, and not as they were written.

    A surface is right if its text has it, unless a zero beside it shows that Excel dropped it: of 0571, of 3.10.
    """
    faults = []
    for number, cells, above in header.with_texts(text):
        wrong = [text] if isinstance(cell := cells[text], Typed) and not cell.shown else []
        wrong += [at for at in surfaces if isinstance(cell := cells[at], Typed) and not _has(above, cell)]
        for at in wrong:
            what = f"{header.name_of(at)} holds {quote(cells[at])}, a number or date to Excel, not what was typed"
            faults.append(f"{path.name}:{number}: {what}; format the column as text and type it again")
    if faults:
        raise DataError(str(path), faults, len(header.rows))


def _has(text: str, number: str) -> bool:
    """Whether a number stands in a text as a whole.

    >>> _has("电话571", "571"), _has("电话0571", "571"), _has("版本3.10", "3.1"), _has("共2000元", "20")
    (True, False, False, True)
    """
    return re.search(rf"(?<!0){re.escape(number)}{'(?!0)' if '.' in number else ''}", text) is not None


def check_columns(path: Path, header: Header, text: int, columns: dict[str, int]) -> None:
    """Raise `NerError` for a column beside those that are read, one row per entity, that holds more surfaces under the
    same name, or offsets under a name that is not known."""
    surface = columns["surface"]
    what = remedy = ""
    for at in header.others(text, *columns.values()):
        if header.names_entities(at, text) and name_parts(header.names[at]) == name_parts(header.names[surface]):
            what, remedy = f"two columns are called {header.name_of(at)}", "give each entity a row of its own"
        elif not columns.keys() & {"start", "end"} and _are_places(header, text, surface, at):
            what = f"the column {header.name_of(at)} may hold offsets of the entities"
            remedy = 'write them into columns "start" and "end", or delete it'
    if what:
        raise NerError(what, place=f"{path}:{header.number}", remedy=remedy)


def _are_places(header: Header, text: int, surface: int, at: int) -> bool:
    """Whether each entity has its place in column `at`, from 0 or 1, and one of them stands at several."""
    rows = [(cells[at].strip(), cells[surface].strip(), above) for _, cells, above in header.with_texts(text)]
    numbers = [(NUMBERS.fullmatch(cell), one, above) for cell, one, above in rows if one]
    places = [(int(found[1]), one, above) for found, one, above in numbers if found]
    if len(places) < len(numbers) or not any(above.count(one) > 1 for _, one, above in places):
        return False
    told = any(place > 1 for place, _, _ in places)  # 0 and 1 are also no and yes
    return told and any(
        all(place >= first and above.startswith(one, place - first) for place, one, above in places) for first in (0, 1)
    )
