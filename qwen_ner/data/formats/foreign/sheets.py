"""The cells of CSV files and Excel workbooks.

In: a file. Out: the rows of each of its tables, as strings, each with its number in the file. CSV is read as UTF-8 or
as GB18030, which Excel writes in China. Knows nothing of what a row means.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

from ....entities import NerError
from ..errors import LineFault
from ..lines import decode_line, lines_of

Table = list[tuple[int, list[str]]]
"""Number and cells of each row."""


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
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        return [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        place = f"{path}:{reader.line_num}"
        raise NerError(f"cannot be read as CSV ({error})", place=place, remedy="close the quotes") from error


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
