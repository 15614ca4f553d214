"""Compare two sets of predictions for the same rows: which is better, how significantly, and in which rows.

In: for each side one list of predictions, or several (runs over seeds). Out: a `Comparison`, and its lines for a
terminal. Knows nothing of files and models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from ..codec import Decoded
from ..columns import printable, width
from ..entities import Example, LabelSet
from .bootstrap import Difference, differences, rates, row_counts
from .scoring import score
from .table import macro_note, name_cell

SHOWN_ROWS = 10
MAIN = ("f1", "span_f1", "macro_f1")


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    `a` and `b` hold {metric: rate} for each run. `better` and `worse` are the numbers of the rows in which B has fewer,
    or more, errors than A in the surface view, largest change first; `macro_notes` are `table.macro_note` of A and B.
    Both are of the first runs, if there are several.
    """

    a: list[dict[str, float]]
    b: list[dict[str, float]]
    differences: list[Difference]
    better: list[int]
    worse: list[int]
    macro_notes: tuple[str, str]


def compare(
    gold: Sequence[Example], a: Sequence[Sequence[Decoded]], b: Sequence[Sequence[Decoded]], labels: LabelSet
) -> Comparison:
    """Compare the runs of A with those of B, each a prediction for every row of `gold`; see `bootstrap.differences`."""
    counts_a, counts_b = ([row_counts(gold, run, labels) for run in runs] for runs in (a, b))
    before, after = (runs[0][:, : len(labels) + 1, 1:].sum((1, 2)) for runs in (counts_a, counts_b))
    change = after - before  # in false positives and false negatives of the surface view
    order = np.argsort(-abs(change), kind="stable").tolist()

    def of(runs: Sequence[np.ndarray]) -> list[dict[str, float]]:
        return [{name: float(v) for name, v in rates(run.sum(0), labels.names).items()} for run in runs]

    return Comparison(
        of(counts_a),
        of(counts_b),
        differences(counts_a, counts_b, labels.names),
        [n for n in order if change[n] < 0],
        [n for n in order if change[n] > 0],
        (macro_note(score(gold, a[0], labels)), macro_note(score(gold, b[0], labels))),
    )


def comparison_lines(
    found: Comparison, gold: Sequence[Example], a: Sequence[Decoded], b: Sequence[Decoded], names: tuple[str, str]
) -> list[str]:
    """`found` as lines for a terminal; `a` and `b` are the predictions to show for the rows that changed."""
    several = len(found.a) > 1 or len(found.b) > 1
    lines = [f"A {names[0]}", f"B {names[1]}", f"{len(gold):,} rows", ""]
    if several:
        lines += [*_runs("A", found.a), *_runs("B", found.b), ""]
    lines.append(f"{'':>18}{'A':>8}{'B':>8}{'B - A':>8}   {'95 % interval':^15}{'p':>8}")
    for d in found.differences:
        if d.name.startswith(("seen", "unseen")):
            continue
        between = f"{100 * d.interval.low:+.2f} … {100 * d.interval.high:+.2f}"
        p = "" if d.p is None else f"{d.p:8.4f}"
        name, change = name_cell(d.name), 100 * (d.b - d.a)
        lines.append(
            f"{' ' * (18 - width(name))}{name}{100 * d.a:8.2f}{100 * d.b:8.2f}{change:+8.2f}   {between:^15}{p}"
        )
    lines += [f"macro_f1 of {side}: {note}" for side, note in zip("AB", found.macro_notes, strict=True) if note]
    same = len(gold) - len(found.better) - len(found.worse)
    of = " (of the first runs)" if several else ""
    lines += ["", f"{len(found.better):,} rows better in B, {len(found.worse):,} worse, {same:,} equal{of}"]
    for what, rows in (("better", found.better), ("worse", found.worse)):
        for n in rows[:SHOWN_ROWS]:
            lines.append(f"{what}: {gold[n].text}")
            for side, row in (("gold", gold[n]), ("A", a[n]), ("B", b[n])):
                pairs = " · ".join(f"{label} {surface}" for label, surface in row.surfaces)
                lines.append(f"    {side:5}{pairs or 'none'}")
    return [printable(line, one_line=True) for line in lines]


def _runs(side: str, runs: Sequence[dict[str, float]]) -> list[str]:
    """A line for each run, and mean ± standard deviation (with n - 1) of each main metric, in percent."""
    of = {name: [100 * run[name] for run in runs] for name in MAIN}
    lines = []
    for n in range(len(runs)):
        lines.append(f"{side} run {n + 1:2}   " + " · ".join(f"{name} {values[n]:.2f}" for name, values in of.items()))
    if len(runs) > 1:
        spread = (f"{name} {mean(values):.2f} ± {stdev(values):.2f}" for name, values in of.items())
        lines.append(f"{side} {len(runs)} runs   " + " · ".join(spread))
    return lines
