"""Confidences: how often the model is right, given the probabilities of its tokens.

In: the log-probabilities of an answer's tokens, and for held-out answers which of their surfaces were right. Out: a
number in [0, 1] for each surface, and the `Calibration` that makes it a frequency. Knows nothing of models.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..codec import Decoded
from ..entities import Entity, Example

log = logging.getLogger(__name__)

BINS = 10

Floats = Sequence[float] | np.ndarray


def surface_log_probability(logprobs: Sequence[float], lengths: Sequence[int], start: int, end: int) -> float:
    """ln P(surface and its end | text, label, what was written before): the sum over the tokens that spell it.

    `logprobs[i]` belongs to a token of `lengths[i]` bytes; [start, end) are the bytes of the surface in the completion,
    its closing quote included. A token that spells any of them counts whole: one like `"],"` also says that the list
    ends there.

    >>> surface_log_probability([-1.0, -0.5, -0.25, -2.0], [10, 3, 1, 2], 10, 14)
    -0.75
    """
    total, at = 0.0, 0
    for logprob, length in zip(logprobs, lengths, strict=False):
        if at < end and at + length > start:
            total += logprob
        at += length
    return total


@dataclass(frozen=True, slots=True)
class Judged:
    """A surface that the model wrote for a held-out text, its confidence, and whether gold has it."""

    label: str
    confidence: float
    correct: bool


@dataclass(frozen=True)
class Calibration:
    """Confidence = sigmoid(`scale` · ln(p / (1 - p)) + `bias`) of the model's own probability p.

    Platt scaling ("Probabilistic Outputs for Support Vector Machines", 1999) on the log-odds; without bias it is the
    temperature scaling of Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599). `thresholds` has
    for each label the confidence from which surfaces are kept for the best f1 of that label on the held-out rows.
    `surfaces` counts those that were judged; `error_before` and `error_after` are their calibration errors. Without
    `thresholds` nothing could be fitted to them, and confidence is the model's own probability.

    >>> round(Calibration()(math.log(0.9)), 6)
    0.9
    """

    scale: float = 1.0
    bias: float = 0.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    surfaces: int = 0
    error_before: float = 0.0
    error_after: float = 0.0

    def __call__(self, logprob: float) -> float:
        return float(_sigmoid(self.scale * _log_odds(np.array(logprob)) + self.bias))


def fit_calibration(judged: Sequence[Judged], gold: Mapping[str, int]) -> Calibration:
    """The maximum-likelihood calibration on `judged`, whose confidences are those of a model without calibration.

    `gold` counts the gold surfaces of each label that is to have a threshold. Fitted to Platt's smoothed targets,
    (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2), which keep the fit finite where confidence separates right from wrong. The
    model's own probability is kept, without thresholds, if there are fewer than ten surfaces, or none wrong or none
    right. It is also kept, with a warning, if surer surfaces are not right more often: the scale would not be positive.
    """
    correct = np.array([one.correct for one in judged], dtype=float)
    before = np.array([one.confidence for one in judged], dtype=float)
    positives = int(correct.sum())
    negatives = len(correct) - positives
    own = Calibration(surfaces=len(judged))
    if len(judged) < 10 or not positives or not negatives:
        return own
    odds = _log_odds(np.log(np.maximum(before, 1e-300)))
    weights = _platt(odds, np.where(correct == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2)))
    if weights is None or weights[0] <= 0:
        log.warning(
            "Confidences are not calibrated: of %d surfaces, those that the model was surer of were not right more "
            "often. Train longer, or do not filter by confidence.",
            len(judged),
        )
        return own
    scale, bias = map(float, weights)
    after = _sigmoid(scale * odds + bias)
    thresholds = best_thresholds([replace(one, confidence=p) for one, p in zip(judged, after, strict=True)], gold)
    errors = [expected_calibration_error(confidence, correct) for confidence in (before, after)]
    return Calibration(scale, bias, thresholds, len(judged), *errors)


def _platt(odds: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """(scale, bias) of the smallest logistic loss; None if the search for it does not converge.

    Newton's method with a backtracking line search, without which its steps can cycle: Lin, Lin and Weng, "A note on
    Platt's probabilistic outputs for support vector machines", 2007. A tiny ridge towards (1, 0), the model's own
    probability, decides where the odds are all equal.
    """
    design, identity, ridge = np.stack([odds, np.ones_like(odds)], axis=1), np.array([1.0, 0.0]), 1e-9

    def loss(weights: np.ndarray) -> float:
        scores = design @ weights
        return float((np.logaddexp(0, scores) - target * scores).mean() + ridge / 2 * ((weights - identity) ** 2).sum())

    weights, lowest = identity, loss(identity)
    for _ in range(100):
        predicted = _sigmoid(design @ weights)
        slope = design.T @ (predicted - target) / len(odds) + ridge * (weights - identity)
        curvature = design.T @ (design * (predicted * (1 - predicted))[:, None]) / len(odds) + ridge * np.eye(2)
        step, length = -np.linalg.solve(curvature, slope), 1.0
        gain = -float(slope @ step)
        if gain < 1e-13:
            return weights + step
        while (reached := loss(weights + length * step)) > lowest - 1e-4 * length * gain:
            length /= 2
            if length < 1e-12:
                return None
        weights, lowest = weights + length * step, reached
    return None


def summary(judged: Iterable[Judged]) -> dict[str, Any]:
    """How reliable confidences are: the results of the functions below, by name, and the number of `surfaces`."""
    pairs = np.fromiter(((one.confidence, one.correct) for one in judged), dtype=(float, 2))
    confidence, correct = pairs.T
    return {
        "surfaces": len(confidence),
        "calibration_error": expected_calibration_error(confidence, correct),
        "precision_at_coverage": precision_at_coverage(confidence, correct),
        "reliability": reliability(confidence, correct),
    }


def expected_calibration_error(confidence: Floats, correct: Floats) -> float:
    """Σ over ten equal bins of confidence: share of the surfaces · |mean confidence - accuracy|.

    Guo et al., arXiv 1706.04599, equation 3; 0.0 for no surfaces.

    >>> expected_calibration_error([0.95, 0.95, 0.55, 0.55], [1, 1, 1, 0])
    0.05
    """
    return round(sum(share * abs(mean - right) for share, mean, right in reliability(confidence, correct)), 12)


def reliability(confidence: Floats, correct: Floats) -> list[tuple[float, float, float]]:
    """(share of the surfaces, mean confidence, accuracy) of each bin that is not empty, lowest first."""
    scores, right = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [
        (float((bins == b).mean()), float(scores[bins == b].mean()), float(right[bins == b].mean()))
        for b in range(BINS)
        if (bins == b).any()
    ]


def best_thresholds(judged: Sequence[Judged], gold: Mapping[str, int]) -> dict[str, float]:
    """`best_threshold` of each label of `gold`, which counts its gold surfaces."""
    found: dict[str, float] = {}
    for label, total in gold.items():
        chosen = [one for one in judged if one.label == label]
        found[label] = best_threshold([one.confidence for one in chosen], [one.correct for one in chosen], total)
    return found


def best_threshold(scores: Sequence[float], correct: Sequence[float], gold: int) -> float:
    """The confidence from which surfaces are kept for the best f1; 0.0 if keeping all is as good.

    It lies halfway between two scores, as rounding may differ when a surface is read again. `gold` counts all gold
    surfaces, those that the model missed included.

    >>> best_threshold([0.9, 0.8, 0.2], [True, True, False], gold=2)
    0.5
    """
    best, threshold = 2 * sum(correct) / max(1, len(scores) + gold), 0.0
    right = 0.0
    ranked = sorted(zip(scores, correct, strict=True), key=lambda pair: -pair[0])
    for kept, (score, is_right) in enumerate(ranked, start=1):
        right += is_right
        f1 = 2 * right / (kept + gold)
        following = ranked[kept][0] if kept < len(ranked) else 0.0
        if f1 > best + 1e-12 and following < score:  # equal scores are kept together
            best, threshold = f1, (float(score) + float(following)) / 2
    return threshold


def precision_at_coverage(confidence: Floats, correct: Floats) -> dict[float, float]:
    """For each coverage, the accuracy of that share of the surfaces with the highest confidence.

    >>> precision_at_coverage([0.9, 0.8, 0.3, 0.2], [True, True, True, False])
    {0.25: 1.0, 0.5: 1.0, 0.75: 1.0, 1.0: 0.75}
    """
    ranked = np.asarray(correct, dtype=float)[np.argsort(-np.asarray(confidence, dtype=float), kind="stable")]
    tops = {coverage: ranked[: max(1, math.ceil(coverage * len(ranked)))] for coverage in (0.25, 0.5, 0.75, 1.0)}
    return {coverage: float(top.mean()) if len(top) else 0.0 for coverage, top in tops.items()}


def _log_odds(logprob: np.ndarray) -> np.ndarray:
    """ln(p / (1 - p)) of p = exp(logprob), clipped to ±30."""
    logprob = np.minimum(logprob, -1e-13)
    return np.clip(logprob - np.log(-np.expm1(logprob)), -30, 30)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))  # never overflows


def judged(examples: Iterable[Example], predicted: Iterable[Decoded], *, located: bool = False) -> Iterator[Judged]:
    """Each scored surface that was predicted for `examples`, and whether gold has it: what calibration needs.

    A surface that has several scores, from windows that overlap, has the highest. Of a target that says which place is
    meant (`located`) each place is judged by itself.
    """
    for gold, decoded in zip(examples, predicted, strict=True):
        right = {_judged_as(entity, located) for entity in gold.entities}
        scores: dict[tuple[Any, ...], float] = {}
        for entity in decoded.entities:
            if entity.score is not None:
                unit = _judged_as(entity, located)
                scores[unit] = max(entity.score, scores.get(unit, 0.0))
        yield from (Judged(unit[0], score, unit in right) for unit, score in scores.items())


def gold_counts(examples: Iterable[Example], *, located: bool = False) -> Counter[str]:
    """How many surfaces of each label `judged` could find right; if `located`, how many entities."""
    found = ({_judged_as(entity, located) for entity in example.entities} for example in examples)
    return Counter(unit[0] for units in found for unit in units)


def _judged_as(entity: Entity, located: bool) -> tuple[Any, ...]:
    return (entity.label, *entity.span) if located else (entity.label, entity.text)
