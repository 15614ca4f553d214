"""The result of an evaluation: what was predicted for which rows, how, and all that can be derived from it.

In: gold, predictions, a `Contract`. Out: the table for a terminal and the contents of the files of a report. Knows
nothing of how the predictions were made, and writes no file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, reduce
from itertools import takewhile
from operator import add
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..codec import Decoded, entity_row
from ..entities import Example, LabelSet
from .baselines import Lookup, ceiling
from .bootstrap import LEVEL, RESAMPLES, SEED, Interval, intervals, row_counts
from .errors import NONE, Error, confusion, count_kinds, errors_of, spurious
from .scoring import Counts, Pair, Scores, score
from .table import Contract, confidence_line, table

ROWS = 1_000
"""Rows that are counted, or read in order of their errors, at a time."""

T = TypeVar("T")


class Row(NamedTuple):
    """A row with its errors."""

    gold: Example
    predicted: Decoded
    errors: list[Error]


@dataclass(frozen=True)
class Tally:
    """What is counted of some rows. `a + b` is the tally of the rows of `a` followed by those of `b`.

    `ceiling` are the scores of writing the gold, `floor` those of looking up the surfaces of the training
    data, if there is any. `spurious` holds the number of surfaces predicted in sentences without entities, and the
    number of these sentences. `counts` are those of `bootstrap.row_counts`, in the smallest integers that hold them.
    """

    scores: Scores
    ceiling: Scores | None
    floor: Scores | None
    kinds: dict[str, Counts]
    confusion: Counter[tuple[str, str]]
    spurious: np.ndarray
    counts: tuple[np.ndarray, ...]

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{one.name: _add(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)})


def tally(
    gold: Sequence[Example],
    predicted: Sequence[Decoded],
    labels: LabelSet,
    seen: Set[Pair] | None = None,
    floor: Lookup | None = None,
    target: str | None = "json",
) -> Tally:
    """The `Tally` of these rows; `seen` and `floor` are from the training data. Raises the errors of `score`."""
    scores = score(gold, predicted, labels, train=seen)
    names = frozenset(labels.names)
    errors = [errors_of(g, p, names, target) for g, p in zip(gold, predicted, strict=True)]
    counts = row_counts(gold, predicted, labels, seen)
    return Tally(
        scores,
        None if target is None else ceiling(gold, labels, target),
        None if floor is None else score(gold, [floor(example.text) for example in gold], labels),
        count_kinds(errors),
        confusion(gold, errors, names),
        np.array(spurious(gold, predicted)),
        (counts.astype(np.min_scalar_type(int(counts.max(initial=0)))),),
    )


def _add(one: Any, other: Any) -> Any:
    """The sum of two values of one field; a dict, but for a Counter, has the same keys in both and is added by key."""
    if type(one) is dict:
        return {key: _add(value, other[key]) for key, value in one.items()}
    return None if one is None else one + other


@dataclass(frozen=True)
class EvaluationResult:
    """Predictions for `gold`, row by row. Everything else is computed on first use.

    Gold and predictions may be stored on disk (`data.arrow_store`): they are read in parts, and only the counts of each
    row are kept in memory. `train` are the examples the model was trained on, which tell seen from unseen surfaces and
    give the floor. `confidence` is `inference.calibration.summary` of predictions with scores. `added` are sentences
    without entities that are not rows of the split, with their predictions; they count in `spurious` only. `target` is
    that of the model, which bounds what it can say; None if that is not known, as of a file.
    """

    contract: Contract
    gold: Sequence[Example]
    predicted: Sequence[Decoded]
    labels: LabelSet
    train: Sequence[Example] | None = None
    confidence: Mapping[str, Any] = field(default_factory=dict)
    added: Sequence[tuple[Example, Decoded]] = ()
    target: str | None = "json"

    @cached_property
    def tally(self) -> Tally:
        """All counts of the rows."""
        if len(self.gold) != len(self.predicted):
            score(self.gold, self.predicted, self.labels)  # raises
        seen = None if self.train is None else {pair for example in self.train for pair in example.surfaces}
        floor = None if self.train is None else Lookup(self.train)
        parts = (slice(at, at + ROWS) for at in range(0, max(1, len(self.gold)), ROWS))
        found = (
            tally(list(self.gold[part]), list(self.predicted[part]), self.labels, seen, floor, self.target)
            for part in parts
        )
        return reduce(add, found)

    @property
    def scores(self) -> Scores:
        return self.tally.scores

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        found = intervals(np.concatenate(self.tally.counts), self.labels.names)
        unknown = ("seen_f1", "unseen_f1") if self.train is None else ()
        return {name: interval for name, interval in found.items() if name not in unknown}

    @cached_property
    def spurious(self) -> dict[str, float] | None:
        """False positives per 1,000 sentences without entities, and the number of these; None if there are none."""
        examples, decoded = zip(*self.added, strict=True) if self.added else ((), ())
        found, read = map(int, self.tally.spurious + spurious(examples, decoded))
        return {"per_1000": 1000 * (found / read), "sentences": read, "added": len(self.added)} if read else None

    @property
    def best(self) -> str:
        """What no model of the target can do better than."""
        return "marking the gold entities" if self.target == "inline" else "writing the gold surfaces"

    def table(self) -> str:
        """The scores with their contract and intervals, the kinds of errors, and the floor and ceiling."""
        kinds = " · ".join(f"{c.fp:,} + {c.fn:,} {kind}" for kind, c in self.tally.kinds.items() if c.fp or c.fn)
        bounds = list[str]()
        if self.tally.floor is not None:
            bounds.append(f"floor (looking up train's surfaces): f1 {100 * self.tally.floor.f1:.2f}")
        if self.tally.ceiling is not None:
            bounds.append(f"ceiling ({self.best}): span_f1 {100 * self.tally.ceiling.span_f1:.2f}")
        lines = [table(self.scores, self.contract, self.intervals)]
        lines.append(f"errors (false positives + false negatives, by offsets): {kinds or 'none'}")
        if bounds:
            lines.append(" · ".join(bounds))
        if self.spurious:
            cut = f", {self.spurious['added']:,} of them cut out of the rows" if self.added else ""
            number = self.spurious["sentences"]
            of = f"sentences without entities ({number:,} sentence{'' if number == 1 else 's'}{cut})"
            lines.append(f"{self.spurious['per_1000']:.1f} false positives per 1,000 {of}")
        if self.confidence:
            lines.append(confidence_line(self.confidence))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The contents of metrics.json: every figure of the table and of the report."""
        return {
            "contract": asdict(self.contract),
            **self.scores.to_dict(),
            "intervals": {
                "level": LEVEL,
                "resamples": RESAMPLES,
                "seed": SEED,
                **{name: [interval.low, interval.high] for name, interval in self.intervals.items()},
            },
            "errors": {kind: {"fp": counts.fp, "fn": counts.fn} for kind, counts in self.tally.kinds.items()},
            "confusion": self._confusion(),
            "floor": None if self.tally.floor is None else self.tally.floor.metrics(),
            "ceiling": None if self.tally.ceiling is None else self.tally.ceiling.metrics(),
            "spurious": self.spurious,
            "confidence": dict(self.confidence),
        }

    def _confusion(self) -> dict[str, dict[str, int]]:
        """{gold label: {predicted label: count}} of the pairs that occurred, in the order of the labels."""
        order = {label: n for n, label in enumerate((*self.labels.names, NONE))}
        found: dict[str, dict[str, int]] = {}
        for label, given in sorted(self.tally.confusion, key=lambda pair: [order[side] for side in pair]):
            found.setdefault(label, {})[given] = self.tally.confusion[label, given]
        return found

    def worst_first(self) -> Iterator[Row]:
        """All rows, those with the most false positives and negatives first."""
        names, columns = frozenset(self.labels.names), len(self.labels) + 1
        wrong = [part[:, columns : 2 * columns, 1:].sum((1, 2), dtype=int) for part in self.tally.counts]  # by offsets
        order = np.argsort(-np.concatenate(wrong), kind="stable")
        for at in range(0, len(order), ROWS):
            part = order[at : at + ROWS].tolist()
            for gold, predicted in zip(_select(self.gold, part), _select(self.predicted, part), strict=True):
                yield Row(gold, predicted, errors_of(gold, predicted, names, self.target))

    def rows_with_errors(self) -> Iterator[Row]:
        """The rows with an error, those with the most first."""
        return takewhile(lambda row: row.errors, self.worst_first())

    def prediction_lines(self) -> Iterator[str]:
        """The lines of predictions.jsonl: gold and predicted entities of every row, in order."""
        for example, decoded in zip(self.gold, self.predicted, strict=True):
            gold, found = ([entity_row(e) for e in side.entities] for side in (example, decoded))
            faults = {"ungrounded": decoded.ungrounded, "problems": [asdict(problem) for problem in decoded.problems]}
            line = {"id": example.id, "text": example.text, "gold": gold, "entities": found}
            yield json.dumps(line | {key: value for key, value in faults.items() if value}, ensure_ascii=False)

    def error_lines(self) -> Iterator[str]:
        """The lines of errors.jsonl: the rows with an error, those with the most first."""
        return map(_error_line, self.rows_with_errors())


def _select(rows: Sequence[T], positions: Sequence[int]) -> Sequence[T]:
    """The rows at `positions`, in one read if they are on disk."""
    select = getattr(rows, "select", None)
    return select(positions) if select else [rows[at] for at in positions]


def _error_line(row: Row) -> str:
    errors = []
    for error in row.errors:
        sides = {"gold": error.gold, "predicted": error.predicted}
        written = {"written": error.written} if error.written else {}
        errors.append({"kind": error.kind, **{k: entity_row(side) for k, side in sides.items() if side}, **written})
    line = {"id": row.gold.id, "source": row.gold.source, "text": row.gold.text, "errors": errors}
    return json.dumps(line, ensure_ascii=False)
