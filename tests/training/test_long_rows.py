"""Rows that are too long to train on become windows, and nothing is lost on the way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.entities import Entity, Example
from qwen_ner.inference.windows import Window
from qwen_ner.training.long_rows import SHARE, SHORTEST, cut_out, split_long


def measure(examples):
    """A token a character and four an entity, beside ten of the prompt."""
    return [10 + len(example.text) + 4 * len(example.entities) for example in examples]


def document(sentences, name="d", surface="张伟"):
    text = "".join(f"{surface}在第{n}天到了北京{'很远' * (n % 5)}。" for n in range(sentences))
    starts = [at for at in range(len(text)) if text.startswith(surface, at)]
    return Example(name, text, tuple(Entity("name", surface, at, at + len(surface)) for at in starts), f"{name}:1")


def split(examples, limit):
    return split_long(examples, measure(examples), limit, measure)


def test_what_fits_stays_what_it_is():
    examples = [document(3), document(2)]
    found = split(examples, 1_000)
    assert found.examples is examples
    assert str(found) == ""
    assert split(examples, max(measure(examples))).examples is examples, "of just as many tokens too"


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(80, 300))
def test_every_character_and_entity_is_in_a_row_that_fits_at_its_place(sizes, limit):
    examples = [document(size, f"d{n}") for n, size in enumerate(sizes)]
    found = split(examples, limit)
    assert all(length <= limit for length in measure(found.examples))
    rest = iter(found.examples)
    for example in examples:
        text, entities = "", []
        while len(text) < len(example.text):
            part = next(rest)
            assert part.id.startswith(example.id)
            entities += [(e.label, e.text, e.start + len(text), e.end + len(text)) for e in part.entities]
            text += part.text
        assert text == example.text
        assert entities == [(e.label, e.text, e.start, e.end) for e in example.entities]
    assert next(rest, None) is None
    long = [example for example in examples if measure([example])[0] > limit]
    assert found.documents == len(long)
    assert found.kept == found.entities == sum(len(example.entities) for example in long)
    assert len(found.examples) == len(examples) - found.documents + found.windows


def test_a_window_ends_with_a_sentence_and_says_where_it_is_from():
    found = split([document(40)], 120)
    assert all(part.text.endswith("。") for part in found.examples)
    assert found.examples[0].source == f"d:1 [0, {len(found.examples[0].text)})"
    assert len({part.id for part in found.examples}) == found.windows
    assert str(found) == f"1 row split into {found.windows} windows, with 40 of 40 entities"


def test_a_passage_with_more_tokens_than_the_rest_is_split_further():
    entities = tuple(Entity("x", "字", at, at + 1) for at in range(1_000, 1_200))
    found = split([Example("d", "，" * 1_000 + "字" * 200 + "，" * 1_000, entities)], 400)
    assert all(length <= 400 for length in measure(found.examples))
    assert found.kept == 200
    sizes = [len(part.text) for part in found.examples]
    assert max(sizes) > 2 * min(sizes)
    (beside,) = measure([Example("", "。")])
    whole = 10 + 2_200 + 4 * 200
    assert sizes[0] == int(SHARE * 2_200 * (400 - beside) / (whole - beside)), "what fits at once is not split again"


def test_an_entity_that_goes_beyond_a_window_is_not_in_it():
    example = Example(
        "d", "一二三四", (Entity("x", "一二", 0, 2), Entity("x", "二三", 1, 3), Entity("x", "三四", 2, 4))
    )
    assert [e.text for e in cut_out(example, Window(0, 2, 0, 2)).entities] == ["一二"]
    assert [(e.text, e.span) for e in cut_out(example, Window(2, 4, 2, 4)).entities] == [("三四", (0, 2))]


def test_an_entity_longer_than_a_window_is_lost_and_counted():
    text = "甲" * 300
    found = split([Example("d", text, (Entity("x", text, 0, 300), Entity("y", "甲", 0, 1)))], 100)
    assert (found.entities, found.kept) == (2, 1)
    assert "1 of 2 entities" in str(found)


@pytest.mark.parametrize("limit", [5, 10, 10 + SHORTEST // 2])
def test_where_only_scraps_would_fit_nothing_is_split(limit):
    examples = [document(40)]
    assert split(examples, limit).examples is examples


def test_white_space_alone_is_no_row():
    found = split([Example("d", "三星在北京。" * 20 + " " * 300 + "苹果在上海。" * 20)], 100)
    assert all(part.text.strip() for part in found.examples)
