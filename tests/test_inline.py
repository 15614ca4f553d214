"""The inline target says what the entities are and where, and what it cannot say is counted."""

import json
import os
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.codec import Codec, Decoded, Problem
from qwen_ner.contract import NER_CONFIG_NAME, NerConfig
from qwen_ner.data.datasets import read_dataset
from qwen_ner.entities import CLUENER, Entity, Example, LabelSet, NerError
from qwen_ner.inline import CODECS, InlineCodec, escaped, flat, parse

CODEC = InlineCodec(CLUENER)


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
    assert CODEC.unwritten(example) == len(example.entities) - len(decoded.entities)


@given(st.text("[]\\ |a北京company", max_size=30), st.text("[]\\a北京", max_size=10))
def test_no_completion_raises_and_every_entity_is_in_the_text(completion, text):
    decoded = CODEC.decode(text, completion)
    assert all(text[e.start : e.end] == e.text for e in decoded.entities)
    told = {(problem.label, problem.value) for problem in decoded.problems}
    assert {pair for pair in decoded.ungrounded if pair[0] in CLUENER} <= told
    copied = parse(completion)[0] == text
    assert ("miscopied" in kinds(decoded)) == (not copied)


@given(examples())
def test_of_entities_that_overlap_the_first_and_longest_is_kept(example):
    kept = flat(example)
    assert all(a.end <= b.start for a, b in pairwise(kept))
    for lost in set(example.entities) - set(kept):
        assert any(k.start <= lost.start < k.end for k in kept)


@pytest.mark.parametrize(
    "completion",
    ["[北京", "北京]", "[北京]", "[ address]", "[北京 ]", "[[北京 address] scene]", '{"address":["北京"]}'],
)
def test_what_breaks_the_rules_is_read_as_text(completion):
    decoded = CODEC.decode("北京", completion)
    marked = completion == "[[北京 address] scene]"
    assert [(e.label, e.span) for e in decoded.entities] == [("address", (0, 2))] * marked
    assert kinds(decoded) == ["miscopied"]


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


def test_marks_without_a_place_are_looked_for_together_as_in_json():
    """By itself 北京 would also be found inside of 北京大学."""
    text = "北京大学在北京"
    found = CODEC.decode(text, "[北京 address]在[北京大学 organization]")
    as_json = Codec(CLUENER).decode(text, '{"address":["北京"],"organization":["北京大学"]}')
    assert [(e.label, e.span) for e in found.entities] == [(e.label, e.span) for e in as_json.entities]
    assert set(found.surfaces) == set(as_json.surfaces)


def test_a_long_copy_that_differs_keeps_its_beginning_and_end():
    """All its runs would take minutes to find."""
    text = "在上海，" + "北京" * 1000 + "，在南京"
    found = CODEC.decode(text, "在[上海 address]，" + "北京南" * 1000 + "，在[南京 address]")
    assert [e.span for e in found.entities] == [(1, 3), (2006, 2008)]
    assert kinds(found) == ["miscopied"]


@pytest.mark.parametrize("target", CODECS)
def test_a_composed_character_that_an_entity_cuts_is_in_the_target_as_a_whole(target):
    codec, text = CODECS[target](CLUENER), "在Cafe\N{COMBINING ACUTE ACCENT}上班"
    found = codec.decode(text, codec.encode(Example("0", text, (entity("scene", text, 1, 5),))))
    assert ([e.span for e in found.entities], found.problems) == ([(1, 6)], ())


@pytest.mark.parametrize("target", CODECS)
def test_a_label_is_read_as_a_tokenizer_writes_it(target):
    decomposed = "Lieu cite\N{COMBINING ACUTE ACCENT}".replace(" ", "_")
    codec, row = CODECS[target](LabelSet.of([decomposed])), Example("0", "在北京", (Entity(decomposed, "北京", 1, 3),))
    written = unicodedata.normalize("NFC", codec.encode(row))
    assert codec.decode(row.text, written) == Decoded(row.entities, row.surfaces)


@pytest.mark.parametrize(
    ("text", "entity", "target"),
    [
        ("在Cafe\N{COMBINING ACUTE ACCENT}上班", (1, 6), "在[Café scene]上班"),
        ("在Cafe\N{COMBINING ACUTE ACCENT}上班", (1, 5), "在[Café scene]上班"),  # widened to whole characters
        ("Ａ[e\N{COMBINING ACUTE ACCENT}]", (1, 4), "Ａ[\\[é scene]\\]"),
    ],
)
def test_a_text_that_is_not_composed_is_copied_in_nfc_and_read_back_with_its_own_offsets(text, entity, target):
    start, end = entity
    example = Example("0", text, (Entity("scene", text[start:end], start, end),))
    assert CODEC.encode(example) == target
    (found,) = CODEC.decode(text, target).entities
    assert text[found.start : found.end] == found.text
    assert (found.start, found.end) == (start, max(end, 6 if end == 5 else end))


def test_of_entities_that_share_a_composed_character_the_first_is_marked_and_the_other_counted():
    text = "xe\N{COMBINING ACUTE ACCENT}y"
    example = Example("0", text, (entity("address", text, 0, 2), entity("scene", text, 2, 4)))
    assert (CODEC.encode(example), CODEC.unwritten(example)) == ("[xé address]y", 1)


def test_an_earlier_file_without_the_target_is_json(tmp_path):
    """And one whose target was changed by hand is refused: the model was not trained for it."""
    config = NerConfig(CLUENER, CODEC.default_prompt, 64, (2,), target="inline")
    config.save(tmp_path)
    assert isinstance(NerConfig.load(tmp_path).codec(), InlineCodec)
    path = tmp_path / NER_CONFIG_NAME
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | {"target": "json"}), encoding="utf-8")
    with pytest.raises(NerError, match="labels, system_prompt, target: not those"):
        NerConfig.load(tmp_path)
    path.write_text(json.dumps(values | {"target": "xml"}), encoding="utf-8")
    with pytest.raises(NerError, match="json or inline"):
        NerConfig.load(tmp_path)
    NerConfig(CLUENER, "找实体。", 64, (2,)).save(tmp_path)
    assert "target" not in json.loads(path.read_text(encoding="utf-8")), "earlier versions can read it"
    assert NerConfig.load(tmp_path).target == "json"


def test_an_unfinished_answer_is_truncated():
    """It predicts what it has copied."""
    decoded = CODEC.decode("北京人", "[北京 address]", finished=False)
    assert (kinds(decoded), [e.span for e in decoded.entities]) == (["truncated"], [(0, 2)])
    assert kinds(CODEC.decode("北京人", "北京", finished=True)) == ["miscopied"]
    for written in ("[", "[北", "[北京", "[北京 addr", "[北京 address"):
        assert CODEC.decode("北京人", written, finished=False).problems == (Problem("truncated", written),)
    assert kinds(CODEC.decode("北京人", "[北京 addr")) == ["miscopied"]
    assert kinds(CODEC.decode("三龘好", "三\ufffd", finished=False)) == ["truncated"]
    assert kinds(CODEC.decode("\\[北京", "\\\\\\[北", finished=False)) == ["truncated"]
    assert kinds(CODEC.decode("上\\", "上\\", finished=False)) == ["truncated"]


@pytest.mark.parametrize("name", ["two words", "a]", "a\\b"])
def test_a_label_that_cannot_be_written_is_refused(name):
    with pytest.raises(NerError) as error:
        InlineCodec(LabelSet.of([name, "b"]))
    assert (error.value.place, error.value.value) == ("labels", name)


def test_a_label_outside_the_set_is_refused():
    with pytest.raises(NerError) as error:
        CODEC.encode(Example("0", "北京", (Entity("town", "北京", 0, 2),), "train.json:1"))
    assert error.value.place == "train.json:1"


@pytest.mark.skipif("QWEN_NER_DATA" not in os.environ, reason="needs CLUENER")
def test_all_of_cluener_is_written_but_two_nested_entities():
    train = read_dataset("cluener", "train")
    assert sum(map(CODEC.unwritten, train)) == 2
    for example in train:
        decoded = CODEC.decode(example.text, CODEC.encode(example))
        assert (list(decoded.entities), decoded.problems) == (flat(example), ())


@given(st.text("[]\\a"))
def test_an_escaped_text_reads_as_it_was(text):
    assert parse(escaped(text)) == (text, [])
