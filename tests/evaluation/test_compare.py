import pytest
from evaluation.cases import ABC, random_rows

from qwen_ner.codec import Codec
from qwen_ner.columns import width
from qwen_ner.entities import Entity, Example, LabelSet
from qwen_ner.evaluation.compare import SHOWN_ROWS, compare, comparison_lines
from qwen_ner.evaluation.scoring import score


def test_better_and_worse_rows_are_separated_and_the_rest_is_equal():
    gold, a = random_rows(1, rows=40)
    b = [gold_row if n % 2 else old for n, (gold_row, old) in enumerate(zip(perfect(gold), a, strict=True))]
    found = compare(gold, [a], [b], ABC)
    assert found.worse == []
    assert all(n % 2 for n in found.better)
    changed = [
        n for n in range(1, 40, 2) if score([gold[n]], [a[n]], ABC).f1 < 1 and (gold[n].entities or a[n].surfaces)
    ]
    assert set(found.better) == set(changed)
    first = found.better[0]
    worst = score([gold[first]], [a[first]], ABC).micro
    assert all(worst.fp + worst.fn >= (c := score([gold[n]], [a[n]], ABC).micro).fp + c.fn for n in found.better)
    assert found.a[0]["f1"] == pytest.approx(score(gold, a, ABC).f1)
    lines = comparison_lines(found, gold, a, b, ("one", "two"))
    assert f"{len(changed)} rows better in B, 0 worse, {40 - len(changed)} equal" in lines
    assert f"better: {gold[first].text}" in lines
    assert not any(line.startswith("worse:") for line in lines)


def test_turned_around_what_was_better_is_worse():
    gold, a = random_rows(1, rows=40)
    _, b = random_rows(5, rows=40)
    there, back = compare(gold, [a], [b], ABC), compare(gold, [b], [a], ABC)
    assert (back.better, back.worse) == (there.worse, there.better)
    assert there.better
    assert there.worse
    lines = comparison_lines(there, gold, a, b, ("one", "two"))
    for what, rows in (("better", there.better), ("worse", there.worse)):
        shown = [line for line in lines if line.startswith(f"{what}: ")]
        assert shown == [f"{what}: {gold[n].text}" for n in rows[:SHOWN_ROWS]]
    assert max(len(there.better), len(there.worse)) > SHOWN_ROWS
    assert not any("seen" in line for line in lines), "nothing is known of a training here"


def test_a_label_that_is_not_in_the_set_makes_a_row_worse():
    gold = [Example("0", "甲乙", (Entity("a", "甲", 0, 1),))]
    a, b = (Codec(ABC).decode("甲乙", completion) for completion in ('{"a":["甲"]}', '{"a":["甲"],"x":["乙"]}'))
    found = compare(gold, [[a]], [[b]], ABC)
    assert (found.better, found.worse) == ([], [0])


def test_seeds_give_a_mean_and_a_deviation():
    gold, _ = random_rows(2, rows=30)
    runs = [random_rows(2, rows=30)[1], perfect(gold)]
    lines = comparison_lines(compare(gold, [perfect(gold)], runs, ABC), gold, perfect(gold), runs[0], ("a", "b*"))
    f1 = score(gold, runs[0], ABC).f1
    spread = next(line for line in lines if line.startswith("B 2 runs"))
    assert f"f1 {50 * (1 + f1):.2f} ± {100 * (1 - f1) / 2**0.5:.2f}" in spread
    assert not any(line.startswith("A 1 runs") for line in lines)


def test_what_macro_f1_is_the_mean_of_is_said_for_either_side():
    gold, a = random_rows(1, rows=40)
    labels = LabelSet.of([*"abc", "never"])
    lines = comparison_lines(compare(gold, [a], [perfect(gold)], labels), gold, a, a, ("one", "two"))
    for side in "AB":
        assert f"macro_f1 of {side}: mean of 3 of 4 labels: those in gold or predictions" in lines


def perfect(gold):
    from qwen_ner.codec import Decoded

    return [Decoded(example.entities, example.surfaces) for example in gold]


def test_columns_stand_below_each_other_whatever_the_labels_are_called():
    example = Example("0", "甲乙", (Entity("公司名称", "甲", 0, 1), Entity("a", "乙", 1, 2)))
    own = perfect([example])
    found = compare([example], [own], [own], LabelSet.of(["公司名称", "a"]))
    lines = comparison_lines(found, [example], own, own, ("one", "two"))
    assert len({width(line.partition(" 100.00")[0]) for line in lines if " 100.00" in line}) == 1
