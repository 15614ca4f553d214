"""Label Studio's JSON: a list of tasks, half-open offsets. The file is held in memory.

In: a JSON export (not JSON-MIN). Out: `Example`s, or one `DataError` with every fault; tasks for examples.

A task's text is `data.text`, or the only string in its data. If one of several annotations is marked as ground truth it
is taken; otherwise they must agree. Cancelled annotations, predictions and results that are no labels on a span are
left out and noted. Labels of a <HyperText> are read if the text has no HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ...entities import Entity, Example, LabelSet
from .errors import LineFault, Note, ignore, quote
from .foreign.items import KEYS
from .lines import lines_of, write_lines
from .mentions import EntityReader, distinct
from .rows import ARRAY, read_rows, rows_in

LABELS = ("labels", "hypertextlabels")
"""Types of results that are labels on a span, and the keys of their labels."""

_HTML = re.compile(r"<[A-Za-z/!][^<>]*>|&#?\w+;")

NAME = "label-studio"
SUFFIXES = (".json",)
DESCRIPTION = "Label Studio's JSON"


def sniff(head: bytes, name: str) -> bool:
    """An array of objects of which the first has the keys of a task. A row with a text of its own is none."""
    task = next(rows_in(head), {}) if ARRAY.match(head) else {}
    of_task = {"annotations", "completions"} & task.keys() and not any(
        isinstance(task.get(k), str) for k in KEYS["text"]
    )
    return isinstance(task.get("data"), dict) or bool(of_task)


def read(path: str | Path, labels: LabelSet | None = None, **options: Any) -> Iterator[Example]:
    """Raises `DataError` with all faults at the end, `NerError` if the file is no list of tasks."""
    return read_rows(partial(lines_of, path), path, labels, _entities_of, row_of=_row_of, unit="task", **options)


def _row_of(task: Any) -> dict[str, Any]:
    """What the data of a task hold, with its text, its id, and its annotations as "label"."""
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        remedy = "export the project as JSON (not as JSON-MIN, CSV or spaCy)"
        raise LineFault(f'{quote(task)} has no "data"', remedy=remedy)
    row = {key: task[key] for key in ("id", "predictions") if key in task} | data
    strings = [key for key, value in data.items() if isinstance(value, str) and key not in ("id", "group")]
    if "text" not in data and len(strings) == 1:
        row["text"] = row.pop(strings[0])
    return row | {"label": task.get("annotations", task.get("completions"))}


def _entities_of(row: dict[str, Any], reader: EntityReader) -> tuple[Entity, ...]:
    """The entities of the annotation marked as ground truth, else of all that are not cancelled, which must agree."""
    annotations = row["label"]
    if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
        reader.report(f'"annotations" is {quote(annotations)}; export the project as JSON')
        return ()
    kept = [each for each in annotations if not each.get("was_cancelled")]
    true = [each for each in kept if each.get("ground_truth")]
    kept = true if len(true) == 1 else kept
    for _ in range(len(annotations) - len(kept)):
        reader.note("annotations that are cancelled or beside the one marked as ground truth")
    found = [distinct(_entities(each.get("result"), reader), reader.warn or reader.note) for each in kept]
    if reader.warn and not any(found) and any(each.get("result") for each in kept):
        reader.warn("tasks whose results are no labels on spans, read as having no entity")
    if not found:
        fault = "the task has no annotation; submit it in Label Studio (empty if there is no entity), or delete it"
        reader.report(fault)
    elif len({frozenset((e.label, e.span) for e in entities) for entities in found}) > 1:
        fault = f"the task has {len(found)} annotations that differ"
        reader.report(f"{fault}; delete all but one, or mark one as ground truth")
    return found[0] if found else ()


def _entities(results: object, reader: EntityReader) -> Iterator[Entity]:
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        reader.report(f'"result" is {quote(results)}; export the project as JSON')
        return
    if _HTML.search(reader.text) and any(result.get("type") == "hypertextlabels" for result in results):
        remedy = "take the text out of the HTML and annotate that with <Labels>, or delete the task"
        reader.report(f"its labels are on HTML, {quote(reader.text)}; {remedy}")
        return
    marked = [result for result in results if result.get("type") in LABELS]
    if len(texts := {str(result["to_name"]) for result in marked if "to_name" in result}) > 1:
        remedy = "export a project with one <Text>, or delete the results on the others"
        reader.report(f"its labels are on several texts, {', '.join(sorted(texts))}; {remedy}")
        return
    with_label = {json.dumps(result.get("id")) for result in marked} - {"null"}  # ids may be of any type
    for result in results:
        kind, value = result.get("type"), result.get("value")
        value = value if isinstance(value, dict) else {}
        of_labelled = json.dumps(result.get("id")) in with_label
        if kind not in LABELS and ("start" not in value or of_labelled):
            reader.note(f"results of type {quote(kind)}")
        elif kind not in LABELS:
            reader.report(f"a span of type {quote(kind)} cannot be read; annotate plain text with <Labels>")
        elif not {"start", "end"} <= value.keys() or not (isinstance(value.get(kind), list) and value[kind]):
            reader.report(f'the result {quote(result)} lacks "start", "end" or "labels"; export the project as JSON')
        else:
            start, end = _offsets(value)
            surfaces = (value["text"],) if "text" in value else ()
            score = reader.score_of(result)
            for label in value[kind]:
                yield from reader.at(label, start, end, surfaces, score)


def _offsets(value: dict[str, Any]) -> tuple[object, object]:
    """Start and end. Those of a <HyperText> are XPaths, with offsets in the nodes and perhaps in the whole text."""
    if isinstance(whole := value.get("globalOffsets"), dict):
        return whole.get("start"), whole.get("end")
    if "startOffset" in value and isinstance(value["start"], str):
        return value["startOffset"], value.get("endOffset")
    return value["start"], value["end"]


def write(path: Path, examples: Iterable[Example], lose: Note = ignore) -> None:
    write_tasks(path, map(as_task, examples))


def write_tasks(path: Path, tasks: Iterable[dict[str, Any]]) -> None:
    """Write a JSON array, a task a line."""
    lines = (json.dumps(task, ensure_ascii=False) for task in tasks)
    write_lines(path, chain((f"{',' if at else '['}\n{line}" for at, line in enumerate(lines)), ["\n]\n"]))


def as_task(example: Example, model: str | None = None, score: float | None = None) -> dict[str, Any]:
    """The task to import into a project with `<Labels name="label" toName="text">` on `$text`.

    If a `model` is named, the entities are its prediction, for annotators to correct, with the `score` of the whole.

    >>> task = as_task(Example("7", "三星在北京", (Entity("company", "三星", 0, 2),)))
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
    group = {"group": example.group} if example.group else {}
    task: dict[str, Any] = {"data": {"id": example.id, **group, "text": example.text}}
    if model is None:
        return task | {"annotations": [{"result": result}]}
    return task | {"predictions": [{"model_version": model, "score": score, "result": result}]}
