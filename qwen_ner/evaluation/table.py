"""Scores as a table for the terminal, with what is needed to interpret them.

In: `Scores`, and the `Contract` of what was scored and how. Out: text. Knows nothing of how they were counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..columns import printable, width
from .bootstrap import LEVEL, Interval
from .scoring import Counts, Scores

VIEWS = "f1: set of (label, surface) per row · span_f1: label and offsets · macro_f1: mean f1 of the labels"


@dataclass(frozen=True, slots=True)
class Contract:
    """The conditions of a score, without which it means nothing: model, data, decoding and filters.

    >>> print(Contract("outputs/lora", "cluener", "dev", 1343, "e7ec4aaf315d7efd", "free"))
    outputs/lora on cluener dev: 1,343 rows, fingerprint e7ec4aaf315d7efd, free decoding
    """

    model: str
    data: str
    split: str
    rows: int
    fingerprint: str
    decoding: str
    min_score: float = 0.0
    thresholds: str = "none"

    def __str__(self) -> str:
        filters = f", min score {self.min_score:g}" if self.min_score else ""
        filters += f", thresholds {self.thresholds}" if self.thresholds != "none" else ""
        rows = f"{self.rows:,} row{'' if self.rows == 1 else 's'}"
        return (
            f"{self.model} on {self.data} {self.split}: {rows}, fingerprint {self.fingerprint}, "
            f"{self.decoding} decoding{filters}"
        )


def table(scores: Scores, contract: Contract | None = None, intervals: Mapping[str, Interval] | None = None) -> str:
    """The scores as lines for a terminal: labels in the surface view, sums, problems. Rates are percentages.

    `intervals`, from `bootstrap.intervals`, adds a column after f1. Unknown labels share one line, if there are any;
    with it the lines of the labels add up to the line `f1`.

    >>> from qwen_ner.codec import Codec
    >>> from qwen_ner.entities import Entity, Example, LabelSet
    >>> from qwen_ner.evaluation.scoring import score
    >>> labels = LabelSet.of(["company", "地点"])
    >>> first = Example("0", "三星在北京", (Entity("company", "三星", 0, 2), Entity("地点", "北京", 3, 5)))
    >>> second = Example("1", "她住在上海", (Entity("地点", "上海", 3, 5),))
    >>> completions = ['{"company":["三星"],"地点":["北京","天津"]}', '{"city":["上海"]}']
    >>> decoded = [Codec(labels).decode(row.text, text) for row, text in zip([first, second], completions)]
    >>> print(table(score([first, second], decoded, labels, train={("地点", "北京")})))
                    precision  recall      f1  support
    company            100.00  100.00  100.00        1
    地点                50.00   50.00   50.00        2
    unknown labels       0.00    0.00    0.00        0
    --------------------------------------------------
    f1                  50.00   66.67   57.14        3
    span_f1             50.00   66.67   57.14        3
    macro_f1                            75.00
    seen               100.00  100.00  100.00        1
    unseen              33.33   50.00   40.00        2
    0 not JSON · 0 truncated · 1 unknown label · 1 not in text · 0 duplicate · 0 wrong type
    """
    shown = {label: printable(label, one_line=True) for label in scores.labels}
    body = [(shown[label], scores.surface[label]) for label in scores.labels]
    if unknown := [counts for label, counts in scores.surface.items() if label not in scores.labels]:
        body.append(("unknown labels", sum(unknown, Counts())))
    sums = [("f1", scores.micro), ("span_f1", scores.span_micro)]
    split = [(name, of) for name, of in (("seen", scores.seen), ("unseen", scores.unseen)) if of is not None]
    known = intervals or {}
    of_line = {"seen": "seen_f1", "unseen": "unseen_f1", **{shown[label]: f"f1_{label}" for label in scores.labels}}
    first = max(width(name) for name in ("macro_f1", *(name for name, _ in body)))
    column = f"  {f'{LEVEL:.0%} of f1'.replace('%', ' %'):^13}" if known else ""
    header = f"{' ' * first}  precision  recall      f1{column}  support"

    def between(name: str) -> str:
        interval = known.get(of_line.get(name, name))
        return f"  {interval or ''!s:^13}" if known else ""

    def line(name: str, counts: Counts) -> str:
        rates = f"{100 * counts.precision:>11.2f}{100 * counts.recall:>8.2f}{100 * counts.f1:>8.2f}"
        return f"{name}{' ' * (first - width(name))}{rates}{between(name)}{counts.support:>9,}"

    kinds = [f"{count:,} {kind.replace('_', ' ').replace('json', 'JSON')}" for kind, count in scores.problems.items()]
    return "\n".join(
        [
            *([str(contract), VIEWS] if contract else []),
            header,
            *(line(name, counts) for name, counts in body),
            "-" * len(header),
            *(line(name, counts) for name, counts in sums),
            f"macro_f1{' ' * (first - len('macro_f1'))}{100 * scores.macro_f1:>27.2f}{between('macro_f1').rstrip()}",
            *(line(name, counts) for name, counts in split),
            " · ".join(kinds),
        ]
    )


def confidence_line(confidence: Mapping[str, Any]) -> str:
    """The dictionary of `inference.calibration.summary` as one line.

    >>> confidence_line({"surfaces": 40, "calibration_error": 0.0312, "precision_at_coverage": {0.5: 0.95, 1.0: 0.7}})
    'confidence of 40 surfaces: calibration error 0.031 · precision of the most confident 50 % 95.00, 100 % 70.00'
    """
    precision = ", ".join(
        f"{share:.0%} {100 * value:.2f}" for share, value in confidence["precision_at_coverage"].items()
    )
    error = f"calibration error {confidence['calibration_error']:.3f}"
    of = f" of {confidence['of']}" if confidence.get("of") else ""
    line = f"confidence of {confidence['surfaces']:,} surfaces{of}: {error}"
    return f"{line} · precision of the most confident {precision}".replace("%", " %")
