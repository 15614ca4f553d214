"""Counts of parts add up to those of the whole, wherever the rows lie, and take the memory of counts."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from evaluation.cases import ABC, random_rows
from rows import example

from qwen_ner.codec import Codec
from qwen_ner.data.arrow_store import StoredDecoded, StoredExamples
from qwen_ner.entities import CLUENER, Entity, Example, NerError
from qwen_ner.evaluation import result as module
from qwen_ner.evaluation.baselines import Lookup
from qwen_ner.evaluation.errors import error_count
from qwen_ner.evaluation.report import page
from qwen_ner.evaluation.result import EvaluationResult, tally
from qwen_ner.evaluation.table import Contract

CONTRACT = Contract("m", "d", "dev", 40, "f", "free")


def rows_of(seed, rows=40):
    gold, predicted = random_rows(seed, rows=rows)
    return [replace(one, id=str(n)) for n, one in enumerate(gold)], predicted


@pytest.mark.parametrize("seed", range(20))
def test_parts_add_up_to_the_whole(seed):
    gold, predicted = rows_of(seed)
    train = random_rows(seed + 100)[0]
    seen, floor = {pair for one in train for pair in one.surfaces}, Lookup(train)
    whole = tally(gold, predicted, ABC, seen, floor)
    cut = 1 + seed
    parts = tally(gold[:cut], predicted[:cut], ABC, seen, floor) + tally(gold[cut:], predicted[cut:], ABC, seen, floor)
    for name in ("scores", "ceiling", "floor", "kinds", "confusion"):
        assert getattr(parts, name) == getattr(whole, name), name
    assert list(parts.scores.surface) == list(whole.scores.surface)
    assert (parts.spurious == whole.spurious).all()
    assert (np.concatenate(parts.counts) == np.concatenate(whole.counts)).all()


def test_the_worst_rows_are_those_with_the_most_errors_by_offsets():
    gold, predicted = rows_of(1)
    rows = [*EvaluationResult(CONTRACT, gold, predicted, ABC).worst_first()]
    sizes = [error_count(row.errors) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert [row.gold.id for row in rows if not row.errors] == [r.gold.id for r in rows[len(rows) - sizes.count(0) :]]


@pytest.mark.parametrize("seed", range(5))
def test_rows_on_the_disk_are_evaluated_as_those_in_memory(seed, monkeypatch):
    gold, predicted = rows_of(seed)
    train = random_rows(seed + 100)[0]
    added = [(gold[0], predicted[1])]
    held = EvaluationResult(CONTRACT, gold, predicted, ABC, train, added=added)
    expected = held.table(), held.to_dict(), [*held.error_lines()], [*held.prediction_lines()], page(held)
    monkeypatch.setattr(module, "ROWS", 7)
    stored = EvaluationResult(
        CONTRACT, StoredExamples.of(gold), StoredDecoded.of(predicted), ABC, StoredExamples.of(train), added=added
    )
    assert (
        stored.table(), stored.to_dict(), [*stored.error_lines()], [*stored.prediction_lines()], page(stored)
    ) == expected  # fmt: skip


def test_counts_beyond_a_byte_are_kept():
    long = Example("0", "甲" * 400, tuple(Entity("name", "甲", n, n + 1) for n in range(400)))
    short = example("三星", ("company", "三星"))
    nothing = Codec(CLUENER).decode("三星", "{}")
    found = tally([short], [nothing], CLUENER) + tally([long], [nothing], CLUENER)
    assert np.concatenate(found.counts).sum((1, 2)).tolist() == [2, 401]


def test_no_prediction_too_few_goes_unseen():
    gold, predicted = rows_of(0)
    with pytest.raises(NerError, match="40 predictions") as caught:
        _ = EvaluationResult(CONTRACT, gold, predicted[:-1], ABC).scores
    assert caught.value.value == 39


def test_an_evaluation_holds_counts_and_no_rows():
    codec = Codec(CLUENER)

    def peak(number):
        gold = StoredExamples.of(
            example(f"三星在北京的第{n}家店", ("company", "三星"), ("address", "北京"), id=str(n))
            for n in range(number)
        )
        tracemalloc.start()
        predicted = StoredDecoded.of(codec.decode(one.text, '{"company":["三星","北京"]}') for one in gold)
        found = EvaluationResult(CONTRACT, gold, predicted, CLUENER)
        assert found.scores.rows == number
        assert sum(1 for _ in found.error_lines()) == number
        assert found.intervals["f1"].low > 0
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1_500)
    assert (peak(4_000) - peak(2_000)) / 2_000 < 300


def test_seen_and_unseen_add_up_to_f1_and_are_there_with_train_alone():
    gold = Example("0", "北京很大", (Entity("a", "北京", 0, 2),))
    found = Codec(ABC).decode(gold.text, '{"a":["北京","很大"]}')
    known = EvaluationResult(CONTRACT, [gold], [found], ABC, [gold])
    assert "\nunseen" in known.table(), "one false positive, and nothing in gold"
    assert "unseen in train" in page(known)
    assert {"seen_f1", "unseen_f1"} <= known.to_dict()["intervals"].keys()
    without = replace(known, train=None)
    assert "\nunseen" not in without.table()
    assert "seen" not in str(without.to_dict()["intervals"])
