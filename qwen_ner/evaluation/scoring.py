"""Score predicted entities against gold ones.

In: for each row an `Example` (gold) and a `Decoded` (predicted). Out: counts, and the rates derived from them. Knows
nothing of models, files or how the predictions were made.

There are three views of the same predictions, which are never mixed:

- `f1`: micro F1 over each row's *set* of (label, surface) pairs, which is what the model writes.
- `span_f1`: micro F1 over (label, start, end), strict.
- `macro_f1`: the mean over `Scores.averaged` labels of the surface F1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from ..codec import PROBLEM_KINDS, Decoded
from ..columns import join_names
from ..entities import CLUENER, Example, LabelSet, NerError

Pair = tuple[str, str]
"""A label and a surface."""

SURFACE, SPAN = "surface", "span"

OUTCOMES = TP, FP, FN = 0, 1, 2
"""In the order of the fields of `Counts`."""


def is_cluener(labels: Iterable[str]) -> bool:
    """Whether these are CLUENER's ten labels, whose `macro_f1` has a definition of its own."""
    return set(labels) == set(CLUENER.names)


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives, of one label or summed over several.

    >>> (Counts(tp=2, fp=1, fn=2) + Counts(tp=1)).f1
    0.6666666666666666
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """tp / (tp + fp); 0.0 if nothing was predicted."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        """tp / (tp + fn); 0.0 if there is no gold entity."""
        return self.tp / self.support if self.support else 0.0

    @property
    def f1(self) -> float:
        """2·tp / (2·tp + fp + fn); 0.0 if there is neither gold nor prediction, so that silence never scores 1."""
        denominator = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / denominator if denominator else 0.0

    @property
    def support(self) -> int:
        """The number of gold entities."""
        return self.tp + self.fn

    def to_dict(self) -> dict[str, int | float]:
        """The counts, with the rates for readers of the JSON; `from_dict` reads the counts only."""
        return {name: getattr(self, name) for name in ("tp", "fp", "fn", "precision", "recall", "f1")}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Counts:
        return cls(*(int(value[name]) for name in ("tp", "fp", "fn")))


@dataclass(frozen=True)
class Scores:
    """The counts of `score`. Rates are properties; the scores of two parts of a data set add up to those of the whole.

    `labels` are the names of the label set. `surface` and `span` have an entry for each of them, then one for each
    unknown label that was predicted. `seen` and `unseen` split the surface view by whether the pair occurs in the
    training data; both are None if `score` was not given any.
    """

    rows: int
    labels: tuple[str, ...]
    surface: dict[str, Counts]
    span: dict[str, Counts]
    problems: dict[str, int]
    seen: Counts | None = None
    unseen: Counts | None = None

    def __add__(self, other: Scores) -> Scores:
        if self.labels != other.labels:
            what = f"cannot add scores of other labels than {join_names(self.labels)}"
            raise NerError(what, value=join_names(other.labels), remedy="score both parts with the same label set")
        if (self.seen is None) != (other.seen is None):
            remedy = "give `train` to both calls of score"
            raise NerError("cannot add scores with and without seen/unseen", remedy=remedy)
        return Scores(
            self.rows + other.rows,
            self.labels,
            self._merge(self.surface, other.surface),
            self._merge(self.span, other.span),
            {kind: self.problems[kind] + other.problems[kind] for kind in PROBLEM_KINDS},
            None if self.seen is None or other.seen is None else self.seen + other.seen,
            None if self.unseen is None or other.unseen is None else self.unseen + other.unseen,
        )

    def _merge(self, ours: Mapping[str, Counts], theirs: Mapping[str, Counts]) -> dict[str, Counts]:
        unknown = sorted((ours.keys() | theirs.keys()) - set(self.labels))
        return {label: ours.get(label, Counts()) + theirs.get(label, Counts()) for label in (*self.labels, *unknown)}

    @property
    def micro(self) -> Counts:
        """The sum over all labels of the surface view, including unknown ones."""
        return sum(self.surface.values(), Counts())

    @property
    def span_micro(self) -> Counts:
        """The sum over all labels of the span view, including unknown ones."""
        return sum(self.span.values(), Counts())

    @property
    def f1(self) -> float:
        """Micro F1 of the surface view, the default of `metric_for_best_model`."""
        return self.micro.f1

    @property
    def precision(self) -> float:
        """Micro precision of the surface view."""
        return self.micro.precision

    @property
    def recall(self) -> float:
        """Micro recall of the surface view."""
        return self.micro.recall

    @property
    def span_f1(self) -> float:
        """Micro F1 of the span view."""
        return self.span_micro.f1

    @property
    def averaged(self) -> tuple[str, ...]:
        """The labels that `macro_f1` is the mean of: all if they are CLUENER's ten, else those in gold or predictions.

        A label that occurs in neither says nothing about the model; CLUENER's scorer counts it as 0.
        """
        every = is_cluener(self.labels)
        return tuple(label for label in self.labels if every or self.surface[label] != Counts())

    @property
    def macro_f1(self) -> float:
        """The unweighted mean over `averaged` of the surface F1, each from counts over the whole data set.

        Source: the scorer published with CLUENER2020 (`get_f1_score_label`, `get_f1_score`). It compares the keys of
        {label: {surface: spans}} row by row, sums the counts of each label, and averages the F1 of its ten labels. Two
        differences: a label without gold, prediction or hit scores 0.0 where that script divides by zero, and unequal
        numbers of rows are an error where it drops the rest. Unknown labels are not part of the mean.
        """
        return sum(self.surface[label].f1 for label in self.averaged) / max(1, len(self.averaged))

    def metrics(self) -> dict[str, float | int]:
        """All metrics as a flat dictionary, for the Trainer, wandb and `evaluate`. Rates are fractions in [0, 1].

        `macro_f1` is the mean of `macro_labels` labels; `f1_<label>` exists for each of the label set. `tp`, `fp` and
        `fn` are those of the surface view. Each kind of problem has its own key. `seen_f1`, `unseen_f1` and their
        supports exist only with `seen` counts.

        >>> list(score([], [], LabelSet.of(["drug"])).metrics())  # doctest: +NORMALIZE_WHITESPACE, +ELLIPSIS
        ['f1', 'precision', 'recall', 'span_f1', 'span_precision', 'span_recall', 'macro_f1', 'macro_labels', 'f1_drug',
         'tp', 'fp', 'fn', 'rows', 'not_json', 'truncated', 'unknown_label', 'not_in_text', 'duplicate', ...]
        """
        micro, span = self.micro, self.span_micro
        split = {name: counts for name, counts in (("seen", self.seen), ("unseen", self.unseen)) if counts is not None}
        return {
            **{rate: getattr(micro, rate) for rate in ("f1", "precision", "recall")},
            **{f"span_{rate}": getattr(span, rate) for rate in ("f1", "precision", "recall")},
            "macro_f1": self.macro_f1,
            "macro_labels": len(self.averaged),
            **{f"f1_{label}": self.surface[label].f1 for label in self.labels},
            **{f"{name}_{of}": getattr(counts, of) for of in ("f1", "support") for name, counts in split.items()},
            **{"tp": micro.tp, "fp": micro.fp, "fn": micro.fn, "rows": self.rows},
            **self.problems,
        }

    def to_dict(self) -> dict[str, Any]:
        """The counts for JSON, with the rates for readers of the file."""
        return {
            "rows": self.rows,
            "labels": list(self.labels),
            "surface": {label: counts.to_dict() for label, counts in self.surface.items()},
            "span": {label: counts.to_dict() for label, counts in self.span.items()},
            "problems": dict(self.problems),
            "seen": None if self.seen is None else self.seen.to_dict(),
            "unseen": None if self.unseen is None else self.unseen.to_dict(),
            "metrics": self.metrics(),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Scores:
        """The scores from `to_dict`, of which only the counts are read. Raises `NerError` if one is missing.

        >>> scores = score([Example("0", "北京")], [Decoded()], LabelSet.of(["address"]))
        >>> Scores.from_dict(scores.to_dict()) == scores
        True
        """
        try:
            surface, span = ({x: Counts.from_dict(of) for x, of in value[v].items()} for v in ("surface", "span"))
            split = [value[name] and Counts.from_dict(value[name]) for name in ("seen", "unseen")]
            problems: dict[str, int] = {kind: int(value["problems"].get(kind, 0)) for kind in PROBLEM_KINDS}
            return cls(int(value["rows"]), tuple(value["labels"]), surface, span, problems, *split)
        except KeyError as missing:
            what, remedy = "missing from the scores", "write them with Scores.to_dict"
            raise NerError(what, place=missing.args[0], remedy=remedy) from None


def check_rows(gold: Sequence[Example], predicted: Sequence[Decoded], labels: LabelSet) -> None:
    """Raise `NerError` if there is not one prediction for each row, or a gold label is not in `labels`."""
    if len(gold) != len(predicted):
        remedy = "give one prediction for each row, an empty Decoded() if there is none"
        raise NerError(f"expected {len(gold)} predictions", value=len(predicted), remedy=remedy)
    for example in gold:
        if alien := {e.label for e in example.entities}.difference(labels.names):
            what = f"the label is not in the label set ({join_names(labels.names, 20)})"
            value, place = ", ".join(sorted(alien)), example.source or example.id
            raise NerError(what, value=value, place=place, remedy="add it to the label set")


def score(
    gold: Sequence[Example],
    predicted: Sequence[Decoded],
    labels: LabelSet,
    *,
    train: Iterable[Example] | Set[Pair] | None = None,
) -> Scores:
    """Compare `predicted[i]` with `gold[i]` for all i.

    A prediction that is not in the text, or whose label is unknown, is a false positive in both views; it has no
    offsets, so it counts once in the span view. A completion that could not be parsed predicts nothing, so all gold
    entities of its row are missed. With `train`, the examples the model was trained on or the set of their
    (label, surface) pairs, `seen` and `unseen` are counted too. Raises what `check_rows` raises.

    >>> from qwen_ner.codec import Codec
    >>> from qwen_ner.entities import CLUENER, Entity
    >>> gold = Example("0", "三星在北京", (Entity("company", "三星", 0, 2), Entity("address", "北京", 3, 5)))
    >>> scores = score([gold], [Codec(CLUENER).decode(gold.text, '{"company":["三星","苹果"]}')], CLUENER)
    >>> scores.micro, scores.surface["company"], scores.problems["not_in_text"]
    (Counts(tp=1, fp=1, fn=1), Counts(tp=1, fp=1, fn=0), 1)
    """
    check_rows(gold, predicted, labels)
    train_pairs = train if train is None or isinstance(train, Set) else {p for row in train for p in row.surfaces}
    tally: Counter[tuple[str, str, int]] = Counter()
    problems: Counter[str] = Counter()
    for example, decoded in zip(gold, predicted, strict=True):
        for view, outcome, item in outcomes(example, decoded):
            tally[view, item[0], outcome] += 1
            if train_pairs is not None and view == SURFACE:
                tally["seen" if item in train_pairs else "unseen", item[0], outcome] += 1
        problems.update(problem.kind for problem in decoded.problems)

    def counts_of(view: str) -> dict[str, Counts]:
        """By label: those of the label set in their order, then the unknown ones by name."""
        every = (*labels.names, *sorted({label for of, label, _ in tally if of == view}.difference(labels.names)))
        return {label: Counts(*(tally[view, label, outcome] for outcome in OUTCOMES)) for label in every}

    seen, unseen = (sum(counts_of(part).values(), Counts()) for part in ("seen", "unseen"))
    return Scores(
        len(gold),
        labels.names,
        counts_of(SURFACE),
        counts_of(SPAN),
        {kind: problems[kind] for kind in PROBLEM_KINDS},
        *((None, None) if train_pairs is None else (seen, unseen)),
    )


def outcomes(gold: Example, predicted: Decoded) -> Iterator[tuple[str, int, tuple[Any, ...]]]:
    """(view, outcome, item) of each item of a row.

    An item is (label, surface) in the view `SURFACE`, (label, start, end) in the view `SPAN`; there a prediction
    without offsets is a (label, surface) too.
    """
    written = {*predicted.surfaces, *((e.label, e.text) for e in predicted.entities)}
    spans, found = ({(e.label, e.start, e.end) for e in side.entities} for side in (gold, predicted))
    sides: dict[str, tuple[set[Any], set[Any]]] = {
        SURFACE: (set(gold.surfaces), written),
        SPAN: (spans, {*found, *predicted.ungrounded}),
    }
    for view, (true, given) in sides.items():
        for outcome, items in ((TP, true & given), (FP, given - true), (FN, true - given)):
            yield from ((view, outcome, item) for item in items)
