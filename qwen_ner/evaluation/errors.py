"""What kind of errors were made: every false positive and false negative of the span view, in exactly one kind.

In: gold and predicted rows as `score` takes them. Out: the errors of each row, their counts, a confusion matrix, and
scores by what a sentence is like. Knows nothing of models and files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..codec import Decoded
from ..entities import Entity, Example
from .scoring import Counts

ErrorKind = Literal[
    "boundary", "label", "boundary + label", "missed", "spurious", "not in text", "unknown label", "unparseable"
]

KINDS: dict[ErrorKind, str] = {
    "boundary": "right label, other offsets that overlap",
    "label": "right offsets, other label",
    "boundary + label": "other label and other offsets that overlap",
    "missed": "a gold entity where nothing is predicted",
    "spurious": "a prediction where nothing is gold",
    "not in text": "a surface that the text does not have",
    "unknown label": "a label that is not in the label set",
    "unparseable": "a gold entity of a row whose answer could not be read",
}

NONE = "-"
"""Row and column of the confusion matrix for what has no counterpart."""


@dataclass(frozen=True, slots=True)
class Error:
    """One error: the `gold` entity that was not found, the `predicted` one that is wrong, or both of a pair.

    `written` is the (label, surface) of a prediction that has no offsets.
    """

    kind: ErrorKind
    gold: Entity | None = None
    predicted: Entity | None = None
    written: tuple[str, str] | None = None

    @property
    def false_positives(self) -> int:
        return int(self.predicted is not None or self.written is not None)

    @property
    def false_negatives(self) -> int:
        return int(self.gold is not None)


def errors_of(gold: Example, predicted: Decoded, labels: Sequence[str]) -> list[Error]:
    """The errors of one row. Their false positives and negatives add up to those of `Scores.span_micro`.

    A gold entity and a prediction are at most once in a pair: same offsets before same label, more overlap before less.

    >>> gold = Example("0", "三星在北京", (Entity("company", "三星", 0, 2), Entity("address", "北京", 3, 5)))
    >>> wrong = Decoded((Entity("name", "三星", 0, 2), Entity("address", "在北京", 2, 5)))
    >>> [(error.kind, error.gold.text, error.predicted.text) for error in errors_of(gold, wrong, ["name", "address"])]
    [('label', '三星', '三星'), ('boundary', '北京', '在北京')]
    """
    right = {(e.label, e.span) for e in gold.entities} & {(e.label, e.span) for e in predicted.entities}
    missed = [e for e in gold.entities if (e.label, e.span) not in right]
    wrong = [e for e in dict.fromkeys(_bare(e) for e in predicted.entities) if (e.label, e.span) not in right]
    found: list[Error] = []
    pairs = [(g, p) for g in missed for p in wrong if g.start < p.end and p.start < g.end]
    for g, p in sorted(pairs, key=_nearest_first):
        if g in missed and p in wrong:
            missed.remove(g)
            wrong.remove(p)
            kind: ErrorKind = "label" if g.span == p.span else "boundary" if g.label == p.label else "boundary + label"
            found.append(Error(kind, g, p))
    unread = not predicted.entities and not predicted.surfaces and bool(_UNREAD & {p.kind for p in predicted.problems})
    found += [Error("unparseable" if unread else "missed", gold=g) for g in missed]
    found += [Error("spurious", predicted=p) for p in wrong]
    return found + [
        Error("not in text" if label in labels else "unknown label", written=(label, surface))
        for label, surface in predicted.ungrounded
    ]


_UNREAD = frozenset({"not_json", "truncated", "wrong_type"})


def _bare(entity: Entity) -> Entity:
    return Entity(entity.label, entity.text, entity.start, entity.end)


def _nearest_first(pair: tuple[Entity, Entity]) -> tuple[bool, bool, int, int]:
    g, p = pair
    overlap = min(g.end, p.end) - max(g.start, p.start)
    return g.span != p.span, g.label != p.label, -overlap, g.start


def count_kinds(errors: Iterable[Sequence[Error]]) -> dict[ErrorKind, Counts]:
    """False positives and false negatives of each kind, in the order of `KINDS`; together all of the span view's."""
    fp: Counter[str] = Counter()
    fn: Counter[str] = Counter()
    for error in (error for row in errors for error in row):
        fp[error.kind] += error.false_positives
        fn[error.kind] += error.false_negatives
    return {kind: Counts(fp=fp[kind], fn=fn[kind]) for kind in KINDS}


def confusion(
    gold: Sequence[Example], errors: Sequence[Sequence[Error]], labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    """How often an entity of the first label was given the second: {gold label: {predicted label: count}}.

    Counts pairs of entities that overlap, whatever their boundaries, so the diagonal holds what has the right label.
    The row `-` counts predictions without a gold counterpart, the column `-` gold entities without a prediction.
    """
    table = {row: dict.fromkeys((*labels, NONE), 0) for row in (*labels, NONE)}
    for example, row in zip(gold, errors, strict=True):
        failed = {error.gold for error in row if error.gold}
        for entity in example.entities:
            if entity not in failed:
                table[entity.label][entity.label] += 1
        for error in row:
            label = error.gold.label if error.gold else NONE
            given = error.predicted.label if error.predicted else error.written[0] if error.written else NONE
            if given in table[label]:
                table[label][given] += 1
    return table


def by_sentence(gold: Sequence[Example], predicted: Sequence[Decoded]) -> dict[str, dict[str, Counts]]:
    """The surface view's counts in groups: by length of the surface, length of the sentence, entities in it.

    Lengths are characters. A surface counts in the group of its own length, whether it is gold or predicted; so each
    grouping adds up to `Scores.micro`.
    """
    groups: dict[str, Callable[[Example, str], str]] = {
        "characters of the surface": lambda example, surface: _bucket(len(surface), (1, 2, 3, 4, 6, 10)),
        "characters of the sentence": lambda example, surface: _bucket(len(example.text), (10, 20, 30, 40, 50, 100)),
        "entities in the sentence": lambda example, surface: _bucket(len(example.entities), (0, 1, 2, 3, 4, 6), 0),
    }
    found: dict[str, dict[str, Counts]] = {name: {} for name in groups}
    for example, decoded in zip(gold, predicted, strict=True):
        true = set(example.surfaces)
        written = {*decoded.surfaces, *((e.label, e.text) for e in decoded.entities)}
        for pair in true | written:
            one = Counts(int(pair in true & written), int(pair not in true), int(pair not in written))
            for name, group in groups.items():
                key = group(example, pair[1])
                found[name][key] = found[name].get(key, Counts()) + one
    return {name: in_order(of) for name, of in found.items()}


def in_order(groups: dict[str, Counts]) -> dict[str, Counts]:
    """A grouping of `by_sentence`, the smallest first."""
    return dict(sorted(groups.items(), key=lambda item: _lowest(item[0])))


def _bucket(value: int, edges: Sequence[int], low: int = 1) -> str:
    """The group of `value` among those that end at `edges`, the first beginning at `low`: "3", "over 10"."""
    for edge in edges:
        if value <= edge:
            return str(edge) if low >= edge else f"{low}–{edge}"
        low = edge + 1
    return f"over {edges[-1]}"


def _lowest(bucket: str) -> tuple[bool, int]:
    return bucket.startswith("over"), int(bucket.removeprefix("over ").partition("–")[0])


def spurious(gold: Sequence[Example], predicted: Sequence[Decoded]) -> tuple[int, int]:
    """How many surfaces were predicted in sentences without a gold entity, and in how many such sentences."""
    empty = [decoded for example, decoded in zip(gold, predicted, strict=True) if not example.entities]
    return sum(len(decoded.surfaces) for decoded in empty), len(empty)
