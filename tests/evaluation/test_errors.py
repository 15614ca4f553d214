"""Every false positive and every false negative is in one kind, and the kinds are what their names say."""

from collections import Counter

import pytest
from evaluation.cases import ABC, random_rows

from qwen_ner.codec import PROBLEM_KINDS, Codec, Decoded, Problem
from qwen_ner.data.datasets import read_dataset
from qwen_ner.entities import CLUENER, Entity, Example
from qwen_ner.evaluation.baselines import Lookup, ceiling
from qwen_ner.evaluation.errors import (
    KINDS,
    confusion,
    count_kinds,
    errors_of,
    spurious,
)
from qwen_ner.evaluation.scoring import Counts, score
from qwen_ner.evaluation.table import table
from qwen_ner.grounding import ground
from qwen_ner.inline import InlineCodec

TEXT = "三星在北京大学"


def entity(label, surface):
    start = TEXT.index(surface)
    return Entity(label, surface, start, start + len(surface))


@pytest.mark.parametrize(
    ("gold", "predicted", "kinds"),
    [
        ([("a", "三星")], [("a", "三星")], []),
        ([("a", "三星")], [("b", "三星")], ["label"]),
        ([("a", "北京大学")], [("a", "北京")], ["boundary"]),
        ([("a", "北京大学")], [("b", "北京")], ["boundary + label"]),
        ([("a", "三星")], [], ["missed"]),
        ([], [("a", "三星")], ["spurious"]),
        ([("a", "三星")], [("a", "北京")], ["missed", "spurious"]),
        # What only touches shares nothing.
        ([("a", "三星")], [("a", "在")], ["missed", "spurious"]),
        ([("a", "大学")], [("a", "北京")], ["missed", "spurious"]),
        # One gold entity is one pair's: the nearer prediction takes it.
        ([("a", "北京大学")], [("a", "北京"), ("a", "京大学")], ["boundary", "spurious"]),
        ([("a", "北京大学"), ("b", "北京")], [("b", "北京大学")], ["label", "missed"]),
        # A right one takes part in no pair.
        ([("a", "北京大学")], [("a", "北京大学"), ("b", "北京大学")], ["spurious"]),
    ],
)
def test_kinds(gold, predicted, kinds):
    example = Example("0", TEXT, tuple(entity(*g) for g in gold))
    errors = errors_of(example, Decoded(tuple(entity(*p) for p in predicted)), ABC.names)
    assert [error.kind for error in errors] == kinds


def test_of_two_that_overlap_the_one_with_more_of_it_is_the_counterpart():
    gold, less, more = entity("a", "北京大学"), entity("a", "北"), entity("a", "京大学")
    boundary, spurious = errors_of(Example("0", TEXT, (gold,)), Decoded((less, more)), ABC.names)
    assert (boundary.gold, boundary.predicted, spurious.predicted) == (gold, more, less)


def test_a_prediction_that_comes_twice_is_one_whatever_its_scores():
    twice = Decoded((Entity("a", "三星", 0, 2, 0.5), Entity("a", "三星", 0, 2, 0.9)))
    (error,) = errors_of(Example("0", TEXT), twice, ABC.names)
    assert error.counts == score([Example("0", TEXT)], [twice], ABC).span_micro == Counts(fp=1)


@pytest.mark.parametrize(
    ("completion", "kinds"),
    [
        ('{"a":["首尔"]}', ["missed", "not in text"]),
        ('{"x":["三星"]}', ["missed", "unknown label"]),
        ('{"a":["三', ["not JSON"]),
        ("[]", ["wrong type"]),
        ("{}", ["missed"]),
        # What could be read counts as read, whatever else was wrong.
        ('{"a":["三星"],"b":3}', []),
        ('{"a":["首尔"],"b":3}', ["missed", "not in text"]),
    ],
)
def test_kinds_of_what_has_no_offsets(completion, kinds):
    example = Example("0", TEXT, (entity("a", "三星"),))
    decoded = Codec(ABC).decode(TEXT, completion)
    assert [error.kind for error in errors_of(example, decoded, ABC.names)] == kinds


def test_a_truncated_answer_misses_what_it_does_not_say_and_is_called_so():
    example = Example("0", TEXT, (entity("a", "三星"),))

    def kinds(completion):
        decoded = Codec(ABC).decode(TEXT, completion, finished=False)
        return [error.kind for error in errors_of(example, decoded, ABC.names)]

    assert kinds('{"a":["三') == ["truncated"]
    assert kinds('{"b":["三星"]}') == ["label"]
    assert kinds('{"a":["三星"]}') == []


def test_an_inline_answer_that_was_cut_off_misses_what_it_does_not_mark():
    example = Example("0", TEXT, (entity("a", "三星"),))
    decoded = InlineCodec(ABC).decode(TEXT, TEXT[:-1], finished=False)
    assert [error.kind for error in errors_of(example, decoded, ABC.names, "inline")] == ["missed"]


def test_kinds_and_problems_that_are_the_same_have_the_same_name():
    every = Decoded(problems=tuple(Problem(kind, "") for kind in PROBLEM_KINDS))
    line = table(score([Example("0", TEXT)], [every], ABC)).splitlines()[-1]
    problems = {problem.removeprefix("1 ") for problem in line.removeprefix("problems: ").split(" · ")}
    assert problems & KINDS.keys() == {"not JSON", "truncated", "wrong type", "not in text", "unknown label"}


def test_the_kinds_add_up_to_all_false_positives_and_negatives():
    met = Counter()
    for seed in range(500):
        gold, predicted = random_rows(seed)
        errors = [errors_of(g, p, ABC.names) for g, p in zip(gold, predicted, strict=True)]
        kinds = count_kinds(errors)
        span = score(gold, predicted, ABC).span_micro
        total = sum(kinds.values(), Counts())
        assert (total.fp, total.fn) == (span.fp, span.fn), seed
        met.update({kind: counts.fp + counts.fn for kind, counts in kinds.items()})
        table = confusion(gold, errors, ABC.names)
        by_gold = Counter(e.label for example in gold for e in example.entities)
        for label in ABC.names:
            assert sum(count for pair, count in table.items() if pair[0] == label) == by_gold[label], seed
        assert all(table.values()), "no pair that never occurred"
    assert all(met[kind] for kind in KINDS)


def test_a_label_that_is_not_in_the_set_has_no_column_in_the_confusion():
    example, decoded = (
        Example("0", TEXT, (entity("a", "三星"),)),
        Codec(ABC).decode(TEXT, '{"x":["三星"],"b":["北京"]}'),
    )
    errors = [errors_of(example, decoded, ABC.names)]
    assert confusion([example], errors, ABC.names) == {("a", "-"): 1, ("-", "b"): 1}


def test_false_positives_of_empty_sentences_are_counted_apart():
    some = Example("0", TEXT, (entity("a", "三星"),))
    empty = Example("1", "没有")
    wrong = Codec(ABC).decode("没有", '{"a":["没"],"b":["苹果"]}')
    assert spurious([some, empty, empty], [wrong, wrong, Decoded()]) == (2, 2)
    assert spurious([some], [wrong]) == (0, 0)


def test_looking_up_takes_the_longest_surface_under_its_commonest_label():
    train = [
        Example("0", TEXT, (entity("a", "北京"),)),
        Example("1", TEXT, (entity("b", "北京"),)),
        Example("2", TEXT, (entity("b", "北京"), entity("c", "北京大学"))),
    ]
    found = Lookup(train)
    assert [(e.label, e.text, e.start) for e in found("北京和北京大学").entities] == [
        ("b", "北京", 0),
        ("c", "北京大学", 3),
    ]
    assert found("无") == Decoded()
    assert Lookup(train[:2]).label_of == Lookup(train[1::-1]).label_of, "a tie does not hang on the order of the rows"
    assert Lookup([])("北京") == Decoded()


def test_the_ceiling_loses_in_offsets_only():
    gold = [Example("0", "甲乙甲", (Entity("a", "甲", 0, 1),))]
    best = ceiling(gold, ABC)
    assert (best.f1, best.span_micro) == (1.0, Counts(tp=1, fp=1))
    assert ground("甲乙甲", gold[0].surfaces)[1].start == 2


def test_floor_and_ceiling_of_cluener(cluener_dir):
    """The ceiling is the one measured before the code was written: 99.6."""
    train, dev = (read_dataset("cluener", split, data_dir=cluener_dir) for split in ("train", "dev"))
    assert round(100 * ceiling(dev, CLUENER).span_f1, 1) == 99.6
    floor = score(dev, list(map(Lookup(train), (row.text for row in dev))), CLUENER)
    assert 0.5 < floor.f1 < 0.65
