"""Label Studio's JSON: a list of tasks, half-open offsets. The file is held in memory.

In: a JSON export (not JSON-MIN). Out: `Example`s, or one `DataError` with every fault; tasks for examples.

A task's text is `data.text`, or the only string in its data. If one of several annotations is marked as ground truth it
is taken; otherwise they must agree. Cancelled annotations, predictions and results that are no labels on a span are
left out and noted. Labels of a <HyperText> are read if the text has no HTML.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ...entities import Entity, Example, LabelSet, NerError
from .errors import Faults, LineFault, Note, Report, ignore, quote
from .lines import lines_of, write_lines
from .mentions import EntityReader, distinct
from .offsets import Survey
from .rows import ARRAY, identity_of, json_value, rows_in, text_of, unreported, warn_at

LABELS = ("labels", "hypertextlabels")
"""Types of results that are labels on a span, and the keys of their labels."""

_HTML = re.compile(r"<[A-Za-z/!][^<>]*>|&#?\w+;")

NAME = "label-studio"
SUFFIXES = (".json",)
DESCRIPTION = "Label Studio's JSON"


def sniff(head: bytes, name: str) -> bool:
    """An array of objects of which the first has the keys of a task."""
    task = next(rows_in(head), {}) if ARRAY.match(head) else {}
    return isinstance(task.get("data"), dict) or bool({"annotations", "completions"} & task.keys())


def read(
    path: str | Path, labels: LabelSet | None = None, *, note: Note = ignore, warn: Note = ignore, **_: Any
) -> Iterator[Example]:
    """Raises `DataError` with all faults at the end, `NerError` if the file is no list of tasks."""
    name, faults = Path(path).name, Faults(str(path), "task")
    remedy = "export it from Label Studio as JSON"
    try:
        tasks = json_value(b"".join(lines_of(path)).removeprefix(codecs.BOM_UTF8), remedy)
    except LineFault as fault:
        raise NerError(fault.what, place=path, remedy=fault.remedy) from None
    if not isinstance(tasks, list) or not tasks:
        raise NerError("not a list of tasks", place=path, remedy=remedy)
    survey = Survey()
    for number, task in enumerate(tasks, start=1):
        reader = EntityReader("", None, unreported, see=partial(survey.see, f"{name}: task {number}"))
        _example(task, number, "", reader, ignore, ignore)
    unit = survey.unit()
    for what, where in survey.warnings():
        warn(what, where)
    for number, task in enumerate(tasks, start=1):
        place = f"{name}: task {number}"
        report = faults.row(place)
        reader = EntityReader("", labels, report, unit=unit, warn=partial(warn_at, warn, place))
        if example := _example(task, number, place, reader, note, warn):
            faults.check_id(example.id, number, report)
            if not faults.found:
                yield example
    faults.finish("no tasks", remedy)


def _example(task: Any, number: int, place: str, reader: EntityReader, note: Note, warn: Note) -> Example | None:
    """The example of a task, None if it has a fault. `reader` is to get its text."""
    report = reader.report
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        report(f'{quote(task)} has no "data"; export the project as JSON (not as JSON-MIN, CSV or spaCy)')
        return None
    strings = [key for key, value in data.items() if isinstance(value, str) and key not in ("id", "group")]
    key = "text" if "text" in data or len(strings) != 1 else strings[0]
    row = {"text": data[key]} if key in data else data
    identity = identity_of(data if "id" in data else task, str(number), report)
    group = identity_of(data, "", report, "group")
    text = text_of(row, report)
    for other in data.keys() - {"id", "group", key}:
        note(f"the key {quote(other)} of data", place)
    if task.get("predictions"):
        note("predictions", place)
    annotations = _annotations(task.get("annotations", task.get("completions")), place, report, note)
    if annotations is None or text is None:
        return None
    reader = replace(reader, text=text)
    found = [distinct(_entities(each.get("result"), reader, place, note), report) for each in annotations]
    if not any(found) and any(each.get("result") for each in annotations):
        warn("tasks whose results are no labels on spans, read as having no entity", place)
    if not found:
        report("the task has no annotation; submit it in Label Studio (empty if there is no entity), or delete it")
    elif any({(e.label, *e.span) for e in one} != {(e.label, *e.span) for e in found[0]} for one in found):
        report(f"the task has {len(found)} annotations that differ; delete all but one, or mark one as ground truth")
    else:
        return Example(identity, text, found[0], place, group)
    return None


def _annotations(annotations: Any, place: str, report: Report, note: Note) -> list[dict[str, Any]] | None:
    """The annotations that count: the one marked as ground truth, else all that are not cancelled."""
    if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
        report(f'"annotations" is {quote(annotations)}; export the project as JSON')
        return None
    kept = [each for each in annotations if not each.get("was_cancelled")]
    for _ in range(len(annotations) - len(kept)):
        note("cancelled annotations", place)
    true = [each for each in kept if each.get("ground_truth")]
    if len(true) == 1 and len(kept) > 1:
        note("annotations beside the one marked as ground truth", place)
        return true
    return kept


def _entities(results: object, reader: EntityReader, place: str, note: Note) -> Iterator[Entity]:
    if not isinstance(results, list):
        reader.report(f'"result" is {quote(results)}; export the project as JSON')
        return
    of_html = any(isinstance(result, dict) and result.get("type") == "hypertextlabels" for result in results)
    if of_html and _HTML.search(reader.text):
        remedy = "take the text out of the HTML and annotate that with <Labels>, or delete the task"
        reader.report(f"its labels are on HTML, {quote(reader.text)}; {remedy}")
        return
    for result in results:
        kind, value = (result.get("type"), result.get("value")) if isinstance(result, dict) else (None, None)
        marks_span = isinstance(value, dict) and "start" in value
        if isinstance(result, dict) and kind not in LABELS and not marks_span:
            note(f"results of type {quote(kind)}", place)
        elif kind not in LABELS and isinstance(result, dict):
            reader.report(f"a span of type {quote(kind)} cannot be read; annotate plain text with <Labels>")
        elif not isinstance(value, dict) or not {"start", "end", kind} <= value.keys():
            reader.report(f'the result {quote(result)} lacks "start", "end" or "labels"; export the project as JSON')
        elif not isinstance(value[kind], list) or not value[kind]:
            reader.report(f'"labels" is {quote(value[kind])}; make it a list of labels')
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
