"""Exports of annotation tools, to `Example`s and back: doccano's JSONL and Label Studio's JSON.

In: doccano's rows, the tasks of Label Studio. Out: `Example`s, or one `DataError` with every fault; rows and tasks for
examples. Offsets of both are half-open and count characters. Knows nothing of other formats, tokens or models.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...entities import Entity, Example, LabelSet, NerError
from .errors import DataError, LineFault, Note, Report, ignore, quote
from .mentions import entity_at, is_label, once, score_of
from .rows import identity_of, json_value, read_bytes, text_of


def doccano_entities(row: dict[str, Any], text: str, labels: LabelSet | None, report: Report) -> Iterator[Entity]:
    """The entities of one of doccano's rows (`rows.read_rows` reads the rest of it), which holds one of

    "label": [[0, 2, "company"]]            (or "labels")
    "entities": [{"id": 1, "label": "company", "start_offset": 0, "end_offset": 2}], "relations": []
    """
    keys = [key for key in ("label", "labels", "entities") if key in row]
    if len(keys) != 1:
        report(f'{quote(row)} has {" and ".join(map(quote, keys)) or "no label"}; give it one of "label", "entities"')
        return
    if not isinstance(items := row[keys[0]], list):
        report(f'{quote(keys[0])} is {quote(items)}; make it a list, [[0, 2, "company"]]')
        return
    for item in items:
        if isinstance(item, dict) and {"label", "start_offset", "end_offset"} <= item.keys():
            start, end, label = item["start_offset"], item["end_offset"], item["label"]
        elif isinstance(item, list) and len(item) == 3:
            start, end, label = item
        else:
            report(
                f'the annotation {quote(item)} cannot be read; make it [0, 2, "company"], or an object with "label", '
                '"start_offset" and "end_offset"'
            )
            continue
        if is_label(label, labels, report) and (entity := entity_at(label, (), start, end, text, False, report)):
            yield entity


def doccano_row(example: Example) -> dict[str, Any]:
    """The row that doccano imports; `doccano_entities` reads it back.

    >>> doccano_row(Example("7", "三星在北京", (Entity("company", "三星", 0, 2),)))
    {'id': '7', 'text': '三星在北京', 'label': [[0, 2, 'company']]}
    """
    return {"id": example.id, "text": example.text, "label": [[e.start, e.end, e.label] for e in example.entities]}


def read_label_studio(path: str | Path, labels: LabelSet | None = None, *, note: Note = ignore) -> Iterator[Example]:
    """The tasks of a JSON export of Label Studio, in its order. The file is held in memory.

    A task's text is `data.text`, or the only string in its data. Of several annotations the one that is marked as
    ground truth is taken; without such a mark they must agree, or the task is a fault. Cancelled ones are left out, as
    are predictions; `note` is told of these and of results that are not labels on a span.
    Raises `DataError` with all faults of the file at the end, `NerError` where it is no list of tasks.
    """
    name, faults, identities = Path(path).name, list[str](), dict[str, int]()
    try:
        tasks = json_value(read_bytes(path).removeprefix(codecs.BOM_UTF8), "export it from Label Studio as JSON")
    except LineFault as fault:
        raise NerError(f"{path}: {fault}") from None
    if not isinstance(tasks, list) or not tasks:
        raise NerError(f"{path} is no list of tasks; export it from Label Studio as JSON")
    for number, task in enumerate(tasks, start=1):
        place, told = f"{name}: task {number}", list[str]()
        example = _example(task, number, place, labels, told.append, note)
        if example and (first := identities.setdefault(example.id, number)) != number:
            told.append(f"the id {quote(example.id)} is task {first}'s too; give each task its own")
        faults.extend(f"{place}: {fault}" for fault in told)
        if example and not faults:
            yield example
    if faults:
        raise DataError(str(path), faults, len(tasks))


def _example(task: Any, number: int, place: str, labels: LabelSet | None, report: Report, note: Note) -> Example | None:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        report(f'{quote(task)} has no "data"; export the project as JSON (not as JSON-MIN, CSV or spaCy)')
        return None
    strings = [key for key, value in data.items() if isinstance(value, str) and key != "id"]
    key = "text" if "text" in data or len(strings) != 1 else strings[0]
    row = {"text": data[key]} if key in data else data
    identity = identity_of(data if "id" in data else task, str(number), report)
    text = text_of(row, report)
    for other in data.keys() - {"id", key}:
        note(f"the key {quote(other)} of data", place)
    if task.get("predictions"):
        note("predictions", place)
    annotations = task.get("annotations")
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        report(f'"annotations" is {quote(annotations)}; export the project as JSON')
        return None
    kept = [a for a in annotations if not a.get("was_cancelled")]
    for _ in range(len(annotations) - len(kept)):
        note("cancelled annotations", place)
    if text is None:
        return None
    true = [a for a in kept if a.get("ground_truth")]
    if len(true) == 1 and len(kept) > 1:
        note("annotations beside the one marked as ground truth", place)
        kept = true
    found = [once(_results(a.get("result"), text, labels, place, report, note), report) for a in kept]
    if not found:
        report("the task has no annotation; submit it in Label Studio (empty if there is no entity), or delete it")
    elif any({(e.label, *e.span) for e in one} != {(e.label, *e.span) for e in found[0]} for one in found):
        report(f"the task has {len(found)} annotations that differ; delete all but one, or mark one as ground truth")
    else:
        return Example(identity, text, found[0], place)
    return None


def _results(
    results: object, text: str, labels: LabelSet | None, place: str, report: Report, note: Note
) -> Iterator[Entity]:
    if not isinstance(results, list):
        report(f'"result" is {quote(results)}; export the project as JSON')
        return
    for result in results:
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(result, dict) and result.get("type") != "labels":
            note(f"results of type {quote(result.get('type'))}", place)
        elif not isinstance(value, dict) or not {"start", "end", "labels"} <= value.keys():
            report(
                f'the value of the result {quote(result)} lacks "start", "end" or "labels"; export the project as JSON'
            )
        elif not isinstance(value["labels"], list) or not value["labels"]:
            report(f'"labels" is {quote(value["labels"])}; make it a list of labels')
        else:
            surfaces = (value["text"],) if "text" in value else ()
            score = score_of(result, report)
            for label in value["labels"]:
                if is_label(label, labels, report):
                    entity = entity_at(label, surfaces, value["start"], value["end"], text, False, report)
                    if entity:
                        yield entity if score is None else replace(entity, score=score)


def label_studio_task(example: Example) -> dict[str, Any]:
    """The task that Label Studio imports, for a project with `<Labels name="label" toName="text">` on `$text`.

    >>> task = label_studio_task(Example("7", "三星在北京", (Entity("company", "三星", 0, 2),)))
    >>> task["data"], task["annotations"][0]["result"][0]["value"]
    ({'id': '7', 'text': '三星在北京'}, {'start': 0, 'end': 2, 'text': '三星', 'labels': ['company']})
    """
    result = [
        {
            "id": f"{number}",
            "from_name": "label",
            "to_name": "text",
            "type": "labels",
            "value": {"start": e.start, "end": e.end, "text": e.text, "labels": [e.label]},
        }
        | ({} if e.score is None else {"score": e.score})
        for number, e in enumerate(example.entities)
    ]
    return {"data": {"id": example.id, "text": example.text}, "annotations": [{"result": result}]}
