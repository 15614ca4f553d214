"""The rows of a table of texts, with the annotation of each.

In: a `Header`, its column of texts, and what its other columns hold. Out: a row for each text as `jsonl` reads it, or
the fault of a row. What is left out or read otherwise than written is told to `warn`. Knows nothing of how a table lies
in a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import DataError, LineFault, Note, quote
from ..mentions import unlike
from .cells import is_none, lists_of, pairs, parts_of, split, surfaces
from .doubts import check_columns, check_typed
from .headers import IDS, NAME_LABELS, Header, label_columns
from .items import annotation_of, answered

UNREAD = "columns that are not read, though their cells are in their texts"
CARRIED = "rows without a text, read with the text above, which holds their surfaces"
JOINED = "rows of one text, read as one"
APART = "rows of a text that stands further above too, read as one"
TRIMMED = "cells with white space around an entity or label, trimmed"
PLACED = "entities without offsets beside others that have them, placed where their surface stands once"
WHOLE = "cells with a separator that stand in their texts as they are, each read as one entity"
SEPARATED = "cells that stand in their texts as they are, split at their separators nevertheless"
NO_GROUP = "rows without a group, though others have one"
NO_IDS = "columns of ids that are missing or the same in some rows, not read: rows have their numbers"
NO_TEXT = "rows without a text or an entity, left out"
NONE = "cells that say none, read as empty"
DOUBLE = "entities with two labels, both kept; if annotators disagree, delete the row of one"
DENIED = (
    "rows that say that their text has no entity, though other rows of it name some, which are kept; if annotators "
    "disagree, delete the rows of one"
)


@dataclass
class TableRows:
    """The rows of a table of texts, to be read once."""

    path: Path
    header: Header
    text: int
    warn: Note
    found: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The row of each text, by number, as `row_of` takes it."""

    def read(
        self, kind: str, columns: dict[str, int], keep: Collection[str] | None, note: Note
    ) -> dict[int, dict[str, Any]]:
        """`found`. `kind` and `columns` are a `tables.Layout`'s; `keep` as for `label_columns`.

        Raises `DataError` if it cannot be told which columns are labels.
        """
        named = [columns["surface"]] if "surface" in columns else []
        if kind != "labels":
            check_typed(self.path, self.header, self.text, named)
        if kind == "entities":
            if named:
                check_columns(self.path, self.header, self.text, columns)
            self._of_entities(columns)
        elif kind == "json":
            self._of_json(columns["label"])
        elif kind == "pairs":
            self._of_trees(lambda cells, text: pairs(cells[columns["label"]], text))
        else:
            labels, faults = label_columns(self.header, self.text, keep, self.path.name, self.warn)
            if faults:
                raise DataError(str(self.path), faults, len(self.header.rows))
            check_typed(self.path, self.header, self.text, labels)
            names = self.header.names
            self._of_trees(lambda cells, _: [(names[at], part) for at in labels for part in parts_of(cells[at])])
            self._tell_separated(labels)
            self._check_surfaces()
        if columns:
            self._unread(note, self.text, *columns.values())
        self._name()
        return self.found

    def _check_surfaces(self) -> None:
        """Make faults of the rows with a surface that is not in the text: its column may be one of remarks."""
        for number, row in list(self.found.items()):
            pairs = ((label, surface) for label, ones in row.get("label", {}).items() for surface in ones)
            if wrong := [pair for pair in pairs if pair[1] not in row["text"]]:
                named = " and ".join(f"{label} {quote(surface)}" for label, surface in wrong)
                what = f"{named} {'is' if len(wrong) == 1 else 'are'} not in the text {quote(row['text'])}"
                copy, name = unlike(wrong[0][1], row["text"]), wrong[0][0]
                remedy = f"correct it{copy}; if {name} is no label, delete its column, or {NAME_LABELS}"
                self._fault(number, what, remedy)

    def _tell_separated(self, labels: list[int]) -> None:
        """Tell `warn` of cells that may be one surface and are read as several."""
        for number, cells, text in self.header.with_texts(self.text):
            for cell in (cells[at].strip() for at in labels):
                if cell in text and len(parts_of(cell)) > 1:
                    self.warn(SEPARATED, f"{self._place(number)} {cell}")

    def _name(self) -> None:
        """Give each row of `found` its id and its group, if there are columns of those."""
        ids, groups = self._filled(self.header.one_of(IDS)), self._filled(self.header.group(self.text))
        if ids and len({*ids.values()}) < len(self.found):
            self.warn(NO_IDS, self.path.name)
            ids = {}
        for number, row in self.found.items():
            if number in ids:
                row["id"] = ids[number]
            if number in groups:
                row["group"] = groups[number]
            elif groups:
                self.warn(NO_GROUP, self._place(number))

    def _filled(self, column: int | None) -> dict[int, str]:
        """What the rows of `found` have in a column, by number, without those that have nothing there."""
        if column is None:
            return {}
        cells = ((number, row[column].strip()) for number, row in self.header.rows if number in self.found)
        return {number: cell for number, cell in cells if cell}

    def _place(self, number: int) -> str:
        return f"{self.path.name}:{number}"

    def _unread(self, note: Note, *read: int) -> None:
        """Tell `note` of each cell in other columns, and `warn` of such columns that look like labels."""
        for at in self.header.others(*read):
            if self.header.names_entities(at, self.text):
                self.warn(UNREAD, f"{self.path.name}: {self.header.name_of(at)}")
            for number, cells in self.header.rows:
                if cells[at].strip():
                    note(f"the column {self.header.name_of(at)}", self._place(number))

    def _is_none(self, number: int, part: str, text: str) -> bool:
        """`is_none`, told."""
        if found := is_none(part, text):
            self.warn(NONE, f"{self._place(number)} {part}")
        return found

    def _fault(self, number: int, what: str, remedy: str) -> None:
        self.found[number] = {"fault": what, "remedy": remedy}

    def _counts(self, number: int, cells: list[str], text: str, named: Collection[str], annotated: bool) -> bool:
        """Whether a row has a text or goes on with that above: it names entities (`named`) that stand there."""
        if cells[self.text].strip():
            return True
        if not annotated:
            if any(cell.strip() for cell in cells):
                self.warn(NO_TEXT, self._place(number))
        elif text and named and all(surface in text for surface in named):
            self.warn(CARRIED, self._place(number))
            return True
        else:
            what = f"the row has no text, and the text above does not hold what it names, {quote('、'.join(named))}"
            self._fault(number, what, "write its text, or empty the row")
        return False

    def _of_entities(self, columns: dict[str, int]) -> None:
        """A row an entity; those of one text are one row, at the first."""
        texts: dict[tuple[str, str], tuple[int, list[tuple[int, dict[str, Any]]]]] = {}
        empty: list[tuple[int, tuple[str, str]]] = []
        before, ids = ("", ""), self._ids_of_texts()
        single = self._labels_of_one(columns)
        for number, cells, text in self.header.with_texts(self.text):
            held = {kind: cell for kind, at in columns.items() if (cell := cells[at].strip())}
            if not {"start", "end"} <= held.keys():  # offsets say that there is one, even if it is 无
                none = [kind for kind in ("label", "surface") if self._is_none(number, held.get(kind, ""), text)]
                for kind in ("label", "surface") if "surface" in none else none:
                    held.pop(kind, None)
            if any(cells[columns[kind]] != held[kind] for kind in ("label", "surface") if kind in held):
                self.warn(TRIMMED, self._place(number))
            named = surfaces(held.get("surface", ""), text)
            if not self._counts(number, cells, text, named, annotated=bool(held)):
                continue
            key = text, ids.get(number, "")
            if key in texts and key != before:
                self.warn(APART, self._place(number))
            before = key
            _, items = texts.setdefault(key, (number, []))
            if len(held) > 1 and "label" in held:
                items += [(number, _entity(one)) for one in self._entities_of(number, held, text, single)]
            elif held:
                remedy = "give it both a label and an entity, or empty its cells"
                self._fault(number, f"the row has {quote(held)} alone", remedy)
            else:
                empty.append((number, key))
        for number, key in empty:
            if texts[key][1]:
                self.warn(DENIED, self._place(number))
        for (text, _), (number, items) in texts.items():
            placed = any("start" in item for _, item in items)
            made = [self._placed(item, at, text) if placed else item for at, item in items]
            self._tell_doubles([at for at, _ in items], made)
            self.found.setdefault(number, {"text": text, "items": made})  # unless that row is a fault

    def _tell_doubles(self, numbers: list[int], items: list[dict[str, Any]]) -> None:
        """Tell `warn` of the entities of one text that are at one place, or without a place, under two labels."""
        labels: dict[tuple[Any, Any], str] = {}
        for number, item in zip(numbers, items, strict=True):
            start, end = (item.get(kind) for kind in ("start", "end"))
            named = item.get("text", f"[{start}, {end})")
            first = labels.setdefault((named if start is None else start, end), item["label"])
            if first != item["label"]:
                self.warn(DOUBLE, f"{self._place(number)} {named} is {first} and {item['label']}")

    def _entities_of(self, number: int, held: dict[str, str], text: str, single: set[str]) -> list[dict[str, str]]:
        """What a row says of each of its entities. With offsets the whole cell is a surface."""
        surface, named = held.get("surface", ""), surfaces(held.get("surface", ""), text)
        if held.keys() & {"start", "end"} or not named:
            return [held]
        labels, parts = lists_of(held["label"], surface, text)
        if len(labels) == 1 or held["label"] in single:
            if len(parts) > 1 and named == [surface]:
                self.warn(WHOLE, f"{self._place(number)} {surface}")
            return [held | {"surface": one} for one in named]
        if len(labels) != len(parts):
            what = f"the row has {len(parts)} surfaces and {len(labels)} labels"
            self._fault(number, what, "give each entity a row of its own")
        return [{"label": label, "surface": part} for label, part in zip(labels, parts, strict=False)]

    def _labels_of_one(self, columns: dict[str, int]) -> set[str]:
        """The labels of rows with one surface: none of them is a list of labels, whatever is in it."""
        at, of = columns["label"], columns.get("surface", columns["label"])
        cells = ((row[at].strip(), row[of].strip(), text) for _, row, text in self.header.with_texts(self.text))
        return {label for label, surface, text in cells if len(lists_of(label, surface, text)[1]) == 1}

    def _placed(self, item: dict[str, Any], number: int, text: str) -> dict[str, Any]:
        """An entity beside others that have offsets, with its own if its surface leaves no doubt."""
        surface = item.get("text", "")
        if item.keys() & {"start", "end"} or text.count(surface) != 1:
            return item
        self.warn(PLACED, f"{self._place(number)} {surface}")
        return item | {"start": text.index(surface), "end": text.index(surface) + len(surface)}

    def _ids_of_texts(self) -> dict[int, str]:
        """The ids of the rows, if they are those of their texts and not of their entities: some have several rows."""
        column, texts = self.header.one_of(IDS), dict[str, str]()
        if column is None:
            return {}
        ids = {number: cells[column].strip() for number, cells, _ in self.header.with_texts(self.text)}
        one = all(texts.setdefault(ids[number], text) == text for number, _, text in self.header.with_texts(self.text))
        return ids if one and all(ids.values()) and len(texts) < len(ids) else {}

    def _of_json(self, label: int) -> None:
        for number, cells in self.header.rows:
            text, answer = cells[self.text], cells[label].strip()
            if any(cell.strip() for cell in cells):
                answer = "" if self._is_none(number, answer, text) else answer
                self.found[number] = {"text": text, "answer": answer or "{}"}

    def _of_trees(self, parts: Callable[[list[str], str], Iterable[tuple[str, str]]]) -> None:
        """A row a text. `parts` finds labels and what may be several surfaces in the cells of a row and its text."""
        rows: list[tuple[int, str, dict[str, list[str]]]] = []
        for number, cells, text in self.header.with_texts(self.text):
            tree: dict[str, dict[str, None]] = {}
            for label, part in parts(cells, text):
                if not self._is_none(number, part, text):
                    tree.setdefault(label, {}).update(dict.fromkeys(split(part, text)))
            named = [surface for ones in tree.values() for surface in ones]
            if self._counts(number, cells, text, named, annotated=bool(named)):
                rows.append((number, text, {label: [*ones] for label, ones in tree.items()}))
        for text, group in groupby(rows, key=lambda row: row[1]):
            same = list(group)
            if all(tree == same[0][2] for _, _, tree in same):
                self.found |= {number: {"text": text, "label": tree} for number, _, tree in same}
                continue
            whole: dict[str, dict[str, None]] = {}
            for number, _, labels in same:
                for label, ones in labels.items():
                    whole.setdefault(label, {}).update(dict.fromkeys(ones))
                if number != same[0][0]:
                    self.warn(JOINED, self._place(number))
            self.found[same[0][0]] = {"text": text, "label": {label: [*ones] for label, ones in whole.items()}}


def row_of(row: dict[str, Any]) -> dict[str, Any]:
    """What `TableRows` found in the keys of `jsonl`. Raises `LineFault` for a fault."""
    if "fault" in row:
        raise LineFault(row["fault"], remedy=row["remedy"])
    own = {key: row[key] for key in ("id", "group", "text") if key in row}
    if "items" in row:
        return own | annotation_of(row["items"], row["text"])
    return own | answered(row["answer"], row["text"], "cell") if "answer" in row else row


def _entity(held: dict[str, str]) -> dict[str, Any]:
    """An entity in the keys of `jsonl`."""
    made: dict[str, Any] = {"text" if kind == "surface" else kind: cell for kind, cell in held.items()}
    for kind in ("start", "end"):
        if whole := re.fullmatch(r"(\d+)(\.0+)?", held.get(kind, "")):
            made[kind] = int(whole[1])
    return made
