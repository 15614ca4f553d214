"""Places where models are sure of something other than the annotation.

In: annotated `Example`s, and the lines that `qwen-ner predict` wrote for their texts. Out: `Finding`s. Knows nothing of
models.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...entities import Entity, Example, NerError
from ..formats.errors import Faults, quote
from ..formats.lines import lines_of, number_lines
from ..formats.rows import json_object
from .corpus import overlapping, share_at_least
from .findings import Finding

log = logging.getLogger(__name__)

Predictions = Sequence["Sequence[Entity] | None"]
"""What one model found in each example; None if it was not asked."""


def predictions_by_text(path: str | Path, examples: Sequence[Example]) -> list[Sequence[Entity] | None]:
    """What a file that `qwen-ner predict` wrote predicts for each of `examples`, found by its text.

    Lines of other texts or with an `error`, and rows without a line, are counted and logged. Raises `DataError` with
    every malformed line, `NerError` if no line has the text of an example.
    """
    by_text: dict[str, Sequence[Entity]] = {}
    faults, errors = Faults(str(path)), 0
    for number, raw in number_lines(lines_of(path)):
        report = faults.row(f"{Path(path).name}:{number}")
        try:
            row = json_object(raw)
            if "error" in row:
                errors += 1
            else:
                items = [(e["label"], e["text"], e["start"], e["end"], float(e["score"])) for e in row["entities"]]
                by_text[row["text"]] = Example("", row["text"], tuple(Entity(*item) for item in items)).entities
        except NerError as error:
            report(str(error))
        except (KeyError, TypeError, ValueError):
            fault = f"{quote(raw.decode('utf-8', 'replace'))} has no text and entities with scores"
            report(f"{fault}; give a file that `qwen-ner predict` wrote")
    faults.finish("no lines", "give a file that `qwen-ner predict` wrote")
    known = {example.text for example in examples}
    if not known & by_text.keys():
        fault = f"none of {faults.rows} lines has the text of a row"
        raise NerError(fault, place=path, remedy="predict the audited texts")
    found = [by_text.get(example.text) for example in examples]
    if (others := len(by_text.keys() - known) + errors) or None in found:
        message = "%s: %d lines belong to none of the rows or have an error; %d rows have no line."
        log.warning(message, path, others, found.count(None))
    return found


def disagreements(examples: Sequence[Example], predictions: Sequence[Predictions]) -> Iterator[Finding]:
    """Surfaces that models write and annotators do not, and the reverse; `predictions` has a list for each model.

    The score of a surface that is not annotated with that label is its mean confidence over the models that were asked,
    0 for those that do not write it. A surface that no model writes has no confidence: its score is the lower bound of
    the share of such models (`share_at_least`), so that a single model is no evidence.
    """
    for row, example in enumerate(examples):
        asked = [found for model in predictions if (found := model[row]) is not None]
        scores: dict[tuple[str, str], list[float]] = defaultdict(list)
        first: dict[tuple[str, str], Entity] = {}
        for found in asked:
            best: dict[tuple[str, str], float] = {}
            for entity in found:
                pair = (entity.label, entity.text)
                first.setdefault(pair, entity)
                best[pair] = max(best.get(pair, 0.0), entity.score or 0.0)
            for pair, score in best.items():
                scores[pair].append(score)
        annotated = set(example.surfaces)
        for pair, of in scores.items():
            if pair in annotated:
                continue
            place = first[pair]
            old = next(iter(overlapping(example, place.start, place.end)), None)
            evidence = f"{len(of)} of {len(asked)} models write it, with {', '.join(f'{score:.2f}' for score in of)}"
            new = Entity(place.label, place.text, place.start, place.end)
            yield Finding(row, example, "predicted", sum(of) / len(asked), old, new, evidence)
        for entity in example.entities:
            if asked and (entity.label, entity.text) not in scores:
                evidence = f"none of {len(asked)} models writes it"
                share = share_at_least(len(asked), len(asked))
                yield Finding(row, example, "predicted", share, entity, None, evidence)
