"""The annotators' agreement: which passages are compared, and what counts."""

import pytest
from annotators import Passage, agreement, groups, shared_passages

from qwen_ner.entities import Entity, Example


def example(row, text, *entities):
    return Example(str(row), text, tuple(Entity(label, text[start:end], start, end) for label, start, end in entities))


def test_the_longest_passage_of_each_two_rows():
    wanted = [Passage(8, 0, 1, 2, 0), Passage(6, 0, 2, 2, 1), Passage(6, 1, 2, 0, 1)]
    assert shared_passages(["xx12345678yy", "12345678z", "0123456"], 6) == wanted
    assert shared_passages(["abcab", "ab"], 3) == []
    assert shared_passages(["aaaa", "aaaa"], 3) == [Passage(4, 0, 1, 0, 0)], "not a row with itself"


def test_passages_that_overlap_have_one_vote():
    """Three rows of one passage, two of which agree, against two that do not: (1/3 + 0) of (1 + 1) entities."""
    passages = [Passage(8, 0, 1, 0, 0), Passage(9, 1, 2, 7, 0), Passage(7, 2, 5, 9, 0)]
    assert groups(passages) == [passages[:2], passages[2:]]
    right, wrong = ("address", 2, 4), ("scene", 2, 4)
    rows = [
        example(n, text, entity)
        for n, (text, entity) in enumerate(
            [("我在北京的三星公司", right)] * 2
            + [("我在北京的三星公司", wrong), ("他去上海那里出差了", right), ("他去上海那里出差了", wrong)]
        )
    ]
    found = groups(shared_passages([row.text for row in rows], 8))
    assert [len(group) for group in found] == [3, 1]
    assert agreement(rows, found)["f1"][0] == pytest.approx((1 / 3) / 2)


def test_entities_at_the_ends_of_a_passage_are_left_out():
    """Of four inside, one has another end and one another label: 2 of 4 and 4 agree; the first and last are cut."""
    text = "三星在北京上海广州深圳杭州"
    rows = [
        example(
            0,
            text,
            ("company", 0, 2),
            ("address", 3, 5),
            ("address", 5, 7),
            ("address", 7, 9),
            ("address", 9, 11),
            ("scene", 11, 13),
        ),
        example(1, text, ("game", 0, 2), ("address", 3, 5), ("address", 5, 7), ("address", 7, 10), ("scene", 9, 11)),
    ]
    found = agreement(rows, groups(shared_passages([row.text for row in rows], 8)))
    assert found["f1"][0] == found["span_f1"][0] == pytest.approx(0.5)
    assert found["f1_address"][0] == pytest.approx(4 / 7)
    assert found["f1_scene"][0] == 0


def test_f1_is_the_same_whichever_annotation_is_gold():
    rows = [
        example(0, "我在北京的三星公司工作了", ("address", 2, 4), ("company", 5, 9)),
        example(1, "我在北京的三星公司工作了", ("company", 5, 7)),
    ]
    one, other = (
        agreement(order, groups(shared_passages([row.text for row in order], 8))) for order in (rows, rows[::-1])
    )
    assert one["f1"][0] == other["f1"][0] == 0
