"""The cells of CSV files and Excel workbooks, read and written.

In: a file. Out: the rows of each of its tables, as strings, each with its number in the file. CSV is read as UTF-8 or
as GB18030 or Big5, which Excel writes in China. Knows nothing of what a row means.
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ....entities import NerError
from ..errors import LineFault
from ..lines import decode_line, lines_of

EXACT = 10**15
"""Excel keeps no more digits of a number."""

Table = list[tuple[int, list[str]]]
"""Number and cells of each row."""

CELL = 32_767
"""Characters that Excel keeps of a cell."""

NO_TEXT = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f]")
"""What a cell of Excel cannot hold."""

LONGEST = 2**31 - 1
"""Characters of a cell of CSV at most: what `csv` can be told everywhere, as documents are longer than its default."""


ESCAPED = re.compile(r"_x(?!d[89a-f])([\da-f]{4})_", re.IGNORECASE)
"""A character as Excel writes it that has no place in XML: _x000D_; half a surrogate pair is none."""

TO_ESCAPE = re.compile(rf"_(?={ESCAPED.pattern[1:]})", re.IGNORECASE)

NO_VALUE = re.compile(
    rb'<c r="(\w+)"(?![^<>]*t="str")[^<>]*>\s*<f\b[^<>]*(?:/>|>[^<>]*</f>)\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>'
)
"""A cell with a formula alone. One that computes an empty string has the type str."""


class Typed(str):
    """A number, date or truth value of Excel, as Python writes it; `shown` is whether Excel shows it so."""

    shown = False


def tables_of(path: Path) -> dict[str, Table]:
    """The tables of a file that hold something, by title, hidden ones last. Raises `NerError` if it cannot be read."""
    if path.suffix.lower() != ".xlsx":
        return {path.name: _csv(path)}
    import openpyxl  # type: ignore[import-untyped, unused-ignore]

    try:
        book = openpyxl.load_workbook(path, data_only=True)  # read-only, it would not know of merged cells
        by_sight = sorted(book.worksheets, key=lambda sheet: sheet.sheet_state != "visible")
        sheets = {sheet.title: _cells(sheet) for sheet in by_sight}
    except Exception as error:  # openpyxl raises many kinds
        what = f"cannot be read as a workbook ({error})"
        raise NerError(what, place=path, remedy="save it as .xlsx or as CSV") from error
    return {title: rows for title, rows in sheets.items() if any(any(cells) for _, cells in rows)}


def _csv(path: Path) -> Table:
    try:
        lines = [decode_line(raw).removeprefix("\ufeff") for raw in lines_of(path)]
    except LineFault as fault:
        raise NerError(fault.what, place=path, remedy=fault.remedy) from None
    if len(lines) == 1:
        lines = re.findall(r"[^\r]*\r\n?|[^\r]+$", lines[0])  # as Excel saved it on a Mac
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
    """The rows of a sheet, up to the last that holds something. A cell that is merged over several rows counts as the
    cell of each.

    Only downwards: what is merged across columns is a title.
    """
    # Its `iter_rows` would make all cells up to one far away that merely has a colour.
    filled = {at: _read(cell) for at, cell in sheet._cells.items() if cell.value is not None}
    height, width = (max((at[axis] for at in filled), default=0) for axis in (0, 1))
    rows = [[""] * width for _ in range(height)]
    for (number, column), value in filled.items():
        rows[number - 1][column - 1] = value
    for merged in sheet.merged_cells.ranges:
        first, at = merged.min_row - 1, merged.min_col - 1
        for row in rows[first + 1 : merged.max_row] if at < width else ():
            row[at] = rows[first][at]
    return list(enumerate(rows, start=1))


def _read(cell: Any) -> str:
    if isinstance(cell.value, str):
        return ESCAPED.sub(lambda found: chr(int(found[1], 16)), cell.value)
    made = Typed(cell.value)
    form = re.sub(r"_.|\s", "", cell.number_format.split(";")[0])
    if type(cell.value) in (int, float) and abs(cell.value) < EXACT:
        made.shown = form in ("General", "@", "#") and "e" not in made
        if decimals := re.fullmatch(r"0(?:\.(0+))?", form):
            made.shown = f"{cell.value:.{len(decimals[1] or '')}f}" == made
    return made


def check_formulas(path: Path, title: str) -> None:
    """Raise `NerError` for a formula in this sheet of a workbook whose value is not in the file."""
    if path.suffix.lower() != ".xlsx":
        return
    import openpyxl  # type: ignore[import-untyped, unused-ignore]

    with zipfile.ZipFile(path) as parts:
        pages = [parts.read(name) for name in parts.namelist() if name.startswith("xl/worksheets/")]
    bare = {found[1].decode() for page in pages for found in NO_VALUE.finditer(page)}
    if not bare:
        return
    with closing(openpyxl.load_workbook(path, read_only=True)) as book:
        for cell in (cell for row in book[title] for cell in row):
            if cell.data_type == "f" and cell.coordinate in bare:
                what, place = "a formula without a value", f"{path}: {cell.coordinate}"
                remedy = "open the file in Excel and save it, or write the value instead"
                raise NerError(what, value=cell.value, place=place, remedy=remedy)


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

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.freeze_panes = "A2"
    sheet.column_dimensions[get_column_letter(wide + 1)].width = 60

    def cell(value: str | int) -> Any:
        made = WriteOnlyCell(sheet, TO_ESCAPE.sub("_x005F_", value) if isinstance(value, str) else value)
        if isinstance(value, str):
            made.data_type = "s"  # also of =1+1
        return made

    with closing(sheet):
        for number, row in enumerate(rows, start=1):
            for value in row:
                if isinstance(value, str) and (what := unfit(value)):
                    raise NerError(what, value=value[:20], place=f"row {number}", remedy="write a .csv")
            sheet.append([cell(value) for value in row])
    book.save(path)


def unfit(text: str) -> str:
    """Why a cell of Excel cannot hold `text`, or "".

    >>> unfit("三星\\x0b北京"), unfit("三星\\n北京")
    ('a cell of Excel holds no control characters', '')
    """
    if len(text) > CELL:
        return f"a cell of Excel holds {CELL:,} characters, not {len(text):,}"
    return "a cell of Excel holds no control characters" if NO_TEXT.search(text) else ""
