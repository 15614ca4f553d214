"""Sentences without entities: cut from annotated rows, or read from a file of such texts.

In: examples, or a file, and the surfaces that are annotated somewhere. Out: examples whose target is `{}`, none of
which contains such a surface. Knows nothing of tokens, models or recipes.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..entities import Example, NerError
from .datasets import read_texts
from .formats.errors import DataError
from .formats.lines import lines_of, number_lines
from .surfaces import Surfaces, balanced

SHORTEST = 6
"""Characters of the shortest clause to cut: a shorter one has little to be mistaken for an entity."""

# Half-width marks too, but not inside numbers (10,000) and times.
_CLAUSE_END = re.compile(r"(?<=[，。；！？])|(?<=[,;!?])(?![0-9A-Za-z,;!?])")


def entity_free(examples: Iterable[Example], surfaces: Surfaces | Iterable[str]) -> list[Example]:
    """The parts of `examples` without entities, as examples of their own; no text twice, in their order.

    A part is the longest run of whole clauses, cut at ，。；！？ and their half-width forms, that has `SHORTEST`
    characters or more and contains no annotated entity, none of `surfaces`, and no unpaired bracket or quote. Its
    source names its place in its row.

    >>> from qwen_ner.entities import Entity
    >>> row = Example("7", "三星发布新品，价格还没有定，三星说。", (Entity("company", "三星", 0, 2),), "a.jsonl:7")
    >>> entity_free([row], ["三星"])
    [Example(id='7[7:14]', text='价格还没有定，', entities=(), source='a.jsonl:7 [7, 14)', group='')]
    """
    known = surfaces if isinstance(surfaces, Surfaces) else Surfaces(surfaces)
    found: dict[str, Example] = {}
    for example in examples:
        blocked = [entity.span for entity in example.entities] + list(known.places(example.text))
        for start, end in _runs(example.text, blocked):
            text = example.text[start:end]
            kept = text.strip()
            if len(kept) < SHORTEST or not balanced(kept):
                continue
            start += len(text) - len(text.lstrip())
            end = start + len(kept)
            cut = Example(f"{example.id}[{start}:{end}]", kept, (), f"{example.source} [{start}, {end})")
            found.setdefault(kept, cut)
    return list(found.values())


def _runs(text: str, blocked: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The longest runs of whole clauses of `text` that overlap none of the spans `blocked`."""
    ends = [*(found.end() for found in _CLAUSE_END.finditer(text) if 0 < found.end() < len(text)), len(text)]
    first = start = 0
    for end in ends:
        if any(begin < end and start < stop for begin, stop in blocked):
            if first < start:
                yield first, start
            first = end
        start = end
    if first < len(text):
        yield first, len(text)


def read_negatives(path: str | Path, surfaces: Surfaces | Iterable[str]) -> tuple[list[Example], int]:
    """The texts of a file without entities, and how many were left out.

    Lines of text, or JSONL with a "text". Repeated texts are left out, and those that contain one of `surfaces`:
    teaching that they have no entity would contradict the rows that annotate it. Raises `DataError` with every line
    that cannot be read or has entities, `NerError` if no text is left.
    """
    known = surfaces if isinstance(surfaces, Surfaces) else Surfaces(surfaces)
    name = Path(path).name
    lines = list(lines_of(path))
    rows = list(read_texts(lines, name))
    faults = [row.fault for row in rows if row.fault is not None]
    annotated = (line for line, raw in number_lines(lines) if _annotated(raw))
    faults += [f"{name}:{line}: has entities; remove the row" for line in annotated]
    if faults:
        raise DataError(str(path), faults, len(rows))
    found: dict[str, Example] = {}
    for row in rows:
        text = row.text or ""
        if not known.within(text):
            found.setdefault(text, Example(f"{name}:{row.id}", text, (), row.source))
    if not found:
        raise no_negatives(path)
    return list(found.values()), len(rows) - len(found)


def no_negatives(path: str | Path) -> NerError:
    """The error of a file of which no text is left."""
    fault = "every text of the file contains a surface that the training rows annotate, or is a row of the data"
    return NerError(fault, value=str(path), place="negatives_from", remedy="give texts without entities")


def surfaces_of(annotated: Iterable[Example]) -> Surfaces:
    """The surfaces of all entities, to be looked for in texts."""
    return Surfaces(entity.text for example in annotated for entity in example.entities)


def _annotated(raw: bytes) -> bool:
    """Whether a line is an object that has entities under one of the keys that `formats` reads."""
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and any(row.get(key) for key in ("entities", "label", "labels", "spans"))


def draw(candidates: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` of `candidates`, or all if there are fewer, drawn at random and kept in their order.

    >>> [example.id for example in draw([Example(str(n), "无") for n in range(9)], 3, seed=0)]
    ['0', '6', '8']
    """
    if count >= len(candidates):
        return list(candidates)
    return [candidates[i] for i in sorted(random.Random(seed).sample(range(len(candidates)), count))]
