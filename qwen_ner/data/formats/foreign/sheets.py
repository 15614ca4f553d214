"""The cells of CSV files and Excel workbooks, read and written.

In: a file. Out: the rows of each of its tables, as strings, each with its number in the file. CSV is read as UTF-8 or
as GB18030 or Big5, which Excel writes in China. Knows nothing of what a row means.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ....entities import NerError
from ..errors import LineFault
from ..lines import decode_line, lines_of

Table = list[tuple[int, list[str]]]
"""Number and cells of each row."""

CELL = 32_767
"""Characters that Excel keeps of a cell."""

LONGEST = 2**31 - 1
"""Characters of a cell of CSV at most: what `csv` can be told everywhere, as documents are longer than its default."""


def tables_of(path: Path) -> dict[str, Table]:
    """The tables of a file that hold something, by title. Raises `NerError` if it cannot be read."""
    if path.suffix.lower() == ".csv":
        return {path.name: _csv(path)}
    import openpyxl  # type: ignore[import-untyped, unused-ignore]

    try:
        book = openpyxl.load_workbook(path, data_only=True)  # read-only, it would not know of merged cells
        sheets = {sheet.title: _cells(sheet) for sheet in book.worksheets}
    except Exception as error:  # openpyxl raises many kinds
        what = f"cannot be read as a workbook ({error})"
        raise NerError(what, place=path, remedy="save it as .xlsx or as CSV") from error
    return {title: rows for title, rows in sheets.items() if any(any(cells) for _, cells in rows)}


def _csv(path: Path) -> Table:
    try:
        lines = [decode_line(raw).removeprefix("\ufeff") for raw in lines_of(path)]
    except LineFault as fault:
        raise NerError(fault.what, place=path, remedy=fault.remedy) from None
    first = next((line for line in lines[:10] if re.search("[,;\t]", line)), "".join(lines[:1]))  # not a title
    delimiter = max(",\t;，", key=first.count)
    csv.field_size_limit(LONGEST)
    # Not strict, a quote that is never closed would make the rest of the file one text, and "A"B would be read as AB.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    table: Table = []
    try:
        table.extend((reader.line_num, cells) for cells in reader)
    except csv.Error as error:
        place = f"{path}:{table[-1][0] + 1 if table else 1}"
        remedy = "close the quotes around this cell, and write those within it twice"
        raise NerError(f"cannot be read as CSV ({error})", place=place, remedy=remedy) from error
    return table


def _cells(sheet: Any) -> Table:
    """The rows of a sheet. A cell that is merged over several rows counts as the cell of each.

    Only downwards: what is merged across columns is a title.
    """
    rows = [["" if cell is None else str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    for merged in sheet.merged_cells.ranges:
        first, at = merged.min_row - 1, merged.min_col - 1
        for row in rows[first + 1 : merged.max_row]:
            row[at] = rows[first][at]
    return list(enumerate(rows, start=1))


def write_csv(path: Path, rows: Iterable[Sequence[str | int]]) -> None:
    """Write UTF-8 with a byte order mark, without which Excel takes it for another encoding."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)


def write_workbook(path: Path, rows: Iterable[Sequence[str | int]], wide: int) -> None:
    """Write a workbook of one sheet, whose first row stays in sight; column `wide`, from 0, has room for a sentence.

    Raises `NerError` with the row for what a cell cannot hold.
    """
    import openpyxl
    from openpyxl.cell import WriteOnlyCell  # type: ignore[import-untyped, unused-ignore]
    from openpyxl.utils import get_column_letter  # type: ignore[import-untyped, unused-ignore]
    from openpyxl.utils.exceptions import IllegalCharacterError  # type: ignore[import-untyped, unused-ignore]

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.freeze_panes = "A2"
    sheet.column_dimensions[get_column_letter(wide + 1)].width = 60

    def cell(value: str | int) -> Any:
        made = WriteOnlyCell(sheet, value)
        if isinstance(value, str):
            made.data_type = "s"  # also of =1+1
        return made

    with closing(sheet):
        for number, row in enumerate(rows, start=1):
            longest = max((value for value in row if isinstance(value, str)), key=len)
            if len(longest) > CELL:
                what = f"a cell of Excel holds {CELL:,} characters"
                raise NerError(what, value=f"{len(longest):,}", place=f"row {number}", remedy="write a .csv")
            try:
                sheet.append([cell(value) for value in row])
            except IllegalCharacterError as error:
                what, place = "a cell of Excel holds no control characters", f"row {number}"
                raise NerError(what, value=longest, place=place, remedy="delete them, or write a .csv") from error
    book.save(path)
