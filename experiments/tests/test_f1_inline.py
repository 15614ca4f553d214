"""The inline target says what the entities are and where, and what it cannot say is counted."""

import os
from itertools import pairwise

import pytest
from f1_inline import Inline, escaped, flat, parse, repeated, unwritten
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.codec import Codec, Decoded, ground
from qwen_ner.data.datasets import read_dataset
from qwen_ner.entities import CLUENER, Entity, Example, LabelSet, NerError

CODEC = Inline(CLUENER)


def entity(label, text, start, end):
    return Entity(label, text[start:end], start, end)


def kinds(decoded):
    return [problem.kind for problem in decoded.problems]


@st.composite
def examples(draw):
    """Texts of brackets, backslashes and spaces, with entities that may overlap."""
    text = draw(st.text("[]\\ |a北京{}\n", min_size=1, max_size=20))
    spans = draw(
        st.sets(st.tuples(*[st.integers(0, len(text))] * 2).filter(lambda span: span[0] < span[1]), max_size=5)
    )
    labels = st.sampled_from(CLUENER.names)
    return Example("0", text, tuple(entity(draw(labels), text, *span) for span in spans))


@given(examples())
def test_a_target_says_the_text_and_the_places_of_all_entities_that_do_not_overlap(example):
    decoded = CODEC.decode(example.text, CODEC.encode(example))
    assert list(decoded.entities) == flat(example)
    assert decoded.surfaces == tuple(dict.fromkeys((e.label, e.text) for e in flat(example)))
    assert not decoded.problems
    assert unwritten([example]) == len(example.entities) - len(decoded.entities)


@given(st.text("[]\\ |a北京company", max_size=30), st.text("[]\\a北京", max_size=10))
def test_no_completion_raises_and_every_entity_is_in_the_text(completion, text):
    decoded = CODEC.decode(text, completion)
    assert all(text[e.start : e.end] == e.text for e in decoded.entities)
    told = {(problem.label, problem.value) for problem in decoded.problems}
    assert {pair for pair in decoded.ungrounded if pair[0] in CLUENER} <= told
    if parse(completion) is None:
        assert (decoded.entities, decoded.surfaces, kinds(decoded)) == ((), (), ["not_json"])


@given(examples())
def test_of_entities_that_overlap_the_first_and_longest_is_kept(example):
    kept = flat(example)
    assert all(a.end <= b.start for a, b in pairwise(kept))
    for lost in set(example.entities) - set(kept):
        assert any(k.start <= lost.start < k.end for k in kept)


@pytest.mark.parametrize(
    "completion", ["[北京", "北京]", "[北京]", "[ address]", "[北京 ]", "[[北京 address] scene]", "北京\\", "北\\京"]
)
def test_what_breaks_the_rules_says_nothing(completion):
    decoded = CODEC.decode("北京", completion)
    assert (decoded.entities, decoded.surfaces, kinds(decoded)) == ((), (), ["not_json"])


@pytest.mark.parametrize(
    ("text", "completion", "places", "problems"),
    [
        ("北京人在北京", "北京人在[北京 address]", [(4, 6)], []),
        ("北京人在北京", "北京在[北京 address]", [(4, 6)], ["miscopied"]),  # a character left out
        ("北京人，在北京", "[北京 address]人，正在北京", [(0, 2)], ["miscopied"]),  # one too many
        ("去北京看看", "[北京 address]", [(1, 3)], ["miscopied"]),
        ("去北京看看", "去[东京 address]看看", [], ["miscopied", "not_in_text"]),
        ("去北京看看", "去[北京 town]看看", [], ["unknown_label"]),
        ("去北京大学", "去[北京 大学 organization]", [], ["miscopied", "not_in_text"]),
        ("[1]北京", "\\[1\\][北京 address]", [(3, 5)], []),
    ],
)
def test_a_copy_that_differs_is_laid_over_the_text(text, completion, places, problems):
    decoded = CODEC.decode(text, completion)
    assert ([e.span for e in decoded.entities], kinds(decoded)) == (places, problems)
    assert len(decoded.surfaces) == 1, "what is written is a prediction, wherever it stands"


def test_an_unfinished_answer_is_truncated():
    assert kinds(CODEC.decode("北京人", "[北京 address]", finished=False)) == ["truncated", "miscopied"]
    assert kinds(CODEC.decode("北京人", "[北京 addr", finished=False)) == ["truncated"]


@pytest.mark.parametrize("name", ["two words", "a]", "a\\b"])
def test_a_label_that_cannot_be_written_is_refused(name):
    with pytest.raises(NerError) as error:
        Inline(LabelSet.of([name, "b"]))
    assert (error.value.place, error.value.value) == ("labels", name)


def test_a_label_outside_the_set_is_refused():
    with pytest.raises(NerError) as error:
        CODEC.encode(Example("0", "北京", (Entity("town", "北京", 0, 2),), "train.json:1"))
    assert error.value.place == "train.json:1"


@pytest.mark.skipif("QWEN_NER_DATA" not in os.environ, reason="needs CLUENER")
def test_all_of_cluener_is_written_but_two_nested_entities():
    train = read_dataset("cluener", "train")
    assert unwritten(train) == 2
    for example in train:
        decoded = CODEC.decode(example.text, CODEC.encode(example))
        assert (list(decoded.entities), decoded.problems) == (flat(example), ())


def test_places_of_repeated_surfaces_are_counted_where_both_sides_have_the_surface():
    """北京 is meant the second time; 上海 stands once, 广州 is not predicted."""
    text = "北京人在北京去上海，广州广州"
    gold = Example(
        "0", text, (entity("address", text, 4, 6), entity("address", text, 7, 9), entity("address", text, 10, 12))
    )
    grounded = Decoded(ground(text, [("address", "北京")]), (("address", "北京"), ("address", "上海")))
    marked = Decoded((entity("address", text, 0, 2),), (("address", "北京"),))
    assert repeated([gold], [grounded]) == {"gold": 1, "missed": 0, "spurious": 1}
    assert repeated([gold], [marked]) == {"gold": 1, "missed": 1, "spurious": 1}
    assert repeated([gold] * 2, [Codec(CLUENER).decode(text, "{}")] * 2) == {"gold": 0, "missed": 0, "spurious": 0}


@given(st.text("[]\\a"))
def test_an_escaped_text_reads_as_it_was(text):
    assert parse(escaped(text)) == (text, [])
