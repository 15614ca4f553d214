"""Tables: CSV and Excel, with a header.

In: a table of one of these kinds, told by the names of its columns (`headers`).

    text, label, start, end, entity     one row per entity; a text without one has an empty label; offsets are optional
    text, label                         one row per text, with {"company": ["三星"]} or a list of entities as JSON
    text, company, address              one row per text, the surfaces of each label in its own column, split at 、;|
    text, entities                      one row per text, with company:三星、苹果;address:北京
    char, tag (, sentence)              one row per character or word; sentences end at an empty row, or by the third

Out: `Example`s. Of a workbook the first sheet with texts counts. A row without a text goes on with the text above, if
that holds its surfaces: so a CSV keeps merged cells. What is left out or read otherwise than written is told to `warn`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from ....entities import Example, LabelSet, NerError
from ..errors import LINE_BREAKS, Note, count, ignore
from ..jsonl import entities_of
from ..mentions import without_scores
from ..rows import read_rows
from ..tagged.schemes import parse_tag
from ..tagged.tagging import read_sentences
from .cells import pairs
from .doubts import check_typed
from .headers import (
    NAME_LENGTH,
    TEXT_NAME,
    Header,
    column_of_json,
    column_of_pairs,
    header_of,
    is_annotated,
    label_columns,
    text_column,
)
from .sheets import Table, check_formulas, tables_of, write_csv, write_workbook
from .table_rows import TableRows, row_of

NAME = "table"
VARIANTS = ("csv", "xlsx")
SUFFIXES = (".csv", ".xlsx")
DESCRIPTION = "tables (CSV, Excel): one row per entity, text or character"

SEPARATED_BY_TABS = (".tsv", ".txt")
"""Endings of files that may be tables, or something else."""

COLUMNS = (
    "A table has its texts in a column named text, 文本 or the like (点评内容 too). Beside it are either label and "
    "entity (标签, 实体), perhaps with start and end, one row per entity; or one column per label, with its name and "
    "surfaces separated by 、; or one column with cells like 公司:三星、苹果;地点:北京. Surfaces occur in their texts; "
    "other columns are left out, with a warning."
)
"""For help texts: what the columns of a table are."""

TAGGED = 100
"""Rows that tell whether a table is one of tagged tokens without a header."""

WRITTEN = ("id", "text", "label", "entity", "start", "end")
"""The columns that are written, one row per entity; then group, if rows have some."""

LIKE_A_ROW = "headers that look like rows with their entities; if one is, write the names of the columns above it"

OTHER_SHEETS = (
    "sheets beside the one that is read, left out; to read one, save it as a file of its own, or move its rows to the "
    "one that is read"
)

MERGED = "texts that came before; a table without ids that repeat reads them as one row"

SENTENCE = ("sentence #", "sentence_id", "sentence", "sent_id", "sid", "句子", "句号", "id")


def claims(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def sniff(head: bytes, name: str) -> bool:
    """By the name, or as text separated by tabs below a header, of which nothing is a tag."""
    if name.endswith(SUFFIXES) or not name.lower().endswith(SEPARATED_BY_TABS):
        return name.endswith(SUFFIXES)
    rows = [line.split("\t") for line in head.decode(errors="replace").splitlines()[:TAGGED] if line.strip()]
    tags = any(parse_tag(cell.strip()) for cells in rows for cell in cells)
    named = any(len(cell) <= NAME_LENGTH and TEXT_NAME.search(cell) for cell in rows[0]) if rows else False
    return len(rows) > 1 and len(rows[0]) == len(rows[1]) > 1 and named and not tags


@dataclass(frozen=True)
class Layout:
    """The table of a file that is read, with its column of texts, what its rows are, the columns of its annotation by
    what they hold (none if each is a label), and what of the file is left out, by kind and place."""

    header: Header
    text: int
    kind: str
    columns: dict[str, int]
    left: list[tuple[str, str]]

    def __str__(self) -> str:
        names = ", ".join(self.header.names[at] for at in sorted({self.text, *self.columns.values()}))
        return f"a table, {KINDS[self.kind]}{f': {names}' if self.columns else ''}"


KINDS = {
    "characters": "one row per character",
    "entities": "one row per entity",
    "pairs": "one row per text, with labels and surfaces in a column",
    "json": "one row per text, with its entities as JSON",
    "labels": "one row per text and one column per label",
}
"""What the rows of a table are."""


def read(
    path: str | Path,
    labels: LabelSet | None = None,
    *,
    layout: Layout | None = None,
    repair: bool = False,
    keep: Collection[str] | None = None,
    note: Note = ignore,
    warn: Note = ignore,
    **_: Any,
) -> Iterator[Example]:
    """`keep` names labels that are wanted, which tells their columns from others."""
    path = Path(path).expanduser()
    layout = layout or survey(path)
    for what, where in layout.left:
        warn(what, where)
    if layout.kind == "characters":
        check_typed(path, layout.header, layout.text, [])
        sentences = _sentences(path.name, layout.header, warn, **layout.columns)
        return read_sentences(sentences, str(path), labels, repair, warn)
    rows = TableRows(path, layout.header, layout.text, warn).read(layout.kind, layout.columns, keep, note)
    if not rows:
        names = layout.header.names
        raise NerError("no rows below the header", value=names, place=path, remedy="write the sentences there")
    return read_rows(partial(_lines, rows), path, labels, entities_of, row_of=row_of, note=note, warn=warn)


def survey(path: str | Path) -> Layout:
    """The first table with annotated texts, else with texts. Raises `NerError` if there is none."""
    path = Path(path).expanduser()
    tables = tables_of(path)
    headers = {title: _header_of(table) for title, table in tables.items()}
    texts = {title: at for title, header in headers.items() if (at := text_column(header, path)) is not None}
    if not texts:
        names = next((header.names for header in headers.values()), [])
        remedy = 'name the column of the sentences "text", and the others as `qwen-ner convert --help` says'
        raise NerError("no column of texts in the header", value=names, place=path, remedy=remedy)
    read = next((title for title, at in texts.items() if is_annotated(headers[title], at)), next(iter(texts)))
    check_formulas(path, read)
    left = [(LIKE_A_ROW, f"{path.name}:{headers[read].number}")] if _is_like_a_row(headers[read], texts[read]) else []
    for title, table in tables.items():
        filled = [number for number, cells in table if any(map(str.strip, cells))]
        if title != read:
            size = count(len(filled), "row")
            left.append((OTHER_SHEETS, f"{path.name}: {title}, {size}"))
        else:
            above = (number for number in filled if number < headers[read].number)
            left += [("rows above the header, left out", f"{path.name}:{number}") for number in above]
    return Layout(headers[read], texts[read], *kind_of(headers[read], texts[read]), left)


def _is_like_a_row(header: Header, text: int) -> bool:
    """Whether the name of a column stands in that of the texts, as surfaces do in the rows."""
    name, others = header.names[text], {header.names[at] for at in header.others(text)} - {""}
    known = header.tagged or header.column("text") is not None or TEXT_NAME.search(name)
    named = {surface for other in others for label, surface in pairs(other, name) if label}
    return not known and any(one in name for one in others | named)


def _header_of(table: Table) -> Header:
    """`header_of`, unless the rows hold a token and its tag from the first one on, and there is none."""
    filled = [cells for _, cells in table[:TAGGED] if any(cells)]
    if not filled or not all(len(cells) == 2 and parse_tag(cells[1] or "O") for cells in filled):
        return header_of(table)
    # Rows without a token, or that begin a document, separate sentences.
    rows = [(number, cells if cells and cells[0] not in ("", "-DOCSTART-") else ["", ""]) for number, cells in table]
    return Header(0, ["token", "tag"], rows)


def kind_of(header: Header, text: int) -> tuple[str, dict[str, int]]:
    """Which of `KINDS` a table is, and the columns of its annotation by what they hold; none if each is a label."""
    if header.tagged:
        return "characters", header.tagged
    columns = {kind: at for kind in ("label", "start", "end", "surface") if (at := header.column(kind)) is not None}
    if "label" in columns and ("surface" in columns or {"start", "end"} <= columns.keys()):
        return "entities", columns
    if (paired := column_of_pairs(header, text)) is not None:
        return "pairs", {"label": paired}
    if (as_json := column_of_json(header, text)) is not None:
        return "json", {"label": as_json}
    if "label" in columns and not _beside_labels(header, text, columns["label"]):
        return "json", {"label": columns["label"]}
    return "labels", {}


def _beside_labels(header: Header, text: int, label: int) -> bool:
    """Whether a column named label holds no annotation, and others do."""
    cells = (cells[label].strip() for _, cells in header.rows)
    if any(cell.startswith(("{", "[")) for cell in cells):
        return False
    names, _ = label_columns(header, text, None, "", ignore)
    return any(at != label and header.in_texts(at, text)[0] for at in names)


def _sentences(name: str, header: Header, warn: Note, token: int, tag: int) -> list[tuple[str, list[str], list[str]]]:
    """Place, tokens and tags of each sentence. A number that each row has of its own counts the tokens: a sentence
    begins where it begins anew."""
    outside = any(cells[tag].strip() == "O" for _, cells in header.rows)
    mark = header.one_of(SENTENCE)
    mark = None if mark in (token, tag) else mark
    marks = [cells[mark].strip() for _, cells in header.rows if mark is not None and any(map(str.strip, cells))]
    counts = bool(marks) and all(marks) and all(one != other for one, other in pairwise(marks))
    found: list[tuple[str, list[str], list[str]]] = []
    before, fresh = "", True
    for number, cells in header.rows:
        if not any(cell.strip() for cell in cells):
            fresh = True
            continue
        here = cells[mark].strip() if mark is not None else ""
        if fresh or (here == marks[0] if counts else here and here != before):
            found.append((f"{name}:{number}", [], []))
        before, fresh = here or before, False
        if not cells[token]:
            warn("rows without a character, read as a space", f"{name}:{number}")
        if outside and not cells[tag].strip():
            warn("rows without a tag, read as O", f"{name}:{number}")
        found[-1][1].append(cells[token] or " ")
        found[-1][2].append(cells[tag].strip() or "O")
    return found


def _lines(rows: dict[int, dict[str, Any]]) -> Iterator[bytes]:
    """The rows as JSON, each at the line of its number in the table."""
    for number in range(1, max(rows) + 1):
        yield json.dumps(rows[number], ensure_ascii=False).encode() if number in rows else b""


def write(path: Path, examples: Iterable[Example], lose: Note = ignore, *, variant: str) -> None:
    """Write a row for each entity, and one for a text without any, in the columns `WRITTEN`, so that offsets stay.

    Iterates over `examples` twice, first for their groups. Raises `NerError` for what a cell of Excel cannot hold.
    """
    rows = _rows(examples, lose, breaks=variant == "csv")
    if variant == "csv":
        write_csv(path, rows)
    else:
        write_workbook(path, rows, WRITTEN.index("text"))


def _rows(examples: Iterable[Example], lose: Note, breaks: bool) -> Iterator[tuple[str | int, ...]]:
    """The cells of each row; `breaks` is whether a cell keeps carriage returns."""
    grouped = any(example.group for example in examples)
    yield (*WRITTEN, "group") if grouped else WRITTEN
    seen, again, repeats = set[str](), list[str](), False
    for example in without_scores(examples, lose, groups=True):
        text = example.text
        if "\r" in text and not breaks:
            text = text.replace("\r", " ")
            lose(LINE_BREAKS, example.source)
        again += [example.source] if text in seen else []
        seen.add(text)
        repeats = repeats or len(example.entities) > 1
        cells: list[tuple[str | int, ...]]
        cells = [(e.label, text[e.start : e.end], e.start, e.end) for e in example.entities] or [("", "", "", "")]
        for each in cells:
            yield (example.id, text, *each, example.group) if grouped else (example.id, text, *each)
    for where in again if not repeats else ():
        lose(MERGED, where)
