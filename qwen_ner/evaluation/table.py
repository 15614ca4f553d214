"""Scores as lines for a terminal.

In: `Scores`. Out: text. Knows nothing of how they were counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..columns import width
from .scoring import Counts, Scores


def table(scores: Scores, title: str = "") -> str:
    """The scores as lines for a terminal: labels in the surface view, sums, what went wrong. Rates are percentages.

    Unknown labels share one line, shown if there are any: with it, the lines of the labels add up to the line `f1`.

    >>> from qwen_ner.codec import Codec
    >>> from qwen_ner.entities import Entity, Example, LabelSet
    >>> from qwen_ner.evaluation.scoring import score
    >>> labels = LabelSet.of(["company", "地点"])
    >>> first = Example("0", "三星在北京", (Entity("company", "三星", 0, 2), Entity("地点", "北京", 3, 5)))
    >>> second = Example("1", "她住在上海", (Entity("地点", "上海", 3, 5),))
    >>> completions = ['{"company":["三星"],"地点":["北京","天津"]}', '{"city":["上海"]}']
    >>> decoded = [Codec(labels).decode(row.text, text) for row, text in zip([first, second], completions)]
    >>> print(table(score([first, second], decoded, labels, train=[("地点", "北京")]), "dev"))
    dev: 2 rows
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
    body = [(label, scores.surface[label]) for label in scores.labels]
    if unknown := [counts for label, counts in scores.surface.items() if label not in scores.labels]:
        body.append(("unknown labels", sum(unknown, Counts())))
    sums = [("f1", scores.micro), ("span_f1", scores.span_micro)]
    if scores.seen is not None and scores.unseen is not None:
        split = [("seen", scores.seen), ("unseen", scores.unseen)]
    else:
        split = []
    first = max(width(name) for name in ("macro_f1", *(name for name, _ in body)))
    header = f"{' ' * first}  precision  recall      f1  support"

    def line(name: str, counts: Counts) -> str:
        rates = f"{100 * counts.precision:>11.2f}{100 * counts.recall:>8.2f}{100 * counts.f1:>8.2f}"
        return f"{name}{' ' * (first - width(name))}{rates}{counts.support:>9,}"

    rows = f"{scores.rows:,} row{'' if scores.rows == 1 else 's'}"
    kinds = [f"{count:,} {kind.replace('_', ' ').replace('json', 'JSON')}" for kind, count in scores.problems.items()]
    return "\n".join(
        [
            f"{title}: {rows}" if title else rows,
            header,
            *(line(name, counts) for name, counts in body),
            "-" * len(header),
            *(line(name, counts) for name, counts in sums),
            f"macro_f1{' ' * (first - len('macro_f1'))}{100 * scores.macro_f1:>27.2f}",
            *(line(name, counts) for name, counts in split),
            " · ".join(kinds),
        ]
    )


def confidence_line(confidence: Mapping[str, Any]) -> str:
    """`inference.calibration.summary` in one line.

    >>> confidence_line({"surfaces": 40, "calibration_error": 0.0312, "precision_at_coverage": {0.5: 0.95, 1.0: 0.7}})
    'confidence of 40 surfaces: calibration error 0.031 · precision of the surest 50 % 95.00, 100 % 70.00'
    """
    precision = ", ".join(
        f"{share:.0%} {100 * value:.2f}" for share, value in confidence["precision_at_coverage"].items()
    )
    error = f"calibration error {confidence['calibration_error']:.3f}"
    return f"confidence of {confidence['surfaces']:,} surfaces: {error} · precision of the surest {precision}".replace(
        "%", " %"
    )
