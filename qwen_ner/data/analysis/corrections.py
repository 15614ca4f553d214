"""Corrections of an annotation: proposed where models are sure, applied when a person has read them.

In: annotated `Example`s, with what models predicted that were trained on other rows; or a file of findings. Out:
`Finding`s; corrected `Example`s and counts. Knows nothing of models.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...entities import Entity, Example, NerError
from ..formats.errors import DataError, Faults, LineFault, count, quote
from ..formats.lines import lines_of, number_lines
from ..formats.mentions import entity_of
from ..formats.rows import json_object
from .corpus import overlapping
from .disagreement import Prediction, Predictions, best_scores
from .findings import Finding, Kind

log = logging.getLogger(__name__)

SURE = 0.9
"""Confidence from which models are sure; they doubt an annotation that none of them gives more than 1 - SURE."""


def propose(examples: Sequence[Example], predictions: Sequence[Predictions]) -> list[Finding]:
    """What to correct where models are sure, the surest first; `predictions` has a list for each model.

    Models are *sure* of a (label, surface) that the row is not annotated with if their mean confidence in it is at
    least 0.9; one that does not write it counts as 0. They *doubt* an entity if none of them has a confidence above 0.1
    in its (label, surface): that of its own answer or, if it does not write it, `Prediction.annotated`. What a model
    was not asked for is not doubted.

    - `added`: sure of it, and no entity is there.
    - `label`, `boundary`, `label and boundary`: sure of it, and doubt every entity that it overlaps. One is replaced,
      further ones are `removed`.

    An entity in whose place they write nothing is not removed, however much they doubt it: of 36 such in CLUENER 11 are
    errors, of 11 others 8.

    The score is the confidence in what is suggested, or 1 less the confidence in what is annotated if that is lower. A
    surface is suggested at each place where it was found. Raises `NerError` if no model was asked for the annotation.

    >>> row = Example("0", "三星在北京", (Entity("company", "北京", 3, 5),))
    >>> found = Prediction((Entity("address", "北京", 3, 5, 0.97),), {("company", "北京"): 0.01})
    >>> print(*propose([row], [[found]]))
    0  0.97  label: company 北京 [3, 5) → address 北京 [3, 5)  (address 北京 0.97; company 北京 at most 0.01)
    """
    asked = [found for model in predictions for found in model if found is not None]
    if asked and all(found.annotated is None for found in asked):
        what = "the predictions lack the models' confidence in the annotation"
        raise NerError(what, place="--predictions", remedy="give the folds.jsonl that `qwen-ner folds` writes")
    findings: list[Finding] = []
    for row, example in enumerate(examples):
        models = [found for model in predictions if (found := model[row]) is not None]
        if models:
            findings += _corrections(row, example, models)
    return sorted(findings, key=lambda finding: (-finding.score, finding.row, finding.span))


def _corrections(row: int, example: Example, models: Sequence[Prediction]) -> Iterator[Finding]:
    written = [best_scores(model.entities) for model in models]
    # The models' mean confidence in what one of them writes, and the greatest in what is annotated.
    sureness = {pair: sum(of.get(pair, 0.0) for of in written) / len(models) for of in written for pair in of}
    answers = [(scores, model.annotated or {}) for scores, model in zip(written, models, strict=True)]
    belief = {pair: max(of.get(pair, asked.get(pair, 1.0)) for of, asked in answers) for pair in example.surfaces}

    def doubted(entity: Entity) -> bool:
        return belief[entity.label, entity.text] <= round(1 - SURE, 9)

    def finding(kind: Kind, old: Entity | None, new: Entity | None, sure: Entity) -> Finding:
        scores = [sureness[sure.label, sure.text]]
        said = [f"{sure.label} {sure.text} {scores[0]:.2f}"]
        if old:
            scores.append(1 - belief[old.label, old.text])
            said.append(f"{old.label} {old.text} at most {belief[old.label, old.text]:.2f}")
        suggested = new and Entity(new.label, new.text, new.start, new.end)
        return Finding(row, example, kind, min(scores), old, suggested, "; ".join(said))

    found = {(e.label, e.span): e for model in models for e in model.entities}.values()
    sure = [e for e in found if (e.label, e.text) not in belief and sureness[e.label, e.text] >= SURE]
    taken: list[Entity] = []
    replaced: set[Entity] = set()
    for new in sorted(sure, key=lambda e: (-sureness[e.label, e.text], e.span, e.label)):
        old = overlapping(example, *new.span)
        if any(_overlap(new, other) for other in taken) or not all(map(doubted, old)):
            continue
        taken.append(new)
        left = sorted(set(old) - replaced, key=lambda e: (e.label != new.label, -_overlap(new, e), e.span))
        replaced |= set(left)
        yield finding(_kind(left[0], new) if left else "added", left[0] if left else None, new, new)
        yield from (finding("removed", entity, None, new) for entity in left[1:])


def _overlap(one: Entity, other: Entity) -> int:
    """How many characters they share."""
    return max(0, min(one.end, other.end) - max(one.start, other.start))


def _kind(old: Entity, new: Entity) -> Kind:
    if old.span == new.span:
        return "label"
    return "boundary" if old.label == new.label else "label and boundary"


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a file of findings: `old` is annotated, `new` should be."""

    place: str
    kind: str
    text: str
    old: Entity | None
    new: Entity | None


class Corrections:
    """The lines of a file that `qwen-ner audit --output` wrote, to apply to the rows that it was written for.

    `done` counts the lines by kind that changed a row, `before` those whose row already was as they say. Raises
    `DataError` with every malformed line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.lines: dict[str, list[_Line]] = defaultdict(list)
        faults = Faults(str(path))
        for number, raw in number_lines(lines_of(path)):
            place = f"{Path(path).name}:{number}"
            with faults.reading(place):
                row = json_object(raw)
                text, items = row.get("text"), [row.get("annotated"), row.get("suggested")]
                if not {"id", "kind"} <= row.keys() or not isinstance(text, str) or items == [None, None]:
                    raise LineFault(f"{quote(row)} is no finding", remedy="give what `qwen-ner audit --output` wrote")
                old, new = (None if item is None else entity_of(item, text) for item in items)
                self.lines[str(row["id"])].append(_Line(place, str(row["kind"]), text, old, new))
        if faults.found:  # without a line every proposal was rejected
            raise DataError(str(path), faults.found, faults.rows)

    def apply(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The rows with all corrections; nothing else in them changes. To apply them again changes nothing.

        Raises `DataError` at the end if a line's row is not among them, or has another text or other entities there.
        """
        self.done, self.before = Counter[str](), Counter[str]()
        remedy = "give the data that it was written for, or delete the line"
        places = [line.place for lines in self.lines.values() for line in lines]
        faults, unused = list[str](), set(places)
        for example in examples:
            for line in self.lines.get(example.id, ()):
                unused.discard(line.place)
                if (corrected := _corrected(example, line)) is None:
                    what = f"row {example.id} has another text, or neither what is annotated nor what is suggested"
                    faults.append(f"{line.place}: {what}; {remedy}")
                else:
                    (self.before if corrected == example else self.done)[line.kind] += 1
                    example = corrected
            yield example
        faults += [f"{place}: its row is not in the data; {remedy}" for place in sorted(unused)]
        if faults:
            raise DataError(str(self.path), faults, len(places))

    def log(self) -> None:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.done.most_common())
        before = f"; {self.before.total():,} were applied before" if self.before else ""
        applied = count(self.done.total(), "correction")
        log.info("%s: %s applied%s%s", self.path, applied, kinds and f": {kinds}", before)


def _corrected(example: Example, line: _Line) -> Example | None:
    """The row with what a line suggests in place of what is annotated; None if it has neither, or another text."""
    has = {(e.label, e.span): e for e in example.entities}
    old, new = ((e.label, e.span) if e else None for e in (line.old, line.new))
    if line.text != example.text or (old and new and old not in has and new not in has):
        return None
    if old:
        has.pop(old, None)
    if line.new and new not in has:
        has[line.new.label, line.new.span] = line.new
    return replace(example, entities=tuple(has.values()))
