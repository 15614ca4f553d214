"""Our own JSONL: one sentence per line, half-open offsets.

In: rows in one of three forms.

    {"text": "三星在北京", "label": {"company": ["三星"], "address": ["北京"]}}
    {"text": "三星在北京", "label": {"company": {"三星": [[0, 2]]}}}
    {"text": "三星在北京", "entities": [{"label": "company", "start": 0, "end": 2}]}

Without offsets, every occurrence of a surface is annotated, as by `grounding.ground`. A row may have an "id", which is
by default its line number, from 1, and a "group"; an item of "entities" a "score", and its surface as "text" or
"surface", which is checked. Other keys are ignored. Entities may overlap and nest. Out: `Example`s; the third form for
examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...entities import Entity, Example, LabelSet, NerError
from ...files import beside, json_line
from .errors import Note, ignore
from .lines import lines_of
from .mentions import EntityReader
from .rows import lacks_entities, looks_like_object, read_rows, rows_in, write_rows

NAME = "jsonl"
SUFFIXES = (".jsonl",)
DESCRIPTION = "JSONL with half-open offsets"


def sniff(head: bytes, name: str) -> bool:
    return name.endswith(SUFFIXES) or looks_like_object(head) or any(rows_in(head))


def read(path: str | Path, labels: LabelSet | None = None, **options: Any) -> Iterator[Example]:
    return read_rows(partial(lines_of, path), path, labels, entities_of, **options)


def entities_of(row: dict[str, Any], reader: EntityReader) -> Iterable[Entity]:
    if "label" in row and "entities" in row:
        reader.report('the row has both "label" and "entities"; keep one')
    elif "label" in row:
        return reader.from_label(row["label"])
    elif "entities" in row:
        return reader.from_items(row["entities"])
    else:
        reader.report(lacks_entities(row, "entities", []))
    return ()


def write(path: Path, examples: Iterable[Example], lose: Note = ignore) -> None:
    write_rows(path, map(as_row, examples))


def as_row(example: Example) -> dict[str, Any]:
    """The row that `read` reads back equal.

    >>> as_row(Example("0", "三星", (Entity("company", "三星", 0, 2),)))
    {'id': '0', 'text': '三星', 'entities': [{'label': 'company', 'start': 0, 'end': 2, 'text': '三星'}]}
    """
    entities = [
        {"label": e.label, "start": e.start, "end": e.end, "text": e.text}
        | ({} if e.score is None else {"score": e.score})
        for e in example.entities
    ]
    group = {"group": example.group} if example.group else {}
    return {"id": example.id, **group, "text": example.text, "entities": entities}


def write_jsonl(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples as `{"id", "text", "entities"}` rows, which `read` reads back equal except for the source.

    The file is written whole or not at all, and missing folders are made. Raises `NerError` for what could not be read
    back: an empty text, an id twice, no example at all.
    """
    path = Path(path).expanduser()
    encoded = "".join(json_line(as_row(example)) for example in examples).encode()
    for _ in read_rows(partial(encoded.split, b"\n"), path, None, entities_of):
        pass  # what could not be read back, it raises
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as part:
            part.write_bytes(encoded)
    except OSError as error:
        raise NerError(f"cannot be written ({error.strerror})", place=path, remedy="choose another place") from error
