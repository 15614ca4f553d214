"""The rows of a table of texts, with the annotation of each.

In: a `Header` and its column of texts. Out: a row for each text, as `tables` reads it, or the fault of a row. What is
left out or read otherwise than written is told to `warn`. Knows nothing of how a table lies in a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from ..errors import DataError, Note, ignore, quote
from .headers import LABEL, Header, is_none, label_columns, parts_of, surfaces
from .pairs import column_of_pairs, pairs

UNREAD = "columns that are not read, though their cells are in their texts"
CARRIED = "rows without a text, read with the text above, which holds their surfaces"
JOINED = "rows of one text, read as one"
APART = "rows of a text that stands further above too, read as one"
TRIMMED = "cells with white space around an entity or label, trimmed"
NO_GROUP = "rows without a group, though others have one"
NO_TEXT = "rows without a text or an entity, left out"


Tree = dict[str, list[str]]
"""The surfaces of each label."""


@dataclass
class TableRows:
    """The rows of a table of texts, to be read once."""

    path: Path
    header: Header
    text: int
    warn: Note
    found: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Number, text and annotation of each text, or the fault of a row, by its number."""
    none: dict[str, list[str]] = field(default_factory=dict)
    """What says that there is no entity, and its places."""

    def read(self, keep: Collection[str] | None, note: Note) -> list[dict[str, Any]]:
        """`found`, by number. Raises `DataError` if it cannot be told which columns are labels."""
        kind, columns = kind_of(self.header, self.text)
        if kind == "entities":
            self._of_entities(columns)
        elif kind == "pairs":
            self._of_trees(lambda number, cells, text: self._pairs(number, cells[columns["label"]], text))
        elif kind == "json":
            self._of_json(columns["label"])
        else:
            names, faults = label_columns(self.header, self.text, keep, self.path.name, self.warn)
            if faults:
                raise DataError(str(self.path), faults, len(self.header.rows))
            self._of_trees(lambda number, cells, text: self._labels(number, cells, text, names))
        if columns:
            self._unread(note, self.text, *columns.values())
        what = f"cells that say none ({', '.join(self.none)}), read as empty"
        for place in (place for places in self.none.values() for place in places):
            self.warn(what, place)
        self._group()
        return [self.found[number] for number in sorted(self.found)]

    def _group(self) -> None:
        """Give each row of `found` its group, if there is a column of those."""
        if (column := self.header.group(self.text)) is not None:
            groups = {number: cells[column].strip() for number, cells in self.header.rows}
            for number, row in self.found.items():
                row["group"] = groups[number]
                if not groups[number]:
                    self.warn(NO_GROUP, self._place(number))

    def _place(self, number: int) -> str:
        return f"{self.path.name}:{number}"

    def _unread(self, note: Note, *read: int) -> None:
        """Tell `note` of each cell in other columns, and `warn` of such columns that look like labels."""
        for at in self.header.others(*read):
            inside, outside = self.header.in_texts(at, self.text)
            if inside and len(inside) >= LABEL * (len(inside) + len(outside)):
                self.warn(UNREAD, f"{self.path.name}: {self.header.name_of(at)}")
            for number, cells in self.header.rows:
                if cells[at].strip():
                    note(f"the column {self.header.name_of(at)}", self._place(number))

    def _is_none(self, number: int, part: str, text: str) -> bool:
        """`is_none`, counted."""
        if found := is_none(part, text):
            self.none.setdefault(part, []).append(self._place(number))
        return found

    def _fault(self, number: int, what: str, remedy: str) -> None:
        self.found[number] = {"line": number, "fault": what, "remedy": remedy}

    def _goes_on(self, number: int, cells: list[str], above: str, named: list[str], annotated: bool) -> bool:
        """Whether a row without a text belongs to the text above: it names entities (`named`) that stand there."""
        if not annotated:
            if any(cell.strip() for cell in cells):
                self.warn(NO_TEXT, self._place(number))
            return False
        if above and named and all(surface in above for surface in named):
            self.warn(CARRIED, self._place(number))
            return True
        what = f"the row has no text, and the text above does not hold {quote('、'.join(named))}"
        self._fault(number, what if named else "the row has a label and no text", "write its text, or empty the row")
        return False

    def _of_entities(self, columns: dict[str, int]) -> None:
        texts: dict[str, dict[str, Any]] = {}
        above = ""
        for number, cells in self.header.rows:
            held = {kind: cells[at].strip() for kind, at in columns.items()}
            text = cells[self.text] if cells[self.text].strip() else above
            denied = {kind for kind in ("label", "surface") if self._is_none(number, held.get(kind, ""), text)}
            held |= dict.fromkeys(denied, "")
            surface, label = held.get("surface", ""), held["label"] if "surface" not in denied else ""
            written = [cells[columns[kind]] for kind in ("label", "surface") if held.get(kind)]
            if any(cell != cell.strip() for cell in written):
                self.warn(TRIMMED, self._place(number))
            where = surface or held.get("start", "") or held.get("end", "")
            named, annotated = surfaces(surface, text), bool(where or label)
            if not cells[self.text].strip() and not self._goes_on(number, cells, above, named, annotated):
                continue
            if text in texts and text != above:
                self.warn(APART, self._place(number))
            above = text
            row = texts.setdefault(text, {"line": number, "text": text, "items": []})
            self.found.setdefault(row["line"], row)
            if label and where:
                placed = held.get("start") or held.get("end")  # then the whole cell is the surface
                several = [_entity(held | {"surface": one}) for one in named]
                row["items"] += [_entity(held)] if placed or not several else several
            elif label:
                self._fault(
                    number, f"the label {quote(label)} has neither a surface nor offsets", "give it one of them"
                )
            elif where:
                self._fault(number, f"the entity {quote(where)} has no label", "give it one, or empty its cells")

    def _of_json(self, label: int) -> None:
        for number, cells in self.header.rows:
            text, answer = cells[self.text], cells[label].strip()
            if any(cell.strip() for cell in cells):
                answer = "" if self._is_none(number, answer, text) else answer
                self.found[number] = {"line": number, "text": text, "answer": answer or "{}"}

    def _of_trees(self, tree_of: Callable[[int, list[str], str], Tree]) -> None:
        """One row per text, whose labels and surfaces `tree_of` finds in its number, cells and text."""
        rows: list[tuple[int, str, Tree]] = []
        above = ""
        for number, cells in self.header.rows:
            text = cells[self.text] if cells[self.text].strip() else above
            tree = tree_of(number, cells, text)
            named = [surface for ones in tree.values() for surface in ones]
            if cells[self.text].strip() or self._goes_on(number, cells, above, named, bool(named)):
                above = text
                rows.append((number, text, tree))
        for text, group in groupby(rows, key=lambda row: row[1]):
            same = list(group)
            if all(tree == same[0][2] for _, _, tree in same):
                self.found |= {number: {"line": number, "text": text, "tree": tree} for number, _, tree in same}
            else:
                self._join(text, same)

    def _labels(self, number: int, cells: list[str], text: str, columns: list[int]) -> Tree:
        """What stands in the columns of labels."""
        tree: Tree = {}
        for at in columns:
            for part in parts_of(cells[at]):
                self._is_none(number, part, text)
            if named := surfaces(cells[at], text):
                known = tree.setdefault(self.header.names[at], [])
                known += [surface for surface in named if surface not in known]
        return tree

    def _pairs(self, number: int, cell: str, text: str) -> Tree:
        """What a cell of labels and surfaces names."""
        tree: Tree = {}
        for label, surface in pairs(cell, text):
            if self._is_none(number, surface, text):
                continue
            known = tree.setdefault(label, [])
            known += [surface] if surface not in known else []
        return tree

    def _join(self, text: str, rows: list[tuple[int, str, Tree]]) -> None:
        """Make one row of several with the same text, each of which has some of its entities."""
        tree: dict[str, dict[str, None]] = {}
        for number, _, part in rows:
            for label, named in part.items():
                tree.setdefault(label, {}).update(dict.fromkeys(named))
            if number != rows[0][0]:
                self.warn(JOINED, self._place(number))
        line = rows[0][0]
        self.found[line] = {"line": line, "text": text, "tree": {label: [*named] for label, named in tree.items()}}


def kind_of(header: Header, text: int) -> tuple[Literal["entities", "pairs", "json", "labels"], dict[str, int]]:
    """What the rows of a table are, and the columns of its annotation by what they hold; none if each is a label."""
    columns = {kind: at for kind in ("label", "start", "end", "surface") if (at := header.column(kind)) is not None}
    if "label" in columns and ("surface" in columns or {"start", "end"} <= columns.keys()):
        return "entities", columns
    if (paired := column_of_pairs(header, text)) is not None:
        return "pairs", {"label": paired}
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


def _entity(held: dict[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {"label": held["label"]}
    if held.get("surface"):
        made["text"] = held["surface"]
    for kind in ("start", "end"):
        if held.get(kind):
            whole = re.fullmatch(r"(\d+)(\.0+)?", held[kind])
            made[kind] = int(whole[1]) if whole else held[kind]
    return made
