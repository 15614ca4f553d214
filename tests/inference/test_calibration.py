import math
import random

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qwen_ner.codec import Decoded
from qwen_ner.entities import Entity, Example
from qwen_ner.inference.calibration import (
    Calibration,
    Judged,
    best_threshold,
    expected_calibration_error,
    fit_calibration,
    gold_counts,
    judged,
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


def loss(judged, scale, bias):
    """The logistic loss to Platt's targets, in sums that do not overflow."""
    right = np.array([one.correct for one in judged], dtype=bool)
    p = np.clip([one.confidence for one in judged], 1e-300, 1 - 1e-13)
    scores = scale * np.clip(np.log(p) - np.log1p(-p), -30, 30) + bias
    target = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))
    return float((np.logaddexp(0, scores) - target * scores).sum())


def test_the_fit_is_the_one_of_largest_likelihood():
    judged = drawn(300, 0.7, 0.2)
    found = fit_calibration(judged, {})
    best = loss(judged, found.scale, found.bias)
    for step in (-0.02, 0.02):
        assert best <= loss(judged, found.scale + step, found.bias)
        assert best <= loss(judged, found.scale, found.bias + step)


CYCLE = [
    *(Judged("a", p, True) for p in (0.002, 0.137, 0.993, 0.979, 0.542, 0.002, 0.988, 0.662, 0.9, 0.999, 0.999, 0.02)),
    *(Judged("a", p, True) for p in (0.234, 0.881, 0.277, 0.095, 0.37)),
    *(Judged("a", p, False) for p in (0.586, 0.663, 0.0, 0.014, 1.0, 0.014, 0.816, 0.063, 0.476, 0.006, 0.07)),
]
"""Full steps of Newton's method from (1, 0) never settle here: every second one returns to a loss of 60."""


def test_a_fit_that_full_steps_do_not_find_is_found():
    found = fit_calibration(CYCLE, {})
    assert loss(CYCLE, found.scale, found.bias) < 19 < 60 < loss(CYCLE, 1, 0)
    assert found.error_after < 0.15 < 0.3 < found.error_before


CONFIDENCES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-300, 1e-9, 0.5, 0.9, 1 - 1e-9, 1 - 1e-16, 1.0]))
JUDGED = st.lists(st.builds(Judged, st.sampled_from("ab"), CONFIDENCES, st.booleans()), max_size=40)


@given(JUDGED, st.randoms())
@example(CYCLE, random.Random(0))
@example([Judged("a", 0.9, True)] * 20 + [Judged("a", 0.1, False)] * 20, random.Random(0))
@example([Judged("a", 0.9, True)] * 20 + [Judged("a", 0.9, False)] * 20, random.Random(0))
def test_a_fit_is_no_worse_than_none_and_keeps_the_order_of_confidences(judged, chance):
    found = fit_calibration(judged, {"a": 9, "b": 9})
    assert found.scale > 0
    assert loss(judged, found.scale, found.bias) <= loss(judged, 1, 0) + 1e-9
    other = fit_calibration(chance.sample(judged, len(judged)), {"a": 9, "b": 9})
    assert (other.scale, other.bias) == pytest.approx((found.scale, found.bias), rel=1e-3, abs=1e-3)
    assert other.thresholds == pytest.approx(found.thresholds, abs=1e-3)


@given(st.lists(st.tuples(CONFIDENCES, st.booleans()), min_size=10, max_size=40), st.floats(0.1, 3), st.floats(-3, 3))
def test_the_fit_is_a_minimum(pairs, scale, bias):
    judged = [Judged("a", *pair) for pair in pairs]
    found = fit_calibration(judged, {"a": 9})
    assume(found.thresholds)
    assert loss(judged, found.scale, found.bias) <= loss(judged, scale, bias) + 1e-6


BACKWARDS = [Judged("a", 0.9, False)] * 9 + [Judged("a", 0.2, True)] * 9


def test_no_fit_is_told_and_keeps_the_probability_of_the_model(caplog):
    found = fit_calibration(BACKWARDS, {"a": 9})
    assert (found.scale, found.bias, found.thresholds, found.surfaces) == (1.0, 0.0, {}, len(BACKWARDS))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "not right more often" in record.message


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
        scores = [round(chance.random(), 1) for _ in range(12)]  # some are equal
        correct = [chance.random() < score for score in scores]
        gold = sum(correct) + chance.randint(0, 5)

        def f1(threshold, scores=scores, correct=correct, gold=gold):
            kept = [right for score, right in zip(scores, correct, strict=True) if score >= threshold]
            return 2 * sum(kept) / max(1, len(kept) + gold)

        assert f1(best_threshold(scores, correct, gold)) == pytest.approx(max(map(f1, [0.0, *scores])))


def test_a_threshold_keeps_the_same_surfaces_when_they_are_read_again():
    """Another batch or device rounds otherwise; so does going by the logarithm."""
    chance = random.Random(2)
    for _ in range(50):
        scores = [round(chance.random(), 3) for _ in range(12)]
        correct = [chance.random() < score for score in scores]
        threshold = best_threshold(scores, correct, sum(correct))
        for jitter in (-1e-6, 1e-6):
            assert [score + jitter >= threshold for score in scores] == [score >= threshold for score in scores]


def test_where_keeping_all_is_as_good_nothing_is_left_out():
    assert best_threshold([0.9, 0.2], [True, True], gold=2) == 0.0
    assert best_threshold([0.9, 0.2, 0.1], [True, True, False], gold=2) == pytest.approx(0.15)


def test_a_label_s_threshold_is_the_best_for_its_own_surfaces_as_they_are_calibrated():
    surfaces = drawn(400, scale=0.5, bias=-0.4)
    gold = {"a": 1000, "b": sum(one.correct for one in surfaces if one.label == "b")}
    found = fit_calibration(surfaces, gold)
    for label, total in gold.items():
        own = [one for one in surfaces if one.label == label]
        scores = [found(math.log(one.confidence)) for one in own]
        best = best_threshold(scores, [one.correct for one in own], total)
        assert found.thresholds[label] == pytest.approx(best)
    assert 0 < found.thresholds["a"] < found.thresholds["b"], "where much is missed, less is left out"


def test_a_surface_is_judged_once_and_by_its_label_too():
    text = "三星和三星在北京"
    gold = Example("0", text, (Entity("company", "三星", 0, 2), Entity("address", "北京", 6, 8)))
    found = Decoded(
        (
            Entity("company", "三星", 0, 2, 0.9),
            Entity("company", "三星", 3, 5, 0.9),
            Entity("scene", "北京", 6, 8, 0.0),
            Entity("address", "北京", 6, 8),  # without a score
        )
    )
    assert list(judged([gold], [found])) == [Judged("company", 0.9, True), Judged("scene", 0.0, False)]


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_scores_the_highest_is_judged_and_each_place_where_the_target_says_which(order):
    text = "三星和三星"
    gold = Example("0", text, (Entity("company", "三星", 0, 2),))
    places = (Entity("company", "三星", 0, 2, 0.9), Entity("company", "三星", 3, 5, 0.2))
    found = Decoded(places[::order])
    assert list(judged([gold], [found])) == [Judged("company", 0.9, True)]
    own = [Judged("company", 0.9, True), Judged("company", 0.2, False)]
    assert list(judged([gold], [found], located=True)) == own[::order]
    twice = [Example("0", text, (*gold.entities, Entity("company", "三星", 3, 5)))]
    assert (gold_counts(twice), gold_counts(twice, located=True)) == ({"company": 1}, {"company": 2})


def test_calibration_error_is_a_weighted_mean_of_gaps():
    assert expected_calibration_error([], []) == 0.0
    assert expected_calibration_error([1.0, 1.0, 0.0], [1, 0, 0]) == pytest.approx(2 / 3 * 0.5)
    assert sum(share for share, _, _ in reliability([0.05, 0.5, 0.95, 1.0], [0, 1, 1, 1])) == pytest.approx(1.0)


def test_precision_is_of_the_surest():
    assert precision_at_coverage([0.1, 0.9], [False, True]) == {0.25: 1.0, 0.5: 1.0, 0.75: 0.5, 1.0: 0.5}
    assert precision_at_coverage([0.9, 0.8, 0.3], [True, False, False])[0.5] == 0.5, "rounded up to two"
    assert set(precision_at_coverage([], []).values()) == {0.0}
    assert summary([Judged("a", 0.5, True)])["surfaces"] == 1


def test_tokens_that_spell_a_byte_of_the_surface_count():
    # {"a":["三星"]} as tokens of 6, 6 (三星) and 4 bytes ("]} and the end has none)
    assert surface_log_probability([-1, -2, -4, -8], [7, 6, 3, 0], 7, 14) == -6
    assert surface_log_probability([-1, -2, -4], [7, 3, 3], 7, 10) == -2
