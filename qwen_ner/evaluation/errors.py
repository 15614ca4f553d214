"""Kinds of errors: each false positive and false negative of the span view belongs to exactly one.

In: gold and predicted rows as `score` takes them. Out: the errors of each row, their counts, and a confusion matrix.
Knows nothing of models and files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from ..codec import Decoded
from ..entities import Entity, Example
from .scoring import Counts

KINDS = {
    "boundary": "right label, wrong offsets that overlap",
    "label": "right offsets, wrong label",
    "boundary + label": "wrong label, and wrong offsets that overlap",
    "missed": "a gold entity without a prediction",
    "spurious": "a prediction without a gold entity",
    "not in text": "a surface that does not occur in the text",
    "unknown label": "a label that is not in the label set",
    "not JSON": "a gold entity of a row whose answer is not JSON",
    "truncated": "a gold entity of a row whose answer was cut off and cannot be read",
    "wrong type": "a gold entity of a row whose answer is JSON of another shape",
}
"""The kinds and what they mean. Those of what was written are named like its problems in the table of scores."""

NONE = "-"
"""The label in `confusion` of an entity without a counterpart."""


@dataclass(frozen=True, slots=True)
class Error:
    """One error: a `gold` entity that was not found, a `predicted` one that is wrong, or a pair of both.

    `written` is the (label, surface) of a prediction without offsets.
    """

    kind: str
    gold: Entity | None = None
    predicted: Entity | None = None
    written: tuple[str, str] | None = None

    @property
    def counts(self) -> Counts:
        """The false positive, the false negative, or both."""
        return Counts(fp=int(self.predicted is not None or self.written is not None), fn=int(self.gold is not None))


def error_count(errors: Iterable[Error]) -> int:
    """False positives and false negatives together."""
    return sum(error.counts.fp + error.counts.fn for error in errors)


def errors_of(gold: Example, predicted: Decoded, labels: Container[str], target: str | None = "json") -> list[Error]:
    """The errors of one row. Their false positives and negatives add up to those of `Scores.span_micro`.

    Each gold entity and each prediction is in at most one pair. Pairs with equal offsets come first, then those with
    equal labels, then those with more overlap. An inline answer (`target`) that was cut off is read as far as it goes:
    what it lacks is missed.

    >>> gold = Example("0", "三星在北京", (Entity("company", "三星", 0, 2), Entity("address", "北京", 3, 5)))
    >>> wrong = Decoded((Entity("name", "三星", 0, 2), Entity("address", "在北京", 2, 5)))
    >>> [(error.kind, error.gold.text, error.predicted.text) for error in errors_of(gold, wrong, ["name", "address"])]
    [('label', '三星', '三星'), ('boundary', '北京', '在北京')]
    """
    right = {(e.label, e.span) for e in gold.entities} & {(e.label, e.span) for e in predicted.entities}
    missed = [e for e in gold.entities if (e.label, e.span) not in right]
    bare = (replace(e, score=None, ambiguous=False) for e in predicted.entities)
    wrong = [e for e in dict.fromkeys(bare) if (e.label, e.span) not in right]
    found: list[Error] = []
    pairs = [(g, p) for g in missed for p in wrong if g.start < p.end and p.start < g.end]
    for g, p in sorted(pairs, key=_nearest_first):
        if g in missed and p in wrong:
            missed.remove(g)
            wrong.remove(p)
            kind = "label" if g.span == p.span else "boundary" if g.label == p.label else "boundary + label"
            found.append(Error(kind, g, p))
    read = predicted.surfaces or target == "inline"
    unread = [] if read else [_UNREAD[p.kind] for p in predicted.problems if p.kind in _UNREAD]
    found += [Error(unread[0] if unread and not predicted.entities else "missed", gold=g) for g in missed]
    found += [Error("spurious", predicted=p) for p in wrong]
    return found + [
        Error("not in text" if label in labels else "unknown label", written=(label, surface))
        for label, surface in predicted.ungrounded
    ]


_UNREAD = {"not_json": "not JSON", "truncated": "truncated", "wrong_type": "wrong type"}


def _nearest_first(pair: tuple[Entity, Entity]) -> tuple[bool, bool, int, int]:
    g, p = pair
    overlap = min(g.end, p.end) - max(g.start, p.start)
    return g.span != p.span, g.label != p.label, -overlap, g.start


def count_kinds(errors: Iterable[Sequence[Error]]) -> dict[str, Counts]:
    """False positives and false negatives of each kind, in the order of `KINDS`. They add up to the span view's."""
    found = dict.fromkeys(KINDS, Counts())
    for error in chain.from_iterable(errors):
        found[error.kind] += error.counts
    return found


def confusion(
    gold: Sequence[Example], errors: Sequence[Sequence[Error]], labels: Container[str]
) -> Counter[tuple[str, str]]:
    """How often an entity of one label was predicted as another: {(gold label, predicted label): count}.

    Counts pairs of entities that overlap, whatever their boundaries, so the diagonal counts right labels. The label `-`
    stands for the missing side: a gold entity without a prediction, or a prediction without a gold entity. Pairs that
    never occurred are not in it, since they grow with the square of the labels.
    """
    found: Counter[tuple[str, str]] = Counter()
    for example, row in zip(gold, errors, strict=True):
        failed = {error.gold for error in row if error.gold}
        found.update((entity.label, entity.label) for entity in example.entities if entity not in failed)
        for error in row:
            label = error.gold.label if error.gold else NONE
            given = error.predicted.label if error.predicted else error.written[0] if error.written else NONE
            if given in labels or given == NONE:
                found[label, given] += 1
    return found


def spurious(gold: Sequence[Example], predicted: Sequence[Decoded]) -> tuple[int, int]:
    """The number of surfaces predicted in sentences without a gold entity, and the number of these sentences."""
    empty = [decoded for example, decoded in zip(gold, predicted, strict=True) if not example.entities]
    return sum(len(decoded.surfaces) for decoded in empty), len(empty)
