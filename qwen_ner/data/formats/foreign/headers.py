"""What the columns of a table hold: which row names them, which holds the texts, which are labels.

In: the rows of a table. Out: a `Header`, and the columns of labels. Names tell first; where they do not, the cells do:
surfaces stand in their texts. What neither tells is an error. Knows nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ....columns import join_names
from ....entities import NerError
from ..errors import LineFault, Note, count, quote
from ..tagged.schemes import parse_tag
from .cells import is_in, is_none, name_parts, pairs, surfaces
from .items import KEYS, answered
from .sheets import Table

CHINESE = {
    "text": ("文本", "句子", "内容", "原文", "正文", "语句", "text"),
    "label": ("标签", "类别", "类型", "实体类型", "实体类别", "实体标签", "实体类"),
    "start": ("开始", "起始", "开始位置", "起始位置", "开始下标", "起始下标", "开始索引", "起始索引"),
    "end": ("结束", "终止", "结束位置", "终止位置", "结束下标", "终止下标", "结束索引", "终止索引"),
    "surface": (
        *("实体", "实体名称", "实体内容", "实体词", "实体名", "名称", "实体文本", "实体值"),
        *("关键词", "词", "字", "token"),
    ),
}
TOKEN = ("char", "character", "token", "word", "字", "字符", "词")
TAG = ("tag", "ner_tag", "label", "bio", "标注", "标签", "ner")
IDS = ("id", "编号", "序号")
GROUP = ("group", "分组")

TEXT_NAME = re.compile(
    "文本|语句|内容|评论|点评|正文|句子|原文|标题|text|content|sentence|comment|review", re.IGNORECASE
)
"""A part of the name of a column of texts, if it also looks like one."""

OTHER_NAME = re.compile(
    "日期|时间|[人者员]$|用户|昵称|备注|说明|来源|评分|星级|状态|批次|链接|审核|点赞|"
    "date|time|annotator|author|user|remark|note|source|rating|score|status|url",
    re.IGNORECASE,
)
"""A part of the name of a column that stands beside an annotation."""

SURFACE_NAME = re.compile("实体|提及|关键词|entity|mention|surface", re.IGNORECASE)
"""A part of the name of a column of surfaces whose labels are in another."""

NAME_LABELS = "name the labels with --labels (labels: in a recipe)"

LOOKED_AT, NAME_LENGTH = 10, 20
"""Rows among which the header is looked for, and characters of the name of a column of texts, at most."""

LABEL, OTHER, FEW = 0.8, 0.1, 5
"""A column is one of labels if this share of its cells is in their texts; it is none if no more than `OTHER` of `FEW`
cells or more are."""

NUMBER = re.compile(r"[\d\s.,:：/年月日时分-]+")
WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Header:
    """The columns of a table by what they hold, and its rows, each with a cell for every column."""

    number: int
    names: list[str]
    rows: Table

    def one_of(self, names: Sequence[str]) -> int | None:
        """The column with the first of these names, whatever its spaces, width and case; another may be in brackets."""
        known = [part for name in names for part in name_parts(name)]
        held = [name_parts(name) for name in self.names]
        return next((at for name in known for at, own in enumerate(held) if name in own and {*own} <= {*known}), None)

    def column(self, kind: str) -> int | None:
        """The column of this kind of `KEYS`, by its name."""
        foreign = (name for name in KEYS[kind] if kind != "surface" or name != "text")
        return self.one_of((*CHINESE[kind], *foreign))

    @cached_property
    def tagged(self) -> dict[str, int] | None:
        """The columns of characters and tags, if it is a table of those, and not of words with labels and texts."""
        token, tag = self.one_of(TOKEN), self.one_of(TAG)
        if token is None or tag is None or (self.column("text") is not None and self.one_of(("start",)) is not None):
            return None
        named = [name for _, cells in self.rows if (name := cells[tag].strip())]
        are_tags = not named or "O" in named or 2 * sum(parse_tag(name) is not None for name in named) > len(named)
        if not are_tags and any(self.names_entities(token, at) for at in self.others(None, token, tag)):
            return None
        return {"token": token, "tag": tag}

    def name_of(self, at: int) -> str:
        """The name of a column as a message shows it; Excel's letter where it has none."""
        if self.names[at]:
            return quote(self.names[at])
        from openpyxl.utils import get_column_letter  # type: ignore[import-untyped, unused-ignore]

        return f"{get_column_letter(at + 1)}, which has no name,"

    def group(self, text: int | None) -> int | None:
        """The column of what rows have in common, such as their patient. One of surfaces of the texts is a label's."""
        at = self.one_of(GROUP)
        return None if at is None or (text is not None and self.in_texts(at, text)[0]) else at

    def others(self, text: int | None, *taken: int | None) -> Iterator[int]:
        """The columns that hold something and are neither the texts, ids, groups nor `taken`."""
        known = {text, *taken, self.one_of(IDS), self.group(text)}
        for at in range(len(self.names)):
            if at not in known and any(cells[at].strip() for _, cells in self.rows):
                yield at

    def in_texts(self, at: int, text: int) -> tuple[list[int], list[int]]:
        """The numbers of the rows whose cell in column `at` is in the text, and of those where it is not.

        A row without a text belongs to the one above; a cell that says that there is none does not count.
        """
        inside: list[int] = []
        outside: list[int] = []
        for number, cells, above in self.with_texts(text):
            if surfaces(cells[at], above):
                (inside if is_in(cells[at], above) else outside).append(number)
        return inside, outside

    def names_entities(self, at: int, text: int) -> bool:
        """Whether column `at` holds surfaces of the texts in column `text`."""
        inside, outside = self.in_texts(at, text)
        return bool(inside) and len(inside) >= LABEL * (len(inside) + len(outside))

    def with_texts(self, text: int) -> Iterator[tuple[int, list[str], str]]:
        """The number of each row, its cells and its text, which may be that of a row above."""
        above = ""
        for number, cells in self.rows:
            above = cells[text] if cells[text].strip() else above
            yield number, cells, above


def header_of(table: Table) -> Header:
    """The first row that names a column of texts and has more cells than those above, which are titles; else the first
    that has about as many cells as the rows below."""
    width = max((len(cells) for _, cells in table), default=0)
    rows = [(number, [*cells, *[""] * (width - len(cells))]) for number, cells in table]
    names = [[cell.strip() for cell in cells] for _, cells in rows]
    sizes = {at: len({*row} - {""}) for at, row in enumerate(names)}
    first = list(filter(sizes.__getitem__, sizes))[:LOOKED_AT]
    most = 1
    for at in first:
        if sizes[at] > most and any(len(name) <= NAME_LENGTH and TEXT_NAME.search(name) for name in names[at]):
            below = zip(names[at], names[at + 1] if at + 1 < len(names) else (), strict=False)
            found = at + any(name == cell and TEXT_NAME.search(name) is not None for name, cell in below)
            break  # the names may be merged downwards into a second row
        most = max(most, sizes[at])
    else:
        found = next((at for at in first if 2 * sizes[at] >= max(sizes[at] for at in first)), -1)
    return Header(rows[found][0], names[found], rows[found + 1 :]) if first else Header(1, [], [])


def text_column(header: Header, place: object) -> int | None:
    """The column of the texts: by its name, by a part of its name, or as the one that the others name entities of.

    That of characters or words if they are tagged; None if there is none. Raises `NerError`, with the place, if several
    columns may be it.
    """
    found = header.tagged["token"] if header.tagged else header.column("text")
    if found is not None:
        return found
    known = (header.column(kind) for kind in ("label", "start", "end", "surface"))
    sizes = {
        at: sum(len(cells[at]) for _, cells in header.rows if WORD.search(cells[at]))
        for at in header.others(None, *known)
    }
    by_size = sorted(filter(sizes.__getitem__, sizes), key=lambda at: -sizes[at])
    named = [at for at in by_size if TEXT_NAME.search(header.names[at])]
    if named and named[0] == by_size[0]:
        rivals = [header.names[at] for at in named if 2 * sizes[at] >= sizes[named[0]]]
        if len(rivals) > 1:
            remedy = 'name the one that is annotated "text"'
            raise NerError("several columns may hold the texts", value=rivals, place=place, remedy=remedy)
        return named[0]
    return next((at for at in (*named, *by_size[:1]) if _is_named_of(header, at)), None)


def is_annotated(header: Header, text: int) -> bool:
    """Whether a table holds more than texts."""
    return header.tagged is not None or header.column("label") is not None or _is_named_of(header, text)


def _is_named_of(header: Header, text: int) -> bool:
    """Whether another column holds surfaces of this one's cells."""
    return any(header.names_entities(at, text) for at in header.others(text))


def label_columns(
    header: Header, text: int, keep: Collection[str] | None, name: str, warn: Note
) -> tuple[list[int], list[str]]:
    """The columns whose names are labels, and a fault for each column of which that cannot be told.

    Those that `keep` names are, whatever they hold; of the others it leaves out those of which some cells are not in
    their texts. `warn` gets the columns that are left out.
    """
    found: list[int] = []
    left: list[int] = []
    faults: list[str] = []
    for at in header.others(text):
        inside, outside = header.in_texts(at, text)
        cells, title = len(inside) + len(outside), header.names[at]
        other = _is_other(header, at, len(inside), cells)
        is_label = inside and not other and (len(outside) <= 3 or len(inside) >= LABEL * cells)
        if title and (title in (keep or ()) or not cells or (is_label and not (keep and outside))):
            found.append(at)
        elif other or keep:
            left.append(at)
        else:
            which = f"{len(outside):,} of {count(cells, 'cell')} are not in their texts"
            rows = f", in rows {join_names(map(str, outside))}" if outside else ""
            fault = f"the column {header.name_of(at)} may be a label or not: {which}{rows}"
            remedy = 'if it holds the labels of entities in another column, name them "label" and "entity"; otherwise'
            faults.append(f"{fault}; if it is one, name it and correct them; {remedy} delete it, or {NAME_LABELS}")
    if not keep:
        faults += _labels_of(header, found, left)
    for at in left:
        why = "that `labels` does not name" if keep else "that are no labels, as their cells are not in their texts"
        warn(f"columns {why}, left out", f"{name}: {header.names[at] or header.name_of(at)}")
    return found, [f"{name}:{header.number}: {fault}" for fault in faults]


def _labels_of(header: Header, found: Sequence[int], left: Sequence[int]) -> Iterator[str]:
    """A fault for each column that is left out and may hold the labels of the surfaces in another."""
    named = (at for at in found if at == header.column("surface") or SURFACE_NAME.search(header.names[at]))
    of = found[0] if len(found) == 1 else next(named, None)
    for at in left:
        cells = [cell for _, row in header.rows if (cell := row[at].strip())]
        if of is not None and header.names[at] and 2 * len({*cells}) <= len(cells) and not _stands_beside(header, at):
            fault = f"the column {header.name_of(at)} may hold the labels of {header.name_of(of)}"
            remedy = 'if so, name them "label" and "entity", and give each entity a row of its own'
            yield f"{fault}; {remedy}; otherwise delete it, or {NAME_LABELS}"


def _is_other(header: Header, at: int, inside: int, cells: int) -> bool:
    """Whether a column is none of labels; `inside` of its `cells` are in their texts."""
    return (cells >= FEW and inside <= OTHER * cells) or (2 * inside < cells and _stands_beside(header, at))


def _stands_beside(header: Header, at: int) -> bool:
    """Whether a column has numbers only, or the name of one that stands beside an annotation."""
    numbers = all(NUMBER.fullmatch(row[at]) for _, row in header.rows if row[at].strip())
    return numbers or OTHER_NAME.search(header.names[at]) is not None


def column_of_pairs(header: Header, text: int) -> int | None:
    """The first column most of whose cells name labels and surfaces of their texts."""
    for at in header.others(text):
        good = filled = 0
        for _, cells, above in header.with_texts(text):
            if (cell := cells[at].strip()) and not is_none(cell, above):
                named = pairs(cell, above)
                filled += 1
                good += bool(named) and all(label and surface in above for label, surface in named)
        if 2 * good > filled:
            return at
    return None


def column_of_json(header: Header, text: int) -> int | None:
    """The first column most of whose cells are JSON that names entities of their texts, but for empty ones."""
    for at in header.others(text):
        cells = ((row[at].strip(), above) for _, row, above in header.with_texts(text))
        named = ((cell, above) for cell, above in cells if cell not in ("", "[]", "{}") and not is_none(cell, above))
        good = [_is_annotation(cell, above) for cell, above in named]
        if 2 * sum(good) > len(good):
            return at
    return None


def _is_annotation(cell: str, text: str) -> bool:
    """Whether a cell is JSON that names entities of a text."""
    if not cell.startswith(("{", "[")):
        return False
    try:
        made = answered(cell, text)
    except LineFault:
        return False
    found = made["entities"] if "entities" in made else [*made["label"].values()]
    return all(
        isinstance(one, dict) or (isinstance(one, list) and any(str(name) in text for name in one)) for one in found
    )
