"""How certain a score is: bootstrap intervals, and significance tests between two sets of predictions.

In: gold and predicted rows as `score` takes them. Out: 95 % intervals and p-values for the rates of `Scores`. Knows
nothing of models and files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np

from ..codec import Decoded
from ..entities import Example, LabelSet, NerError
from .scoring import SPAN, SURFACE, Pair, check_rows, is_cluener, outcomes

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0

PART = 1_000
"""Rows whose counts are converted to floats at a time."""

BLOCK = 2_000_000
"""Weights (resamples × rows) in memory at a time: 8 MB in float32, in which the number of draws of a row is exact."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The range that contains the rate in 95 % of the resamples.

    >>> print(Interval(0.6612, 0.7049))
    66.1 – 70.5
    """

    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.low:.1f} – {100 * self.high:.1f}"


def row_counts(
    gold: Sequence[Example], predicted: Sequence[Decoded], labels: LabelSet, train: Set[Pair] | None = None
) -> np.ndarray:
    """True positives, false positives and false negatives of each row: floats of shape (rows, 2·L + 4, 3).

    The columns are the L labels and the sum of all unknown labels in the surface view, the same in the span view, then
    seen and unseen (zeros without `train`). Raises what `check_rows` raises.
    """
    check_rows(gold, predicted, labels)
    other = len(labels)  # the column of all unknown labels
    column = {label: n for n, label in enumerate(labels.names)}
    counts = np.zeros((len(gold), 2 * other + 4, 3))
    for of_row, example, decoded in zip(counts, gold, predicted, strict=True):
        for view, outcome, item in outcomes(example, decoded):
            of_row[column.get(item[0], other) + (view == SPAN) * (other + 1), outcome] += 1
            if train is not None and view == SURFACE:
                of_row[-2 if item in train else -1, outcome] += 1
    return counts


def rates(counts: np.ndarray, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """The rates of summed counts (…, 2·L + 4, 3), each of shape (…), with the names of `Scores.metrics`."""
    size = len(labels)
    surface, span = counts[..., : size + 1, :], counts[..., size + 1 : 2 * size + 2, :]
    micro, span_micro = surface.sum(-2), span.sum(-2)
    by_label = _f1(surface[..., :size, :])
    averaged = surface[..., :size, :].any(-1) | is_cluener(labels)
    return {
        "f1": _f1(micro),
        "precision": _share(micro[..., 0], micro[..., 0] + micro[..., 1]),
        "recall": _share(micro[..., 0], micro[..., 0] + micro[..., 2]),
        "span_f1": _f1(span_micro),
        "macro_f1": _share(by_label.sum(-1), averaged.sum(-1)),
        **{f"f1_{label}": by_label[..., i] for i, label in enumerate(labels)},
        "seen_f1": _f1(counts[..., -2, :]),
        "unseen_f1": _f1(counts[..., -1, :]),
    }


def _f1(counts: np.ndarray) -> np.ndarray:
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    return _share(2 * tp, 2 * tp + fp + fn)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def intervals(counts: np.ndarray, labels: Sequence[str]) -> dict[str, Interval]:
    """The 95 % percentile bootstrap interval of each of `rates`, over resamples of the rows of `row_counts`.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife" (1979). It measures how much a score depends on
    the choice of rows, not on the training seed.

    >>> counts = np.array([[[1, 0, 0]] * 6, [[0, 1, 1]] * 6] * 50, dtype=float)  # one label, every second row right
    >>> interval = intervals(counts, ["drug"])["f1"]
    >>> 0.35 < interval.low < 0.5 < interval.high < 0.65
    True
    """
    drawn = rates(np.concatenate(list(_resample([counts], RESAMPLES, SEED)), axis=1)[0], labels)
    return {name: _middle(values) for name, values in drawn.items()}


def _middle(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _resample(runs: Sequence[np.ndarray], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Summed counts (runs, some resamples, columns, 3), with the same rows drawn for every run."""
    rows = len(runs[0])
    if not rows:
        raise NerError("no row to resample", remedy="score at least one")
    generator = np.random.default_rng(seed)
    step, equal = max(1, BLOCK // rows), np.full(rows, 1 / rows)
    for at in range(0, resamples, step):
        weights = np.empty((min(step, resamples - at), rows), dtype=np.float32)
        for draw in weights:
            draw[:] = generator.multinomial(rows, equal)
        yield np.stack([_weigh(weights, counts) for counts in runs])


def _weigh(weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Σ over rows of weights (draws, rows) · counts (rows, columns, 3), which may be small integers."""
    parts = (slice(at, at + PART) for at in range(0, len(counts), PART))
    sums = [np.tensordot(weights[:, part].astype(float), counts[part].astype(float), axes=1) for part in parts]
    return np.sum(sums, axis=0)


@dataclass(frozen=True, slots=True)
class Difference:
    """A rate of A and of B, the interval of B - A, and its p-value (None if not tested)."""

    name: str
    a: float
    b: float
    interval: Interval
    p: float | None


def differences(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    labels: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    permutations: int = 10_000,
    seed: int = SEED,
) -> list[Difference]:
    """Compare the `row_counts` of two systems on the same rows; several of one system are its runs over seeds.

    The interval is that of the paired bootstrap, which draws the same rows for all runs (Berg-Kirkpatrick et al., "An
    Empirical Investigation of Statistical Significance in NLP", 2012). The p-value is that of two-sided approximate
    randomization (Noreen, "Computer-Intensive Methods for Testing Hypotheses", 1989): how often a difference at least
    as large arises when the two outputs of each row are swapped at random, (1 + hits) / (1 + permutations). If a system
    has several runs, rates are means over them and there is no p-value, since rows can be swapped between two runs but
    not between two groups.
    """
    if len({len(run) for run in (*a, *b)}) != 1:
        raise NerError("the runs have different numbers of rows", remedy="predict the same data with each")

    def means(totals: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {name: (v[: len(a)].mean(0), v[len(a) :].mean(0)) for name, v in rates(totals, labels).items()}

    observed = means(np.stack([run.sum(0) for run in (*a, *b)]))
    drawn = means(np.concatenate(list(_resample([*a, *b], resamples, seed)), axis=1))
    p_values = _permute(a[0], b[0], labels, permutations, seed) if len(a) == len(b) == 1 else {}
    return [
        Difference(name, float(of_a), float(of_b), _middle(drawn[name][1] - drawn[name][0]), p_values.get(name))
        for name, (of_a, of_b) in observed.items()
    ]


def _permute(a: np.ndarray, b: np.ndarray, labels: Sequence[str], permutations: int, seed: int) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    total_a, total_b = a.sum(0), b.sum(0)
    observed = {name: abs(v - rates(total_a, labels)[name]) for name, v in rates(total_b, labels).items()}
    hits = dict.fromkeys(observed, 0)
    step = max(1, BLOCK // len(a))
    for at in range(0, permutations, step):
        swapped = generator.integers(0, 2, size=(min(step, permutations - at), len(a))).astype(float)
        moved = np.tensordot(swapped, b - a, axes=1)
        one, other = rates(total_a + moved, labels), rates(total_b - moved, labels)
        for name in hits:
            hits[name] += int((np.abs(other[name] - one[name]) >= observed[name] - 1e-12).sum())
    return {name: (1 + count) / (1 + permutations) for name, count in hits.items()}
