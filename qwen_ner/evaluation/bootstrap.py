"""How sure a score is: intervals by resampling rows, and tests of a difference between two sets of predictions.

In: gold and predicted rows as `score` takes them. Out: 95 % intervals and p-values of every rate that `Scores` has.
Knows nothing of models and files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np

from ..codec import Decoded
from ..entities import Example, LabelSet, NerError
from .scoring import Counts, Pair, Scores, score

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0

PART = 1_000
"""Rows whose counts are made floats at a time."""

BLOCK = 2_000_000
"""Weights (resamples × rows) that are held at a time: 8 MB in float32, which holds how often a row is drawn exactly."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The rates between which 95 % of the resamples lie.

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

    The columns are the L labels in the surface view, then all unknown labels; the same in the span view; seen; unseen
    (zeros without `train`). Raises what `score` raises.
    """
    if len(gold) != len(predicted):
        score(gold, predicted, labels)  # says what is wrong
    counts = np.zeros((len(gold), 2 * len(labels) + 4, 3))
    for n, (one, found) in enumerate(zip(gold, predicted, strict=True)):
        counts[n] = [(c.tp, c.fp, c.fn) for c in _columns(score([one], [found], labels, train=train))]
    return counts


def _columns(scores: Scores) -> list[Counts]:
    columns = []
    for view in (scores.surface, scores.span):
        columns += [view[label] for label in scores.labels]
        columns.append(sum((counts for label, counts in view.items() if label not in scores.labels), Counts()))
    return [*columns, scores.seen or Counts(), scores.unseen or Counts()]


def rates(counts: np.ndarray, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """The rates of summed counts (…, 2·L + 4, 3), each of shape (…), named as in `Scores.metrics`."""
    size = len(labels)
    surface, span = counts[..., : size + 1, :], counts[..., size + 1 : 2 * size + 2, :]
    micro, span_micro = surface.sum(-2), span.sum(-2)
    by_label = _f1(surface[..., :size, :])
    return {
        "f1": _f1(micro),
        "precision": _share(micro[..., 0], micro[..., 0] + micro[..., 1]),
        "recall": _share(micro[..., 0], micro[..., 0] + micro[..., 2]),
        "span_f1": _f1(span_micro),
        "macro_f1": by_label.mean(-1),
        **{f"f1_{label}": by_label[..., i] for i, label in enumerate(labels)},
        "seen_f1": _f1(counts[..., -2, :]),
        "unseen_f1": _f1(counts[..., -1, :]),
    }


def _f1(counts: np.ndarray) -> np.ndarray:
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    return _share(2 * tp, 2 * tp + fp + fn)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def intervals(
    counts: np.ndarray, labels: Sequence[str], *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """The 95 % percentile bootstrap interval of each of `rates`, over resamples of the rows of `row_counts`.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife" (1979). It says how much the score owes to the
    choice of the rows, not what another seed of the training would do.

    >>> counts = np.array([[[1, 0, 0]] * 6, [[0, 1, 1]] * 6] * 50, dtype=float)  # one label, every second row right
    >>> interval = intervals(counts, ["drug"])["f1"]
    >>> 0.35 < interval.low < 0.5 < interval.high < 0.65
    True
    """
    drawn = rates(np.concatenate(list(_resampled([counts], resamples, seed)), axis=1)[0], labels)
    return {name: Interval(*_middle(values)) for name, values in drawn.items()}


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _resampled(runs: Sequence[np.ndarray], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Summed counts (runs, some resamples, columns, 3), the same rows drawn for every run."""
    rows = len(runs[0])
    if not rows:
        raise NerError("there is no row to resample; score at least one")
    generator = np.random.default_rng(seed)
    step, equal = max(1, BLOCK // rows), np.full(rows, 1 / rows)
    for at in range(0, resamples, step):
        weights = np.empty((min(step, resamples - at), rows), dtype=np.float32)
        for draw in weights:
            draw[:] = generator.multinomial(rows, equal)
        yield np.stack([_weighted(weights, counts) for counts in runs])


def _weighted(weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Σ over rows of weights (draws, rows) · counts (rows, columns, 3), which may be in small whole numbers."""
    parts = (slice(at, at + PART) for at in range(0, len(counts), PART))
    sums = [np.tensordot(weights[:, part].astype(float), counts[part].astype(float), axes=1) for part in parts]
    return np.sum(sums, axis=0)


@dataclass(frozen=True, slots=True)
class Difference:
    """A rate of A and of B, B - A with its interval, and the p-value of its being chance (None where not tested)."""

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

    The interval is that of the paired bootstrap (Berg-Kirkpatrick et al., "An Empirical Investigation of Statistical
    Significance in NLP", 2012): the same rows are drawn for all. The p-value is that of approximate randomization
    (Noreen, "Computer-Intensive Methods for Testing Hypotheses", 1989), two-sided: how often swapping the two outputs
    of each row at random makes a difference as large, (1 + hits) / (1 + permutations). With several runs a system the
    rates are means over them and nothing is permuted: rows can be swapped between two runs, not between two groups.
    """
    if len({len(run) for run in (*a, *b)}) != 1:
        raise NerError("the runs to compare have different numbers of rows; predict the same data with each")

    def means(totals: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        of = rates(totals, labels)
        return {name: v[: len(a)].mean(0) for name, v in of.items()}, {
            name: v[len(a) :].mean(0) for name, v in of.items()
        }

    observed_a, observed_b = means(np.stack([run.sum(0) for run in (*a, *b)]))
    drawn_a, drawn_b = means(np.concatenate(list(_resampled([*a, *b], resamples, seed)), axis=1))
    p_values = _permuted(a[0], b[0], labels, permutations, seed) if len(a) == len(b) == 1 else {}
    return [
        Difference(
            name,
            float(observed_a[name]),
            float(observed_b[name]),
            Interval(*_middle(drawn_b[name] - drawn_a[name])),
            p_values.get(name),
        )
        for name in observed_a
    ]


def _permuted(a: np.ndarray, b: np.ndarray, labels: Sequence[str], permutations: int, seed: int) -> dict[str, float]:
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
