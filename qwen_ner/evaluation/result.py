"""One evaluation: what was predicted for which rows, under which conditions, and all that follows from it.

In: gold, predictions, a `Contract`. Out: the table for a terminal, and what the files of a report hold. Knows nothing
of how the predictions were made, and writes no file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, reduce
from itertools import takewhile
from operator import add
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..codec import Decoded, entity_row
from ..entities import Example, LabelSet
from .baselines import Lookup
from .bootstrap import LEVEL, RESAMPLES, SEED, Interval, intervals
from .errors import Error, ErrorKind, errors_of, in_order, spurious
from .scoring import Counts, Scores, score
from .table import Contract, confidence_line, table
from .tally import Tally, tally

ROWS = 1_000
"""Rows that are counted, or written worst first, at a time."""

T = TypeVar("T")


class Row(NamedTuple):
    """A row with what is wrong in it."""

    gold: Example
    predicted: Decoded
    errors: list[Error]

    @property
    def wrong(self) -> int:
        """False positives and false negatives by offsets."""
        return sum(error.false_positives + error.false_negatives for error in self.errors)


@dataclass(frozen=True)
class Evaluated:
    """Predictions for `gold`, row by row. What is derived is computed when it is first asked for.

    Gold and predictions may lie on the disk (`data.stored`): they are read in parts, and what is held of a row is its
    counts. `train`, the examples that the model was trained on, tells seen from unseen surfaces and sets the floor;
    `confidence` is `inference.calibration.summary` of predictions that have scores; `added` are sentences without
    entities that the split does not have as rows, and what was predicted for them, for `spurious` alone.
    """

    contract: Contract
    gold: Sequence[Example]
    predicted: Sequence[Decoded]
    labels: LabelSet
    train: Sequence[Example] | None = None
    confidence: Mapping[str, Any] = field(default_factory=dict)
    added: Sequence[tuple[Example, Decoded]] = ()

    @cached_property
    def tally(self) -> Tally:
        """All that is counted of the rows, as the sum over their parts."""
        if len(self.gold) != len(self.predicted):
            score(self.gold, self.predicted, self.labels)  # says what is wrong
        seen = None if self.train is None else {pair for example in self.train for pair in example.surfaces}
        floor = None if self.train is None else Lookup(self.train)
        parts = (slice(at, at + ROWS) for at in range(0, max(1, len(self.gold)), ROWS))
        return reduce(
            add, (tally(list(self.gold[part]), list(self.predicted[part]), self.labels, seen, floor) for part in parts)
        )

    @property
    def scores(self) -> Scores:
        return self.tally.scores

    @property
    def floor(self) -> Scores | None:
        """What looking up train's surfaces scores on these rows."""
        return self.tally.floor

    @property
    def ceiling(self) -> Scores:
        """What writing exactly the gold surfaces scores on these rows."""
        return self.tally.ceiling

    @property
    def kinds(self) -> dict[ErrorKind, Counts]:
        return self.tally.kinds

    @property
    def confusion(self) -> dict[str, dict[str, int]]:
        return self.tally.confusion

    @property
    def by_sentence(self) -> dict[str, dict[str, Counts]]:
        return {name: in_order(groups) for name, groups in self.tally.by_sentence.items()}

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        return intervals(np.concatenate(self.tally.counts), self.labels.names)

    @cached_property
    def spurious(self) -> dict[str, float] | None:
        """False positives in 1,000 sentences without entities, and how many were read; None where there are none."""
        examples, decoded = zip(*self.added, strict=True) if self.added else ((), ())
        found, read = self.tally.spurious + spurious(examples, decoded)
        return (
            {"per_1000": 1000 * float(found / read), "sentences": int(read), "added": len(self.added)} if read else None
        )

    def table(self) -> str:
        """The scores with their contract and intervals, the kinds of errors, and what lies below and above."""
        kinds = " · ".join(f"{c.fp:,} + {c.fn:,} {kind}" for kind, c in self.kinds.items() if c.fp or c.fn)
        between = f"ceiling of grounding: span_f1 {100 * self.ceiling.span_f1:.2f}"
        if self.floor is not None:
            between = f"floor (looking up train's surfaces): f1 {100 * self.floor.f1:.2f} · {between}"
        lines = [table(self.scores, self.contract, self.intervals)]
        lines += [f"errors (false positives + false negatives, by offsets): {kinds or 'none'}", between]
        if self.spurious:
            cut = f", {self.spurious['added']:,} cut out of the rows" if self.added else ""
            lines.append(
                f"{self.spurious['per_1000']:.1f} false positives in 1,000 sentences without entities "
                f"({self.spurious['sentences']:,} read{cut})"
            )
        if self.confidence:
            lines.append(confidence_line(self.confidence))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """What metrics.json holds: every figure of the table and of the report."""
        return {
            "contract": asdict(self.contract),
            **self.scores.to_dict(),
            "intervals": {
                "level": LEVEL,
                "resamples": RESAMPLES,
                "seed": SEED,
                **{name: [interval.low, interval.high] for name, interval in self.intervals.items()},
            },
            "errors": {kind: {"fp": counts.fp, "fn": counts.fn} for kind, counts in self.kinds.items()},
            "confusion": self.confusion,
            "by_sentence": {
                name: {group: counts.to_dict() for group, counts in of.items()} for name, of in self.by_sentence.items()
            },
            "floor": None if self.floor is None else self.floor.metrics(),
            "ceiling": self.ceiling.metrics(),
            "spurious": self.spurious,
            "confidence": dict(self.confidence),
        }

    def worst_first(self) -> Iterator[Row]:
        """All rows, by falling number of false positives and negatives."""
        order = np.argsort(-np.concatenate(self.tally.wrong).astype(int), kind="stable")
        for at in range(0, len(order), ROWS):
            part = order[at : at + ROWS].tolist()
            for gold, predicted in zip(_picked(self.gold, part), _picked(self.predicted, part), strict=True):
                yield Row(gold, predicted, errors_of(gold, predicted, self.labels.names))

    def rows_with_errors(self) -> Iterator[Row]:
        """The rows with an error, worst first."""
        return takewhile(lambda row: row.errors, self.worst_first())

    def prediction_lines(self) -> Iterator[str]:
        """What predictions.jsonl holds: gold and predicted entities of every row, in order."""
        for example, decoded in zip(self.gold, self.predicted, strict=True):
            line = {
                "id": example.id,
                "text": example.text,
                "gold": [entity_row(e) for e in example.entities],
                "entities": [entity_row(e) for e in decoded.entities],
            }
            if decoded.ungrounded:
                line["ungrounded"] = [list(pair) for pair in decoded.ungrounded]
            if decoded.problems:
                line["problems"] = [asdict(problem) for problem in decoded.problems]
            yield json.dumps(line, ensure_ascii=False)

    def error_lines(self) -> Iterator[str]:
        """What errors.jsonl holds: the rows with an error, worst first."""
        return map(_error_line, self.rows_with_errors())


def _picked(rows: Sequence[T], positions: Sequence[int]) -> Sequence[T]:
    """Those at `positions`, in one go where they lie on the disk."""
    select = getattr(rows, "select", None)
    return select(positions) if select else [rows[at] for at in positions]


def _error_line(row: Row) -> str:
    errors = [
        {"kind": error.kind}
        | ({"gold": entity_row(error.gold)} if error.gold else {})
        | ({"predicted": entity_row(error.predicted)} if error.predicted else {})
        | ({"written": list(error.written)} if error.written else {})
        for error in row.errors
    ]
    line = {"id": row.gold.id, "source": row.gold.source, "text": row.gold.text, "errors": errors}
    return json.dumps(line, ensure_ascii=False)
