"""Laws of intervals and tests: they agree with resampling written out, and say what is known of made-up systems."""

import itertools

import numpy as np
import pytest
from evaluation.cases import ABC, random_rows

from qwen_ner.codec import Decoded
from qwen_ner.entities import CLUENER, Entity, Example, NerError
from qwen_ner.evaluation import bootstrap
from qwen_ner.evaluation.bootstrap import differences, intervals, rates, row_counts
from qwen_ner.evaluation.scoring import score


@pytest.mark.parametrize("seed", range(30))
def test_rates_of_summed_rows_are_those_of_the_scorer(seed):
    gold, predicted = random_rows(seed, rows=20)
    train = {pair for example in random_rows(seed + 100)[0] for pair in example.surfaces}
    found = rates(row_counts(gold, predicted, ABC, train).sum(0), ABC.names)
    expected = score(gold, predicted, ABC, train=train).metrics()
    assert len(found) == 5 + 3 + 2
    for name, rate in found.items():
        assert float(rate) == pytest.approx(expected[name], abs=1e-12), name


def test_the_interval_is_that_of_resampling_written_out():
    gold, predicted = random_rows(1, rows=60)
    found = intervals(row_counts(gold, predicted, ABC), ABC.names)["span_f1"]
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(1000):
        rows = rng.integers(0, 60, size=60)
        drawn.append(score([gold[n] for n in rows], [predicted[n] for n in rows], ABC).span_f1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert found.low < score(gold, predicted, ABC).span_f1 < found.high


def test_the_interval_of_a_share_of_independent_rows_is_that_of_the_binomial(monkeypatch):
    """Half of 400 rows found: 0.5 ± 1.96 · √(0.25 / 400)."""
    gold, predicted = half_right([0, 1] * 200)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 4000)
    found = intervals(row_counts(gold, predicted, ABC), ABC.names)["recall"]
    assert (found.low, found.high) == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.004)


def test_how_much_is_computed_at_a_time_changes_nothing(monkeypatch):
    gold, a = random_rows(3, rows=101)
    b = random_rows(4, rows=101)[1]
    one, other = row_counts(gold, a, ABC), row_counts(gold, [*a[:50], *b[50:]], ABC)
    known = intervals(one, ABC.names), differences([one], [other], ABC.names, permutations=200)
    monkeypatch.setattr(bootstrap, "PART", 10)  # the last part is one row
    monkeypatch.setattr(bootstrap, "BLOCK", 101 * 30)
    assert (intervals(one, ABC.names), differences([one], [other], ABC.names, permutations=200)) == known


def test_the_macro_f1_of_cluener_is_over_its_ten_labels_in_each_resample():
    gold = [Example(str(n), "三星", (Entity("company", "三星", 0, 2),)) for n in range(5)]
    counts = row_counts(gold, [Decoded(row.entities, row.surfaces) for row in gold], CLUENER)
    assert intervals(counts, CLUENER.names)["macro_f1"] == bootstrap.Interval(0.1, 0.1)


def test_intervals_are_the_same_each_time_and_shrink_with_the_rows():
    gold, predicted = random_rows(2, rows=50)
    counts = row_counts(gold, predicted, ABC)
    assert intervals(counts, ABC.names) == intervals(counts, ABC.names)
    more = intervals(np.concatenate([counts] * 16), ABC.names)["f1"]
    few = intervals(counts, ABC.names)["f1"]
    assert (few.high - few.low) / (more.high - more.low) == pytest.approx(4, rel=0.25)


def half_right(right):
    """(gold, predicted) of as many rows as `right`, each with one entity, found or not."""
    gold = [Example(str(n), "甲乙", (Entity("a", "甲", 0, 1),)) for n in range(len(right))]
    hit = Decoded((Entity("a", "甲", 0, 1),), (("a", "甲"),))
    return gold, [hit if is_right else Decoded() for is_right in right]


def test_the_permutation_test_counts_all_swaps():
    """Six rows: all 64 ways to swap can be counted."""
    gold, a = half_right([1, 0, 0, 0, 1, 0])
    _, b = half_right([1, 1, 1, 1, 0, 0])
    one, other = row_counts(gold, a, ABC), row_counts(gold, b, ABC)
    found = next(d for d in differences([one], [other], ABC.names, permutations=20_000) if d.name == "f1")
    observed = found.b - found.a
    hits = 0
    for swaps in itertools.product([False, True], repeat=6):
        swapped = np.array(swaps)[:, None, None]
        first, second = (np.where(swapped, y, x).sum(0) for x, y in ((one, other), (other, one)))
        hits += abs(rates(second, ABC.names)["f1"] - rates(first, ABC.names)["f1"]) >= observed - 1e-12
    assert found.p == pytest.approx(hits / 64, abs=0.01)
    assert found.interval.low <= observed <= found.interval.high


def test_a_system_is_not_better_than_itself_and_a_much_better_one_is():
    rng = np.random.default_rng(0)
    gold, weak = half_right(rng.random(400) < 0.5)
    _, strong = half_right(rng.random(400) < 0.8)
    one, other = row_counts(gold, weak, ABC), row_counts(gold, strong, ABC)
    same = differences([one], [one], ABC.names, permutations=200)
    assert all(d.p == 1.0 and d.interval.low == d.interval.high == 0.0 for d in same)
    better = next(d for d in differences([one], [other], ABC.names, permutations=1000) if d.name == "f1")
    assert better.p == 1 / 1001, "never 0: the outputs as they are count as one permutation"
    assert better.interval.low > 0.1


def test_chance_is_called_chance_as_often_as_it_says():
    """Of two systems that are equally good, one in twenty differences has p ≤ 0.05."""
    rng = np.random.default_rng(1)
    significant = 0
    for _ in range(200):
        gold, a = half_right(rng.random(60) < 0.6)
        _, b = half_right(rng.random(60) < 0.6)
        pair = [row_counts(gold, run, ABC) for run in (a, b)]
        found = differences([pair[0]], [pair[1]], ABC.names, resamples=1, permutations=200)
        significant += found[0].p <= 0.05
    assert significant <= 20


def test_runs_over_seeds_are_averaged_and_not_permuted():
    gold, a = half_right([1, 0, 0, 0])
    runs = [row_counts(gold, half_right(right)[1], ABC) for right in ([1, 1, 0, 0], [1, 1, 1, 1])]
    found = differences([row_counts(gold, a, ABC)], runs, ABC.names)[0]
    assert found.p is None
    assert found.b == pytest.approx((2 / 3 + 1) / 2)


def test_what_cannot_be_compared_is_refused():
    gold, a = half_right([1, 0])
    with pytest.raises(NerError, match="numbers of rows"):
        differences([row_counts(gold, a, ABC)], [row_counts(gold[:1], a[:1], ABC)], ABC.names)
    runs = [row_counts(gold, a, ABC), row_counts(gold[:1], a[:1], ABC)]
    with pytest.raises(NerError, match="numbers of rows"):
        differences(runs[:1], runs, ABC.names)
    with pytest.raises(NerError, match="no row"):
        intervals(np.zeros((0, 10, 3)), ABC.names)
    with pytest.raises(NerError) as caught:
        row_counts(gold, a[:1], ABC)
    assert caught.value.value == 1
