"""Places where models are sure of something other than the annotation.

In: annotated `Example`s, and the lines that `qwen-ner predict` or `folds` wrote for their texts. Out: `Finding`s. Knows
nothing of models.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...entities import Entity, Example, NerError
from ..formats.errors import Faults, LineFault, quote
from ..formats.lines import lines_of, number_lines
from ..formats.mentions import entity_of
from ..formats.rows import json_object
from .corpus import overlapping, share_at_least
from .findings import Finding

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model found in a text, and how much it believes in the annotation.

    `annotated` has the confidence of each annotated (label, surface) that the model was asked for because it does not
    write it, as `folds` does; None if it was not asked for any.
    """

    entities: tuple[Entity, ...] = ()
    annotated: Mapping[tuple[str, str], float] | None = None


Predictions = Sequence[Prediction | None]
"""What one model found in each example; None if it was not asked."""


def predictions_by_text(path: str | Path, examples: Sequence[Example]) -> list[Prediction | None]:
    """What a file that `qwen-ner predict` or `folds` wrote predicts for each of `examples`, found by its text.

    Lines of other texts or with an `error`, and rows without a line, are counted and logged. Raises `DataError` with
    every malformed line, `NerError` if no line has the text of an example.
    """
    by_text: dict[str, Prediction] = {}
    faults, errors = Faults(str(path)), 0
    for number, raw in number_lines(lines_of(path)):
        with faults.reading(f"{Path(path).name}:{number}"):
            row = json_object(raw)
            if "error" in row:
                errors += 1
                continue
            found, annotated = _entities(row, "entities"), None
            if "annotated" in row:  # of rows with the same text, each has its own
                before = by_text.get(row["text"], Prediction()).annotated or {}
                annotated = {**before, **best_scores(_entities(row, "annotated"))}
            by_text[row["text"]] = Prediction(found, annotated)
    faults.finish("no lines", "give a file that `qwen-ner predict` wrote")
    known = {example.text for example in examples}
    if not known & by_text.keys():
        fault = f"none of {faults.rows} lines has the text of a row"
        raise NerError(fault, place=path, remedy="predict the audited texts")
    of_rows = [by_text.get(example.text) for example in examples]
    if (others := len(by_text.keys() - known) + errors) or None in of_rows:
        message = "%s: %d lines belong to none of the rows or have an error; %d rows have no line."
        log.warning(message, path, others, of_rows.count(None))
    return of_rows


def _entities(row: dict[str, Any], key: str) -> tuple[Entity, ...]:
    text, items = row.get("text"), row.get(key)
    if not isinstance(text, str) or not isinstance(items, list):
        raise LineFault(f"{quote(row)} has no text and entities", remedy="give a file that `qwen-ner predict` wrote")
    entities = Example("", text, tuple(entity_of(item, text) for item in items)).entities
    if any(entity.score is None for entity in entities):
        raise LineFault(f"{quote(row)} has no entities with scores", remedy="give a file that `qwen-ner predict` wrote")
    return entities


def best_scores(entities: Sequence[Entity]) -> dict[tuple[str, str], float]:
    """The best score of each (label, surface)."""
    best: dict[tuple[str, str], float] = {}
    for entity in entities:
        pair = (entity.label, entity.text)
        best[pair] = max(best.get(pair, 0.0), entity.score or 0.0)
    return best


def disagreements(examples: Sequence[Example], predictions: Sequence[Predictions]) -> Iterator[Finding]:
    """Surfaces that models write and annotators do not, and the reverse; `predictions` has a list for each model.

    The score of a surface that is not annotated with that label is its mean confidence over the models that were asked,
    0 for those that do not write it. A surface that no model writes has no confidence: its score is the lower bound of
    the share of such models (`share_at_least`), so that a single model is no evidence.
    """
    for row, example in enumerate(examples):
        asked = [found for model in predictions if (found := model[row]) is not None]
        written = {(e.label, e.text): e for found in reversed(asked) for e in reversed(found.entities)}
        scores = [best_scores(found.entities) for found in asked]
        annotated = set(example.surfaces)
        for pair in dict.fromkeys(pair for of in scores for pair in of if pair not in annotated):
            place, of = written[pair], [score[pair] for score in scores if pair in score]
            old = next(iter(overlapping(example, place.start, place.end)), None)
            evidence = f"{len(of)} of {len(asked)} models write it, with {', '.join(f'{score:.2f}' for score in of)}"
            new = Entity(place.label, place.text, place.start, place.end)
            yield Finding(row, example, "predicted", sum(of) / len(asked), old, new, evidence)
        for entity in example.entities:
            if asked and (entity.label, entity.text) not in written:
                evidence = f"none of {len(asked)} models writes it"
                share = share_at_least(len(asked), len(asked))
                yield Finding(row, example, "predicted", share, entity, None, evidence)
