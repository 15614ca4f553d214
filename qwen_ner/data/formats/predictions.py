"""Files of predictions: what `predict` and `evaluate --report` write, and CLUENER's submission.

Beside the formats of annotated data: a prediction has problems and surfaces without a place, and belongs to a gold row.

In: such a file, and the gold rows that it belongs to. Out: a `Decoded` for each gold row; a submission. Knows nothing
of scores and models.
"""

from __future__ import annotations

import codecs
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from ...codec import PROBLEM_KINDS, Decoded, Problem
from ...entities import Entity, Example, LabelSet, NerError, in_order
from .cluener import inclusive_spans
from .errors import Faults, LineFault, Report, count, quote
from .lines import lines_of
from .mentions import EntityReader, entity_of, refuse
from .rows import ONE_A_LINE, as_object, json_value

log = logging.getLogger(__name__)

NO_GOLD = "name the data it is scored by (--data, --split), or take the predictions.jsonl of `evaluate --report`"
"""The remedy."""

PREDICTIONS_NAME, METRICS_NAME = "predictions.jsonl", "metrics.json"


def read_predictions(path: str | Path, gold: Sequence[Example] | None = None) -> tuple[list[Example], list[Decoded]]:
    """The gold rows, and beside each what the file predicts for it. A folder means its predictions.jsonl.

    A line is one of

        {"id": "0", "text": "三星在北京", "entities": [{"label": "company", "start": 0, "end": 2}], "gold": […]}
        {"id": 0, "label": {"company": {"三星": [[0, 1]]}}}

    where the second one is CLUENER's submission, with inclusive ends. Lines find their row by its id; without `gold`
    each line must have its own, as `evaluate --report` writes it. A line with an `error` predicts nothing.
    Raises `DataError` with all faults: malformed lines, spans that do not fit the text, rows without a line.
    """
    lines = _Lines(path)
    if gold is None:
        gold = list(lines.own_gold())
    return list(gold), list(lines.predictions(gold))


def iter_predictions(path: str | Path, gold: Iterable[Example]) -> Iterator[Decoded]:
    """As `read_predictions`, one prediction at a time. Raises at the end: the predictions before are valid only if not.

    Only the ids stay in memory, and where in the file each has its line.
    """
    return _Lines(path).predictions(gold)


def labels_of_predictions(path: str | Path, gold: Iterable[Example], predicted: Iterable[Decoded]) -> set[str]:
    """The labels to score `predicted`, which `path` holds, with: those of the gold and of the model that wrote them.

    The model's are in the metrics.json of the same report; without one, those that it wrote are taken for its.
    """
    labels = {entity.label for example in gold for entity in example.entities}
    file = Path(path) / PREDICTIONS_NAME if Path(path).is_dir() else Path(path)
    try:
        if file.name == PREDICTIONS_NAME:  # beside a file of another name, metrics.json may be of another model
            return labels.union(json.loads(file.with_name(METRICS_NAME).read_text("utf-8"))["labels"])
    except (OSError, ValueError, TypeError, KeyError):
        pass
    labels.update(entity.label for decoded in predicted for entity in decoded.entities)
    if not labels:
        raise NerError("no entity, neither annotated nor predicted", place=path, remedy="give rows that have some")
    return labels


class _Lines:
    """The lines of a file, found by their ids."""

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / PREDICTIONS_NAME if path.is_dir() else path
        self.faults = Faults(str(self.path))
        self.places: dict[str, tuple[int, int]] = {}
        """The number of the line of each id, and where in `copy` it begins."""
        self.copy = TemporaryFile()  # noqa: SIM115  (`predictions` closes it)
        """The file as UTF-8, which it may not be, and which a pipe could not give twice."""
        for number, raw in enumerate(lines_of(self.path), start=1):
            start = self.copy.tell()
            self.copy.write(raw)
            if raw.strip():
                with self._reading(number, rows=1) as report:
                    if "id" not in (row := _row(raw)):
                        raise LineFault("no id", remedy="give each line that of its row")
                    self.places.setdefault(str(row["id"]), (number, start))
                    self.faults.check_id(str(row["id"]), number, report)

    def own_gold(self) -> Iterator[Example]:
        """The gold rows that the lines have themselves. If none has, that is one fault."""
        if self.places and not any("gold" in self._row_at(start) for _, start in self.places.values()):
            self.faults.found.append(f'{self.path.name}: no line has "gold"; {NO_GOLD}')
            return
        for number, start in self.places.values():
            with self._reading(number):
                yield _own_gold(self._row_at(start))

    def predictions(self, gold: Iterable[Example]) -> Iterator[Decoded]:
        """What the lines predict for each of `gold`. Lines with an `error`, and those of other rows, are logged."""
        read = failed = 0
        with self.copy:
            for example in gold:
                if example.id not in self.places:
                    fault = f"row {example.id} ({example.source}) has no line"
                    self.faults.found.append(f"{fault}; predict it, or write an empty one")
                    continue
                number, start = self.places[example.id]
                read += 1
                with self._reading(number):
                    row = self._row_at(start)
                    failed += "error" in row
                    yield _decode(row, example.text)
        self.faults.finish("no lines", "write one JSON object a row")
        if failed:
            what = "%s has an error instead of entities for %s: all their entities count as missed."
            log.warning(what, self.path, count(failed, "row"))
        if others := len(self.places) - read:
            log.info("%s has %s of no row that is scored.", self.path, count(others, "line"))

    def _row_at(self, start: int) -> dict[str, Any]:
        self.copy.seek(start)
        return _row(self.copy.readline())

    def _reading(self, number: int, rows: int = 0) -> AbstractContextManager[Report]:
        return self.faults.reading(f"{self.path.name}:{number}", rows)


def _row(raw: bytes) -> dict[str, Any]:
    return as_object(json_value(raw.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n"), ONE_A_LINE, halves=True))


def _own_gold(row: dict[str, Any]) -> Example:
    if not isinstance(row.get("text"), str) or not isinstance(row.get("gold"), list):
        raise LineFault('the line lacks "text" or "gold"', remedy=NO_GOLD)
    return Example(str(row["id"]), row["text"], tuple(_entity(item, row["text"]) for item in row["gold"]))


def _decode(row: dict[str, Any], text: str) -> Decoded:
    if "error" in row:
        return Decoded()
    if "text" in row and row["text"] != text:
        fault = f"the text is {quote(row['text'])}, that of the gold row is {quote(text)}"
        raise LineFault(fault, remedy="give both of one data set")
    if isinstance(row.get("entities"), list):
        entities = in_order(_entity(item, text) for item in row["entities"])
    elif isinstance(row.get("label"), dict):
        entities = in_order(EntityReader(text, None, refuse, inclusive=True).from_label(row["label"]))
    else:
        remedy = 'a row without entities has "entities": []'
        raise LineFault(f'{quote(row)} lacks "entities" or "label"', remedy=remedy)
    ungrounded = _items(row, "ungrounded", _is_pair, "[label, surface]")
    surfaces = dict.fromkeys([*((e.label, e.text) for e in entities), *map(tuple, ungrounded)])
    problems = _items(row, "problems", _is_problem, '{"kind", "label", "value"}')
    found = tuple(Problem(item["kind"], item["value"], item.get("label", "")) for item in problems)
    return Decoded(entities, tuple(surfaces), found)


def _items(row: dict[str, Any], key: str, fits: Callable[[Any], bool], form: str) -> list[Any]:
    items = row.get(key, [])
    if not isinstance(items, list) or not all(map(fits, items)):
        raise LineFault(f'"{key}" is {quote(items)}', remedy=f"make it a list of {form}, or leave it out")
    return items


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and [type(part) for part in item] == [str, str]


def _is_problem(item: Any) -> bool:
    known = isinstance(item, dict) and item.get("kind") in PROBLEM_KINDS
    return known and isinstance(item.get("value"), str) and isinstance(item.get("label", ""), str)


def _entity(item: Any, text: str) -> Entity:
    return replace(entity_of(item, text), ambiguous=bool(item.get("ambiguous")))


def submission_row(identity: str, entities: Sequence[Entity], labels: LabelSet) -> dict[str, Any]:
    """A line of CLUENER's submission: its id as a number, ends inclusive, labels in the label set's order.

    >>> from qwen_ner.entities import CLUENER
    >>> submission_row("7", [Entity("company", "三星", 0, 2)], CLUENER)
    {'id': 7, 'label': {'company': {'三星': [[0, 1]]}}}
    """
    if not identity.isdecimal():
        fault = "a submission needs the row numbers of CLUENER as ids"
        raise NerError(fault, value=identity, remedy="give its test.json")
    known = [entity for name in labels.names for entity in entities if entity.label == name]
    return {"id": int(identity), "label": inclusive_spans(known)}
