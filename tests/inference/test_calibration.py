import math
import random

import pytest

from qwen_ner.inference.calibration import (
    Calibration,
    Judged,
    best_threshold,
    expected_calibration_error,
    fit_calibration,
    precision_at_coverage,
    reliability,
    summary,
    surface_log_probability,
)


def drawn(count, scale, bias, seed=0):
    """Surfaces whose true probability is sigmoid(scale · log-odds of the confidence + bias)."""
    chance = random.Random(seed)
    judged = []
    for _ in range(count):
        odds = chance.gauss(1.5, 1.5)
        confidence = 1 / (1 + math.exp(-odds))
        truth = 1 / (1 + math.exp(-(scale * odds + bias)))
        judged.append(Judged(chance.choice(["a", "b"]), confidence, chance.random() < truth))
    return judged


def test_a_known_miscalibration_is_recovered():
    calibration = fit_calibration(drawn(20_000, scale=0.5, bias=-0.4), {"a": 9000, "b": 9000})
    assert calibration.scale == pytest.approx(0.5, abs=0.03)
    assert calibration.bias == pytest.approx(-0.4, abs=0.05)
    assert calibration.error_after < 0.02 < calibration.error_before
    assert calibration.surfaces == 20_000


def test_the_fit_is_the_one_of_largest_likelihood():
    judged = drawn(300, 0.7, 0.2)

    def loss(scale, bias):
        calibration = Calibration(scale, bias)
        positives = sum(one.correct for one in judged)
        high, low = (positives + 1) / (positives + 2), 1 / (len(judged) - positives + 2)
        total = 0.0
        for one in judged:
            p, target = calibration(math.log(one.confidence)), high if one.correct else low
            total -= target * math.log(p) + (1 - target) * math.log(1 - p)
        return total

    found = fit_calibration(judged, {})
    best = loss(found.scale, found.bias)
    for step in (-0.02, 0.02):
        assert best <= loss(found.scale + step, found.bias)
        assert best <= loss(found.scale, found.bias + step)


@pytest.mark.parametrize("judged", [[], [Judged("a", 0.9, True)] * 50, [Judged("a", 0.9, False)] * 50, drawn(9, 1, 0)])
def test_too_little_evidence_keeps_the_probability_of_the_model(judged):
    calibration = fit_calibration(judged, {"a": 10})
    assert calibration(math.log(0.3)) == pytest.approx(0.3)
    assert not calibration.thresholds


def test_certainty_stays_finite():
    assert Calibration()(0.0) == pytest.approx(1.0)
    assert Calibration()(-1e9) == pytest.approx(0.0)
    fit = fit_calibration([Judged("a", 1.0, True)] * 20 + [Judged("a", 0.0, False)] * 20, {"a": 20})
    assert math.isfinite(fit.scale)
    assert math.isfinite(fit.bias)


def test_a_threshold_is_the_best_of_all():
    chance = random.Random(1)
    for _ in range(50):
        scores = [chance.random() for _ in range(12)]
        correct = [chance.random() < score for score in scores]
        gold = sum(correct) + chance.randint(0, 5)

        def f1(threshold, scores=scores, correct=correct, gold=gold):
            kept = [right for score, right in zip(scores, correct, strict=True) if score >= threshold]
            return 2 * sum(kept) / max(1, len(kept) + gold)

        assert f1(best_threshold(scores, correct, gold)) == pytest.approx(max(map(f1, [0.0, *scores])))


def test_calibration_error_is_a_weighted_mean_of_gaps():
    assert expected_calibration_error([], []) == 0.0
    assert expected_calibration_error([1.0, 1.0, 0.0], [1, 0, 0]) == pytest.approx(2 / 3 * 0.5)
    assert sum(share for share, _, _ in reliability([0.05, 0.5, 0.95, 1.0], [0, 1, 1, 1])) == pytest.approx(1.0)


def test_precision_is_of_the_surest():
    assert precision_at_coverage([0.1, 0.9], [False, True], (0.5, 1.0)) == {0.5: 1.0, 1.0: 0.5}
    assert precision_at_coverage([], [], (0.5,)) == {0.5: 0.0}
    assert summary([Judged("a", 0.5, True)])["surfaces"] == 1


def test_tokens_that_spell_a_byte_of_the_surface_count():
    # {"a":["三星"]} as tokens of 6, 6 (三星) and 4 bytes ("]} and the end has none)
    assert surface_log_probability([-1, -2, -4, -8], [7, 6, 3, 0], 7, 14) == -6
    assert surface_log_probability([-1, -2, -4], [7, 3, 3], 7, 10) == -2
