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
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ....entities import Example, LabelSet, NerError
from ..errors import LineFault, Note, count, ignore, quote
from ..jsonl import entities_of
from ..rows import read_rows
from ..tagged.tagging import read_sentences
from .headers import SPACES, Header, header_of, is_annotated, text_column, words
from .pairs import pair_of
from .sheets import tables_of
from .table_rows import TableRows, kind_of
from .tools import ANSWER, annotation_of

NAME = "table"
SUFFIXES = (".csv", ".xlsx")
DESCRIPTION = "tables (CSV, Excel): one row per entity, text or character"

COLUMNS = (
    "A table has its texts in a column named text, 文本 or the like (点评内容 too). Beside it are either label and "
    "entity (标签, 实体), perhaps with start and end, one row per entity; or one column per label, with its name and "
    "surfaces separated by 、; or one column with cells like 公司:三星、苹果;地点:北京. Surfaces occur in their texts; "
    "other columns are left out, with a warning."
)
"""For help texts: what the columns of a table are."""

SENTENCE = ("sentence #", "sentence_id", "sentence", "sent_id", "sid", "句子", "句号", "id")


def claims(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def sniff(head: bytes, name: str) -> bool:
    return name.endswith(SUFFIXES)


@dataclass(frozen=True)
class Layout:
    """The table of a file that is read, its column of texts, and what of the file is left out, by kind and place."""

    header: Header
    text: int | None
    left: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """What the columns are taken for; of labels in columns of their own `TableRows` decides."""
        if self.header.tagged:
            return f"a table, one row per character: {self._named(*self.header.tagged)}"
        if self.text is None:
            return DESCRIPTION
        kind, columns = kind_of(self.header, self.text)
        named = self._named(*columns.values())
        return {
            "entities": f"a table, one row per entity: {self._named(self.text, *columns.values())}",
            "pairs": f"a table, one row per text, with labels and surfaces in {named}",
            "json": f"a table, one row per text, with its entities in {named}",
            "labels": "a table, one row per text and one column per label",
        }[kind]

    def _named(self, *columns: int) -> str:
        return ", ".join(self.header.names[at] for at in sorted(columns))


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
    header, text = layout.header, layout.text
    for what, where in layout.left:
        warn(what, where)
    if header.tagged:
        sentences = _sentences(path.name, header, *header.tagged)
        return read_sentences(sentences, str(path), labels, note if repair else None, warn)
    if text is None:
        remedy = 'name the column of the sentences "text", and the others as `qwen-ner convert --help` says'
        raise NerError("no column of texts in the header", value=header.names, place=path, remedy=remedy)
    rows = TableRows(path, header, text, warn).read(keep, note)
    if not rows:
        raise NerError("no rows below the header", value=header.names, place=path, remedy="write the sentences there")
    lines = partial(_lines, path.name, rows)
    return read_rows(lines, path, labels, entities_of, row_of=_checked, note=note, warn=warn)


def survey(path: str | Path) -> Layout:
    """The first table with annotated texts, else with texts, and its column of texts."""
    path = Path(path).expanduser()
    tables = tables_of(path)
    found: dict[str, tuple[Header, int | None]] = {}
    for title, table in tables.items():
        header = header_of(table)
        try:
            found[title] = header, None if header.tagged else text_column(header)
        except NerError as error:
            raise NerError(error.what, value=error.value, place=path, remedy=error.remedy) from None
    titles = [*found]
    with_texts = [title for title, (header, text) in found.items() if header.tagged or text is not None]
    read = next((title for title in with_texts if is_annotated(*found[title])), (*with_texts, *titles, None)[0])
    if read is None:
        return Layout(Header(1, [], []), None, ())
    left = []
    for at, title in enumerate(titles):
        if title != read:
            first = at > titles.index(read)
            what = "sheets after the first, left out" if first else "sheets without annotated texts, left out"
            filled = sum(any(cell.strip() for cell in cells) for _, cells in tables[title])
            left.append((what, f"{path.name}: {title}, {count(filled, 'row')}"))
    for number, cells in tables[read]:
        if number < found[read][0].number and any(cell.strip() for cell in cells):
            left.append(("rows above the header, left out", f"{path.name}:{number}"))
    return Layout(*found[read], tuple(left))


def _sentences(name: str, header: Header, token: int, tag: int) -> list[tuple[str, list[str], list[str]]]:
    """Place, tokens and tags of each sentence."""
    mark = next((at for at in (header.one_of(SENTENCE),) if at not in (token, tag)), None)
    found: list[tuple[str, list[str], list[str]]] = []  # place, tokens, tags
    before, fresh = "", True
    for number, cells in header.rows:
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


def _lines(name: str, rows: list[dict[str, Any]]) -> Iterator[bytes]:
    """The rows as JSON, each at the line of its number in the table."""
    at = 1
    for row in rows:
        yield from [b"\n"] * (row["line"] - at)
        yield json.dumps(row, ensure_ascii=False).encode() + b"\n"
        at = row["line"] + 1


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `_lines` in the keys of `jsonl`. Raises `LineFault` for an annotation that cannot be read."""
    if "fault" in row:
        raise LineFault(row["fault"], remedy=row["remedy"])
    text = {"text": row["text"], "group": row.get("group", "")}
    if "tree" in row:
        _check(row["tree"], row["text"])
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


def _check(tree: dict[str, list[str]], text: str) -> None:
    """Raise `LineFault` for surfaces that only spaces separate (北京 大学 may also be one), and for those without a
    label or with one too many."""
    for label, named in tree.items():
        for surface in named:
            if not label:
                raise LineFault(f"the surface {quote(surface)} has no label", remedy=f"write 公司:{surface}, say")
            if (pair := pair_of(surface, text))[0] and pair[1] in text:
                raise LineFault(f"{label} {quote(surface)} is not in the text", remedy=f"write {quote(pair[1])} alone")
            parts = words(SPACES, surface)
            if surface not in text and len(parts) > 1 and all(part in text for part in parts):
                what = f"{label} {quote(surface)} is not in the text, its words are"
                raise LineFault(what, remedy="separate surfaces by 、, or write the surface as the text has it")
