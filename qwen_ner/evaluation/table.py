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

FEW = 30
"""With fewer surfaces than this to score, a figure means little."""

LABEL = 40
"""Terminal columns of a label in the table; a longer one is cut."""

VIEWS = "f1: set of (label, surface) per row · span_f1: label and offsets · macro_f1: mean f1 of the labels"


@dataclass(frozen=True, slots=True)
class Contract:
    """The conditions of a score, without which it means nothing: model, data, decoding and filters.

    `sampling` says how answers were drawn; empty if they are greedy.

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
    sampling: str = ""

    def __str__(self) -> str:
        filters = f" ({self.sampling})" if self.sampling else ""
        filters += f", min score {self.min_score:g}" if self.min_score else ""
        filters += f", thresholds {self.thresholds}" if self.thresholds != "none" else ""
        rows = f"{self.rows:,} row{'' if self.rows == 1 else 's'}"
        return (
            f"{self.model} on {self.data} {self.split}: {rows}, fingerprint {self.fingerprint}, "
            f"{self.decoding} decoding{filters}"
        )


def table(scores: Scores, contract: Contract | None = None, intervals: Mapping[str, Interval] | None = None) -> str:
    """The scores as lines for a terminal: labels in the surface view, sums, problems. Rates are percentages.

    `intervals`, from `bootstrap.intervals`, adds a column after f1. Unknown labels share one line, if there are any;
    with it the lines of the labels add up to the line `f1`. `seen` and `unseen` have a line if they have entities or
    predictions.

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
    problems: 1 unknown label · 1 not in text
    """
    body = [(name_cell(label), scores.surface[label], f"f1_{label}") for label in scores.labels]
    if unknown := list(scores.surface.values())[len(scores.labels) :]:
        body.append(("unknown labels", sum(unknown, Counts()), ""))
    sums = [("f1", scores.micro, "f1"), ("span_f1", scores.span_micro, "span_f1")]
    seen = (("seen", scores.seen, "seen_f1"), ("unseen", scores.unseen, "unseen_f1"))
    known = intervals or {}
    first = max(width(name) for name in ("macro_f1", *(row[0] for row in body)))
    column = f"  {f'{LEVEL:.0%} interval'.replace('%', ' %'):^13}" if known else ""
    header = f"{' ' * first}  precision  recall      f1{column}  support"

    def between(rate: str) -> str:
        return f"  {known.get(rate, '')!s:^13}" if known else ""

    def line(name: str, counts: Counts, rate: str) -> str:
        rates = f"{100 * counts.precision:>11.2f}{100 * counts.recall:>8.2f}{100 * counts.f1:>8.2f}"
        return f"{name}{' ' * (first - width(name))}{rates}{between(rate)}{counts.support:>9,}"

    note = macro_note(scores)
    macro = f"macro_f1{' ' * (first - len('macro_f1'))}{100 * scores.macro_f1:>27.2f}{between('macro_f1').rstrip()}"
    caution = few_note(scores) if known else ""
    return "\n".join(
        [
            *([str(contract), VIEWS] if contract else []),
            header,
            *(line(*row) for row in body),
            "-" * len(header),
            *(line(*row) for row in sums),
            f"{macro}  ({note})" if note else macro,
            *(line(name, counts, rate) for name, counts, rate in seen if counts and (counts.support or counts.fp)),
            f"problems: {' · '.join(problem_counts(scores)) or 'none'}",
            *filter(None, [caution]),
        ]
    )


def name_cell(label: str) -> str:
    """A label on one line, cut to `LABEL` columns.

    >>> name_cell("药" * 99) == "药" * 19 + "…"
    True
    """
    shown = printable(label, one_line=True)
    if width(shown) <= LABEL:
        return shown
    return next(f"{shown[:n]}…" for n in range(LABEL, -1, -1) if width(shown[:n]) < LABEL)


def problem_counts(scores: Scores) -> list[str]:
    """How many problems there are of each kind that occurred.

    >>> from qwen_ner.codec import Codec
    >>> from qwen_ner.entities import Example, LabelSet
    >>> from qwen_ner.evaluation.scoring import score
    >>> codec = Codec(labels := LabelSet.of(["drug"]))
    >>> problem_counts(score([Example("0", "头痛")], [codec.decode("头痛", "[头痛")], labels))
    ['1 not JSON']
    """
    found = ((count, kind) for kind, count in scores.problems.items() if count)
    return [f"{count:,} {kind.replace('_', ' ').replace('json', 'JSON')}" for count, kind in found]


def macro_note(scores: Scores) -> str:
    """What `macro_f1` is the mean of, unless it is each label with a figure of its own.

    >>> from qwen_ner.codec import Decoded
    >>> from qwen_ner.entities import Example, LabelSet
    >>> from qwen_ner.evaluation.scoring import score
    >>> macro_note(score([Example("0", "北京")], [Decoded((), (("a", "东京"),))], LabelSet.of("abc")))
    'mean of 1 of 3 labels: those in gold or predictions'
    """
    every, averaged = len(scores.labels), len(scores.averaged)
    if averaged < every:
        return f"mean of {averaged:,} of {every:,} labels: those in gold or predictions"
    absent = sum(scores.surface[label] == Counts() for label in scores.labels)
    return f"mean of all {every} labels: {absent} in neither gold nor predictions count as 0" if absent else ""


def few_note(scores: Scores) -> str:
    """That the intervals are of fewer surfaces than `FEW`, if they are.

    >>> from qwen_ner.codec import Decoded
    >>> from qwen_ner.entities import Entity, Example, LabelSet
    >>> from qwen_ner.evaluation.scoring import score
    >>> north = Entity("place", "北京", 0, 2)
    >>> few_note(score([Example("0", "北京", (north,))], [Decoded((north,))], LabelSet.of(["place"])))
    'only 1 surface to score: intervals of fewer than 30 are too narrow, since resampling cannot show unseen errors'
    """
    number = scores.micro.support
    if number >= FEW:
        return ""
    why = "since resampling cannot show unseen errors"
    few = f"only {number} surface{'' if number == 1 else 's'} to score"
    return f"{few}: intervals of fewer than {FEW} are too narrow, {why}"


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
