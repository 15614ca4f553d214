"""Files of predictions: what `predict` and `evaluate --report` write, and CLUENER's submission.

In: such a file, and the gold rows it is for. Out: a `Decoded` for each gold row. Out of `Decoded`s: a submission. Knows
nothing of scores and models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..codec import PROBLEM_KINDS, Decoded, Problem
from ..entities import Entity, Example, LabelSet, NerError
from .faults import DataError, LineFault, quote
from .rows import json_object, numbered, read_bytes

PREDICTIONS_NAME = "predictions.jsonl"


def read_predictions(path: str | Path, gold: Sequence[Example] | None = None) -> tuple[list[Example], list[Decoded]]:
    """The gold rows, and beside each what the file predicts for it. A folder means its predictions.jsonl.

    A line is one of

        {"id": "0", "text": "三星在北京", "entities": [{"label": "company", "start": 0, "end": 2}], "gold": […]}
        {"id": 0, "label": {"company": {"三星": [[0, 1]]}}}

    the second one CLUENER's submission, with inclusive ends. Lines find their row by its id; without `gold` each line
    must hold its own, as `evaluate --report` writes it. A line with an `error` predicts nothing.
    Raises `DataError` with all faults: what is no such line, spans that do not fit the text, rows without a line.
    """
    path = Path(path)
    path = path / PREDICTIONS_NAME if path.is_dir() else path
    faults: list[str] = []
    lines: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, raw in numbered(read_bytes(path).split(b"\n")):
        try:
            row = json_object(raw)
        except LineFault as fault:
            faults.append(f"{path.name}:{number}: {fault}")
            continue
        key = str(row.get("id"))
        if "id" not in row or key in lines:
            what = f"the id {quote(row['id'])} is line {lines[key][0]}'s too" if key in lines else "lacks its id"
            faults.append(f"{path.name}:{number}: {what}; write one line a row, each with its id")
            continue
        lines[key] = number, row
    if gold is None:
        gold = []
        for number, row in lines.values():
            try:
                gold.append(_own_gold(row))
            except (LineFault, NerError) as fault:
                faults.append(f"{path.name}:{number}: {fault}")
    decoded = []
    for example in gold:
        if example.id not in lines:
            faults.append(f"row {example.id} ({example.source}) has no line; predict it, or write an empty one")
            continue
        number, row = lines[example.id]
        try:
            decoded.append(_decoded(row, example.text))
        except (LineFault, NerError) as fault:
            faults.append(f"{path.name}:{number}: {fault}")
    if faults:
        raise DataError(str(path), faults, len(lines))
    if not gold:
        raise NerError(f"{path} has no line; write one JSON object a row")
    return list(gold), decoded


def _own_gold(row: dict[str, Any]) -> Example:
    if not isinstance(row.get("text"), str) or not isinstance(row.get("gold"), list):
        raise LineFault(
            'the line lacks "text" or "gold"; name the data it is scored by (--data, --split), or take the '
            "predictions.jsonl of `evaluate --report`"
        )
    return Example(str(row["id"]), row["text"], tuple(_entity(item, row["text"]) for item in row["gold"]))


def _decoded(row: dict[str, Any], text: str) -> Decoded:
    if "error" in row:
        return Decoded()
    if "text" in row and row["text"] != text:
        raise LineFault(
            f"the text is {quote(row['text'])}, that of the gold row is {quote(text)}; give both of one data set"
        )
    if isinstance(row.get("entities"), list):
        entities = [_entity(item, text) for item in row["entities"]]
    elif isinstance(row.get("label"), dict):
        entities = [_entity(item, text) for item in _submitted(row["label"])]
    else:
        raise LineFault(f'{quote(row)} lacks "entities" or "label"; a row without entities has "entities": []')
    ordered = sorted(entities, key=lambda e: (e.start, e.end, e.label))
    surfaces = dict.fromkeys([*((e.label, e.text) for e in ordered), *_ungrounded(row.get("ungrounded", []))])
    return Decoded(tuple(ordered), tuple(surfaces), tuple(_problems(row.get("problems", []))))


def _submitted(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entities of {label: {surface: [[start, last], …]}}."""
    for label, surfaces in tree.items():
        for surface, spans in surfaces.items() if isinstance(surfaces, dict) else ((None, None),):
            if not isinstance(spans, list) or not all(
                isinstance(span, list) and len(span) == 2 and type(span[1]) is int for span in spans
            ):
                raise LineFault(
                    f'label {quote(label)} holds {quote(surfaces)}; make it {{"三星": [[0, 1]]}}, ends inclusive'
                )
            for start, last in spans:
                yield {"label": label, "text": surface, "start": start, "end": last + 1}


def _ungrounded(items: Any) -> list[tuple[str, str]]:
    if not isinstance(items, list) or not all(
        isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item) for item in items
    ):
        raise LineFault(f'"ungrounded" is {quote(items)}; make it a list of [label, surface]')
    return [(label, surface) for label, surface in items]


def _problems(items: Any) -> list[Problem]:
    if not isinstance(items, list) or not all(
        isinstance(item, dict)
        and item.get("kind") in PROBLEM_KINDS
        and isinstance(item.get("value"), str)
        and isinstance(item.get("label", ""), str)
        for item in items
    ):
        raise LineFault(
            f'"problems" is {quote(items)}; make it a list of {{"kind", "label", "value"}}, or leave it out'
        )
    return [Problem(item["kind"], item["value"], item.get("label", "")) for item in items]


def _entity(item: Any, text: str) -> Entity:
    try:
        label, start, end, score = item["label"], item["start"], item["end"], item.get("score")
        whole = type(start) is int and type(end) is int and 0 <= start < end <= len(text)
    except (TypeError, KeyError, AttributeError):
        raise LineFault(f"the entity {quote(item)} lacks a label, a start or an end; give it all three") from None
    if not isinstance(label, str) or not label:
        raise LineFault(f"the label is {quote(label)}; make it a non-empty string")
    if score is not None and (type(score) not in (int, float) or not 0 <= score <= 1):
        raise LineFault(f"the entity {quote(item)} has the score {quote(score)}; make it a number from 0 to 1")
    if not whole:
        raise LineFault(f"the span [{start}, {end}) of {label} leaves the text, which has {len(text)} characters")
    if item.get("text", text[start:end]) != text[start:end]:
        raise LineFault(
            f"the span [{start}, {end}) holds {quote(text[start:end])}, the surface is {quote(item['text'])}"
        )
    return Entity(label, text[start:end], start, end, score, ambiguous=bool(item.get("ambiguous")))


def submission_row(identity: str, entities: Sequence[Entity], labels: LabelSet) -> dict[str, Any]:
    """A line of CLUENER's submission: its id as a number, ends inclusive, labels in the label set's order.

    >>> from qwen_ner.entities import CLUENER
    >>> submission_row("7", [Entity("company", "三星", 0, 2)], CLUENER)
    {'id': 7, 'label': {'company': {'三星': [[0, 1]]}}}
    """
    if not identity.isdecimal():
        raise NerError(f"id {identity!r}: CLUENER numbers its rows; give its test.json")
    tree: dict[str, dict[str, list[list[int]]]] = {}
    for name in labels.names:
        for entity in entities:
            if entity.label == name:
                tree.setdefault(name, {}).setdefault(entity.text, []).append([entity.start, entity.end - 1])
    return {"id": int(identity), "label": tree}
