"""What a JSON row says about its entities, in the forms that several formats share.

In: the annotation of a row and its text. Out: `Entity`s; each fault to a `Report`. Knows nothing of files and lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...codec import ground
from ...entities import Entity, Example, LabelSet
from .errors import Note, Report, count, nearest, quote


def distinct(found: Iterable[Entity], report: Report) -> tuple[Entity, ...]:
    """The entities, each once; a repeated one is reported."""
    entities: dict[tuple[str, int, int], Entity] = {}
    for entity in found:
        if (key := (entity.label, *entity.span)) in entities:
            place = f"[{entity.start}, {entity.end})"
            report(f"{entity.label} {quote(entity.text)} at {place} is given twice; delete one")
        entities[key] = entity
    return tuple(entities.values())


def from_label(tree: object, text: str, labels: LabelSet | None, inclusive: bool, report: Report) -> Iterator[Entity]:
    """The entities of {label: [surface, …]} and of {label: {surface: [[start, end], …]}}."""
    if not isinstance(tree, dict):
        report(f'"label" is {quote(tree)}; make it an object, {{"company": ["三星"]}}')
        return
    to_ground: dict[tuple[str, str], None] = {}
    for label, surfaces in tree.items():
        if not is_label(label, labels, report):
            continue
        if not isinstance(surfaces, (list, dict)):
            report(f"label {quote(label)} holds {quote(surfaces)}; make it a list of surfaces")
            continue
        for surface in surfaces:
            if not isinstance(surface, str) or not surface:
                report(f"label {quote(label)} holds the surface {quote(surface)}; make it a non-empty string")
            elif isinstance(surfaces, dict):
                yield from _from_spans(label, surface, surfaces[surface], text, inclusive, report)
            elif surface not in text:
                report(f"{label} {quote(surface)} is not in the text {quote(text)}; correct it or delete it")
            elif (label, surface) in to_ground:
                report(f"{label} {quote(surface)} is given twice; name it once, which annotates every occurrence")
            else:
                to_ground[label, surface] = None
    yield from ground(text, to_ground)


def _from_spans(
    label: str, surface: str, spans: object, text: str, inclusive: bool, report: Report
) -> Iterator[Entity]:
    if not isinstance(spans, list) or not spans:
        report(f"{label} {quote(surface)} has the spans {quote(spans)}; give it a list, [[0, 2]]")
        return
    for span in spans:
        if not isinstance(span, list) or len(span) != 2:
            report(f"{label} {quote(surface)} has the span {quote(span)}; make it [start, end]")
        elif entity := entity_at(label, (surface,), span[0], span[1], text, report, inclusive=inclusive):
            yield entity


def from_items(items: object, text: str, labels: LabelSet | None, inclusive: bool, report: Report) -> Iterator[Entity]:
    """The entities of [{"label", "start", "end"}, …]."""
    if not isinstance(items, list):
        report(f'"entities" is {quote(items)}; make it a list, [{{"label": "company", "start": 0, "end": 2}}]')
        return
    for item in items:
        missing = [key for key in ("label", "start", "end") if not isinstance(item, dict) or key not in item]
        if missing:
            report(f"the entity {quote(item)} lacks {', '.join(missing)}; give it a label, a start and an end")
            continue
        score = score_of(item, report)
        if is_label(item["label"], labels, report):
            surfaces = tuple(item[key] for key in ("text", "surface") if key in item)
            entity = entity_at(
                item["label"], surfaces, item["start"], item["end"], text, report, score=score, inclusive=inclusive
            )
            if entity:
                yield entity


def score_of(item: dict[str, Any], report: Report) -> float | None:
    """The "score" of an entity, None if it has none; a value that is no probability is reported."""
    score = item.get("score")
    if score is not None and (type(score) not in (int, float) or not 0 <= score <= 1):
        report(f"the entity {quote(item)} has the score {quote(score)}; make it a number from 0 to 1")
        return None
    return score


def is_label(label: object, labels: LabelSet | None, report: Report) -> bool:
    """Whether this is a label of the set; if not, it is reported."""
    if not isinstance(label, str) or not label:
        report(f"the label is {quote(label)}; make it a non-empty string")
        return False
    if labels is not None and label not in labels:
        meant = nearest(label, labels.names)
        report(f"label {quote(label)} is unknown{meant or '; the known ones are ' + ', '.join(labels.names)}")
        return False
    return True


def entity_at(
    label: str,
    surfaces: tuple[object, ...],
    start: object,
    end: object,
    text: str,
    report: Report,
    *,
    score: float | None = None,
    inclusive: bool = False,
) -> Entity | None:
    """The entity at a span, if the span lies in the text and holds each of the surfaces given for it."""
    if type(start) is int and type(end) is int:  # not isinstance: True is an int to it
        stop = end + inclusive
        if 0 <= start < stop <= len(text):
            held = text[start:stop]
            wrong = [surface for surface in surfaces if surface != held]
            if not wrong:
                return Entity(label, held, start, stop, score)
            fault = f"holds {quote(held)}, the surface is {quote(wrong[0])}"
        else:
            fault = f"of {label} is empty or leaves the text, which has {count(len(text), 'character')}"
    else:
        fault = f"of {label} is not made of whole numbers, which count characters from 0"
    remedy = (
        "CLUENER's ends are inclusive; if this file's are not, name it .jsonl."
        if inclusive
        else "Ends are exclusive here; if this file's are inclusive, as CLUENER's are, add 1 to each."
    )
    report(f"the span [{quote(start)}, {quote(end)}{']' if inclusive else ')'} {fault}. {remedy}")
    return None


def without_scores(examples: Iterable[Example], lose: Note) -> Iterator[Example]:
    """The examples for a format that has no place for scores; `lose` gets those that have some."""
    for example in examples:
        if any(entity.score is not None for entity in example.entities):
            lose("scores", example.source)
        yield example
