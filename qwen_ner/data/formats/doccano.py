"""doccano's JSONL: a list of spans per row, half-open offsets.

In: rows with one of

    "label": [[0, 2, "company"]]            (or "labels")
    "entities": [{"id": 1, "label": "company", "start_offset": 0, "end_offset": 2}], "relations": []

    "label": [{"start": 0, "end": 2, "text": "三星", "labels": ["company"]}]       Label Studio's JSON-MIN

one per line, or in a JSON array; the text is in "text", or in "data" as older versions write it.

Out: `Example`s; the first form for examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...entities import Entity, Example, LabelSet
from .errors import Note, ignore, quote
from .lines import lines_of
from .mentions import EntityReader, without_scores
from .rows import lacks_entities, read_rows, rows_in, write_rows

NAME = "doccano"
SUFFIXES = (".jsonl",)
DESCRIPTION = "doccano's JSONL"

LISTS = ("tokens", "words", "chars", "characters", "text")
"""What rows of tokens and tags call their tokens."""


def sniff(head: bytes, name: str) -> bool:
    """The first row that can only be of one dialect decides."""
    for row in rows_in(head):
        if any(isinstance(row.get(key), list) for key in LISTS):  # a Hugging Face row may have "labels" too
            return False
        items = row.get("entities")
        if isinstance(row.get("label"), list) or "labels" in row or (items == [] and "relations" in row):
            return True
        if isinstance(row.get("label"), dict):
            return False
        if isinstance(items, list) and items:
            return not isinstance(items[0], dict) or "start_offset" in items[0]
    return False


def read(path: str | Path, labels: LabelSet | None = None, **options: Any) -> Iterator[Example]:
    return read_rows(partial(lines_of, path), path, labels, _entities_of, **options)


def _entities_of(row: dict[str, Any], reader: EntityReader) -> Iterator[Entity]:
    keys = [key for key in ("label", "labels", "entities") if key in row]
    if len(keys) != 1:
        both = f"{quote(row)} has {' and '.join(map(quote, keys))}; keep one"
        reader.report(both if keys else lacks_entities(row, "label", []))
        return
    if not isinstance(items := row[keys[0]], list):
        reader.report(f'{quote(keys[0])} is {quote(items)}; make it a list, [[0, 2, "company"]]')
        return
    if items and all(isinstance(item, str) for item in items):
        remedy = 'if they are tags, write {"tokens": ["三", …], "ner_tags": ["B-company", …]}; else [[0, 2, "company"]]'
        reader.report(f"{quote(keys[0])} holds names and no spans, {quote(items)}; {remedy}")
        return
    for item in items:
        match item:
            case [start, end, label] | {"start_offset": start, "end_offset": end, "label": label}:
                yield from reader.at(label, start, end)
            case {"start": start, "end": end, "labels": list(names)}:  # Label Studio's JSON-MIN
                for label in names:
                    yield from reader.at(label, start, end, (item["text"],) if "text" in item else ())
            case _:
                form = '[0, 2, "company"], or an object with "label", "start_offset" and "end_offset"'
                reader.report(f"the annotation {quote(item)} cannot be read; make it {form}")


def write(path: Path, examples: Iterable[Example], lose: Note = ignore) -> None:
    write_rows(path, map(as_row, without_scores(examples, lose)))


def as_row(example: Example) -> dict[str, Any]:
    """The row that doccano imports and `read` reads back.

    >>> as_row(Example("7", "三星在北京", (Entity("company", "三星", 0, 2),)))
    {'id': '7', 'text': '三星在北京', 'label': [[0, 2, 'company']]}
    """
    return {"id": example.id, "text": example.text, "label": [[e.start, e.end, e.label] for e in example.entities]}
