"""One evaluation: what was predicted for which rows, under which conditions, and all that follows from it.

In: gold, predictions, a `Contract`. Out: the table for a terminal, and what the files of a report hold. Knows nothing
of how the predictions were made, and writes no file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..codec import Decoded, entity_row
from ..entities import Example, LabelSet
from .baselines import ceiling, lookup
from .bootstrap import LEVEL, RESAMPLES, SEED, Interval, intervals, row_counts
from .errors import Error, ErrorKind, by_sentence, confusion, count_kinds, errors_of, spurious_per_1000
from .scoring import Counts, Pair, Scores, score
from .table import Contract, confidence_line, table


@dataclass(frozen=True)
class Evaluated:
    """Predictions for `gold`, row by row. What is derived is computed when it is first asked for.

    `train`, the examples that the model was trained on, tells seen from unseen surfaces and sets the floor;
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
    def seen(self) -> Set[Pair] | None:
        return None if self.train is None else {pair for example in self.train for pair in example.surfaces}

    @cached_property
    def scores(self) -> Scores:
        return score(self.gold, self.predicted, self.labels, train=self.seen)

    @cached_property
    def counts(self) -> np.ndarray:
        """`bootstrap.row_counts` of the rows."""
        return row_counts(self.gold, self.predicted, self.labels, self.seen)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        return intervals(self.counts, self.labels.names)

    @cached_property
    def errors(self) -> list[list[Error]]:
        """The errors of each row."""
        return [errors_of(g, p, self.labels.names) for g, p in zip(self.gold, self.predicted, strict=True)]

    @cached_property
    def kinds(self) -> dict[ErrorKind, Counts]:
        return count_kinds(self.errors)

    @cached_property
    def confusion(self) -> dict[str, dict[str, int]]:
        return confusion(self.gold, self.errors, self.labels.names)

    @cached_property
    def by_sentence(self) -> dict[str, dict[str, Counts]]:
        return by_sentence(self.gold, self.predicted)

    @cached_property
    def floor(self) -> Scores | None:
        """What looking up train's surfaces scores on these rows."""
        if self.train is None:
            return None
        return score(self.gold, lookup(self.train, [example.text for example in self.gold]), self.labels)

    @cached_property
    def ceiling(self) -> Scores:
        """What writing exactly the gold surfaces scores on these rows."""
        return ceiling(self.gold, self.labels)

    @cached_property
    def spurious(self) -> dict[str, float] | None:
        """False positives in 1,000 sentences without entities, and how many were read; None where there are none."""
        gold = [*self.gold, *(example for example, _ in self.added)]
        rate = spurious_per_1000(gold, [*self.predicted, *(decoded for _, decoded in self.added)])
        empty = sum(not example.entities for example in gold)
        return None if rate is None else {"per_1000": rate, "sentences": empty, "added": len(self.added)}

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

    def worst_first(self) -> list[int]:
        """Row numbers by falling number of false positives and negatives."""
        return sorted(
            range(len(self.gold)),
            key=lambda n: -sum(error.false_positives + error.false_negatives for error in self.errors[n]),
        )

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
        return (self._error_line(n) for n in self.worst_first() if self.errors[n])

    def _error_line(self, n: int) -> str:
        errors = [
            {"kind": error.kind}
            | ({"gold": entity_row(error.gold)} if error.gold else {})
            | ({"predicted": entity_row(error.predicted)} if error.predicted else {})
            | ({"written": list(error.written)} if error.written else {})
            for error in self.errors[n]
        ]
        example = self.gold[n]
        line = {"id": example.id, "source": example.source, "text": example.text, "errors": errors}
        return json.dumps(line, ensure_ascii=False)
