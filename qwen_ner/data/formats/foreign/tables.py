"""Tables: CSV and Excel, with a header.

In: a table of one of these kinds, told by the names of its columns, English or Chinese.

    text, label, start, end, entity     one row per entity; a text without one has an empty label; offsets are optional
    text, label                         one row per text, with {"company": ["三星"]} or a list of entities as JSON
    text, company, address              one row per text, the surfaces of each label in its own column, split at 、;|
    char, tag (, sentence)              one row per character or word; sentences end at an empty row, or by the third

Out: `Example`s. CSV is read as UTF-8 or as GB18030, which Excel writes in China; of a workbook the first sheet counts.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ....entities import Example, LabelSet, NerError
from ..errors import LineFault, Note, ignore, quote
from ..jsonl import entities_of
from ..lines import decode_line, lines_of
from ..rows import read_rows
from ..tagged.tagging import read_sentences
from .tools import ANSWER, KEYS, annotation_of

NAME = "table"
SUFFIXES = (".csv", ".xlsx")
DESCRIPTION = "tables (CSV, Excel): one row per entity, text or character"

CHINESE = {
    "text": ("文本", "句子", "内容", "原文", "正文", "语句", "text"),
    "label": ("标签", "类别", "类型", "实体类型", "实体类别"),
    "start": ("开始", "起始", "开始位置", "起始位置"),
    "end": ("结束", "终止", "结束位置", "终止位置"),
    "surface": ("实体", "实体名称", "名称", "实体文本", "关键词"),
}
TOKEN = ("char", "character", "token", "word", "字", "字符", "词")
TAG = ("tag", "ner_tag", "label", "bio", "标注", "标签", "ner")
SENTENCE = ("sentence #", "sentence_id", "sentence", "sent_id", "sid", "句子", "句号", "id")
IDS = ("id", "编号", "序号")

SEPARATORS = re.compile(r"[、;；|\n]")
COMMAS = re.compile(r"[,，]")

Table = list[tuple[int, list[str]]]
"""Number and cells of each row, the header first."""


def claims(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def sniff(head: bytes, name: str) -> bool:
    return name.endswith(SUFFIXES)


def read(
    path: str | Path,
    labels: LabelSet | None = None,
    *,
    repair: bool = False,
    note: Note = ignore,
    warn: Note = ignore,
    **_: Any,
) -> Iterator[Example]:
    path = Path(path).expanduser()
    table = _rows_of(path, warn)
    header = [name.strip() for name in table[0][1]] if table else []
    text, token, tag = _column(header, "text"), _one_of(header, TOKEN), _one_of(header, TAG)
    if token is not None and tag is not None and (text is None or _one_of(header, ("start",)) is None):
        sentences = _sentences(path.name, table, header, token, tag)
        return read_sentences(sentences, str(path), labels, note if repair else None, warn)
    if text is None:
        remedy = "name the column of the sentences text, and the others as `qwen-ner convert --help` shows"
        raise NerError("no column of texts in the header", value=header, place=path, remedy=remedy)
    columns = {kind: _column(header, kind) for kind in ("label", "start", "end", "surface")}
    rows = _texts(table, header, text, columns)
    lines = partial(_lines, path.name, rows)
    return read_rows(lines, path, labels, entities_of, row_of=_checked, note=note, warn=warn)


def _rows_of(path: Path, warn: Note) -> Table:
    """The rows of a table that hold something, and empty ones between them."""
    if path.suffix.lower() != ".csv":
        return _sheet(path, warn)
    try:
        lines = [decode_line(raw).removeprefix("\ufeff") for raw in lines_of(path)]
    except LineFault as fault:
        raise NerError(fault.what, place=path, remedy=fault.remedy) from None
    first = lines[0] if lines else ""
    delimiter = max(",\t;，", key=first.count)
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        return [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        place = f"{path}:{reader.line_num}"
        raise NerError(f"cannot be read as CSV ({error})", place=place, remedy="close the quotes") from error


def _sheet(path: Path, warn: Note) -> Table:
    import openpyxl  # type: ignore[import-untyped, unused-ignore]

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheets = {sheet.title: [list(row) for row in sheet.iter_rows(values_only=True)] for sheet in book.worksheets}
    except Exception as error:  # openpyxl raises many kinds
        what = f"cannot be read as a workbook ({error})"
        raise NerError(what, place=path, remedy="save it as .xlsx or as CSV") from error
    filled = {title: rows for title, rows in sheets.items() if any(cell is not None for row in rows for cell in row)}
    for title in list(filled)[1:]:
        warn("sheets after the first, left out", f"{path.name}: {title}")
    rows = next(iter(filled.values()), [])
    return [(number, ["" if cell is None else str(cell) for cell in row]) for number, row in enumerate(rows, start=1)]


def _one_of(header: Sequence[str], names: Sequence[str]) -> int | None:
    lowered = [name.lower() for name in header]
    return next((lowered.index(name) for name in names if name in lowered), None)


def _column(header: Sequence[str], kind: str) -> int | None:
    return _one_of(
        header, (*CHINESE[kind], *(name.lower() for name in KEYS[kind] if kind != "surface" or name != "text"))
    )


def _sentences(
    name: str, table: Table, header: list[str], token: int, tag: int
) -> list[tuple[str, list[str], list[str]]]:
    """Place, tokens and tags of each sentence."""
    mark = next((at for at in (_one_of(header, SENTENCE),) if at not in (token, tag)), None)
    found: list[tuple[str, list[str], list[str]]] = []  # place, tokens, tags
    before, fresh = "", True
    for number, cells in table[1:]:
        cells = [*cells, *[""] * (len(header) - len(cells))]
        if not any(cell.strip() for cell in cells):
            fresh = True
            continue
        here = cells[mark].strip() if mark is not None else ""
        if fresh or (here and here != before):
            found.append((f"{name}:{number}", [], []))
        before, fresh = here or before, False
        found[-1][1].append(cells[token] or " ")
        found[-1][2].append(cells[tag].strip() or "O")
    return [*found]


def _texts(table: Table, header: list[str], text: int, columns: dict[str, int | None]) -> dict[str, dict[str, Any]]:
    """The rows of each text as one, by its number, text and annotation."""
    ids = _one_of(header, IDS)
    found: dict[str, dict[str, Any]] = {}
    for number, cells in table[1:]:
        cells = [*cells, *[""] * (len(header) - len(cells))]
        if not any(cell.strip() for cell in cells):
            continue
        held = {kind: cells[at].strip() for kind, at in columns.items() if at is not None}
        label, of_entity = held.get("label", ""), "surface" in held or {"start", "end"} <= held.keys()
        if "label" in held and of_entity:
            row = found.setdefault(cells[text], {"line": number, "text": cells[text], "items": []})
            if label:
                row["items"].append(_entity(held))
            continue
        row = {"line": number, "text": cells[text]}
        if "label" in held:
            row["answer"] = label or "{}"
        else:
            row["tree"] = {
                name: _surfaces(cell, cells[text])
                for at, (name, cell) in enumerate(zip(header, cells, strict=False))
                if at not in (text, ids) and name and cell.strip()
            }
        found[f"row {number}"] = row
    return found


def _entity(held: dict[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {"label": held["label"]}
    if held.get("surface"):
        made["text"] = held["surface"]
    for kind in ("start", "end"):
        if held.get(kind):
            whole = re.fullmatch(r"(\d+)(\.0+)?", held[kind])
            made[kind] = int(whole[1]) if whole else held[kind]
    return made


def _surfaces(cell: str, text: str) -> list[str]:
    """The surfaces in a cell; a comma separates only where the whole is not in the text."""
    parts = [part.strip() for part in SEPARATORS.split(cell) if part.strip()]
    return list(dict.fromkeys(one for part in parts for one in ([part] if part in text else _split(part))))


def _split(part: str) -> list[str]:
    return [one.strip() for one in COMMAS.split(part) if one.strip()]


def _lines(name: str, rows: dict[str, dict[str, Any]]) -> Iterator[bytes]:
    """The rows as JSON, each at the line of its number in the table."""
    at = 1
    for row in sorted(rows.values(), key=lambda row: row["line"]):
        yield from [b"\n"] * (row["line"] - at)
        yield json.dumps(row, ensure_ascii=False).encode() + b"\n"
        at = row["line"] + 1


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `_lines` in the keys of `jsonl`. Raises `LineFault` for an annotation that cannot be read."""
    text = {"text": row["text"]}
    if "tree" in row:
        return text | {"label": row["tree"]}
    if "items" in row:
        return text | annotation_of(row["items"])
    try:
        value = json.loads(row["answer"])
    except ValueError:
        raise LineFault(f"the cell {quote(row['answer'])} is not JSON", remedy=ANSWER) from None
    if isinstance(value, dict):
        return text | {"label": {label: held for label, held in value.items() if held}}
    if isinstance(value, list):
        return text | annotation_of(value)
    raise LineFault(f"the cell {quote(row['answer'])} names no entities", remedy=ANSWER)
