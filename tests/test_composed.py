"""Texts that are not in NFC give the same answers as their NFC, with offsets of their own."""

from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.codec import Codec
from qwen_ner.composed import composed
from qwen_ner.data.tokenize import prompt_ids, spelled_out
from qwen_ner.entities import Entity, Example, LabelSet
from qwen_ner.inference.constraints.automaton import Automaton, FixedText
from qwen_ner.inference.loading import decode_ids
from qwen_ner.inference.sampling import vote

LABELS = LabelSet.of(["company", "name"])
CODEC = Codec(LABELS)
POOL = 'aeA在e\u0301\u0302\u0323\u0331\u0344\u00e9\u1ebf\uf9e1李\u212b\u2126\u1100\u1161\u11a8\uac00👍\u200d\u0958\u0915\u093c\u09c7\u09be\u0f73か\u3099 x"\\'
TEXTS = st.text(st.sampled_from(POOL) | st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
SURFACES = [
    "Cafe\u0301",
    "\uf90a公司",
    "阿\u212bngström公司",
    "Vie\u0323\u0302t Nam",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8",
    "Café",
]


def is_whole(text, start, end):
    """Whether no character of `text` belongs to one on the other side of `start` or `end`."""
    return all(
        normalize("NFC", text[:at]) + normalize("NFC", text[at:]) == normalize("NFC", text) for at in (start, end)
    )


@given(TEXTS)
def test_each_character_of_the_nfc_has_its_place_in_the_text(text):
    whole, starts, ends = composed(text)
    assert whole == normalize("NFC", text)
    assert len(whole) == len(starts) == len(ends)
    for a in range(len(whole)):
        for b in range(a + 1, len(whole) + 1):
            start, end = starts[a], ends[b - 1]
            assert is_whole(text, start, end)
            cut = (a and starts[a] == starts[a - 1]) or (b < len(whole) and ends[b - 1] == ends[b])
            found = normalize("NFC", text[start:end])
            assert whole[a:b] in found if cut else whole[a:b] == found


def test_what_is_in_nfc_stays_as_it_is():
    text = "在q\u0301u\u0e49กéê三星\ud800"
    assert composed(text) == (text, [*range(len(text))], [*range(1, len(text) + 1)])


@st.composite
def golds(draw):
    """A text with entities that cut no character, as an answer that says so would place them."""
    text = draw(TEXTS)
    places = [at for at in range(len(text) + 1) if is_whole(text, at, at)]
    entities = {}
    for label in draw(st.lists(st.sampled_from(LABELS.names), max_size=4)):
        start, end = sorted(draw(st.lists(st.sampled_from(places), min_size=2, max_size=2)))
        if start < end:
            entities[Entity(label, text[start:end], start, end)] = None
    return Example("0", text, tuple(entities))


@given(golds())
def test_an_answer_says_the_same_of_a_text_and_of_its_nfc(gold):
    target, whole = CODEC.encode(gold), normalize("NFC", gold.text)
    assert target == normalize("NFC", target)
    found, expected = CODEC.decode(gold.text, target), CODEC.decode(whole, target)
    assert not found.problems
    assert {(e.label, normalize("NFC", e.text)) for e in found.entities} >= {
        (label, normalize("NFC", surface)) for label, surface in gold.surfaces
    }
    assert all(gold.text[e.start : e.end] == e.text and is_whole(gold.text, *e.span) for e in found.entities)
    assert {(label, normalize("NFC", surface)) for label, surface in found.surfaces} >= set(expected.surfaces)
    assert CODEC.decode(gold.text, CODEC.encode(Example("0", gold.text, found.entities))) == found
    assert vote(gold.text, [found], LABELS).entities == tuple(
        Entity(e.label, e.text, e.start, e.end, 1.0) for e in found.entities
    )


@given(golds())
def test_the_grammar_allows_what_is_trained(gold):
    automaton = Automaton(FixedText(LABELS.names), gold.text)
    state = automaton.after(automaton.beginning, CODEC.encode(gold).encode())
    assert state is not None
    assert state.place.kind == "done"


def example_of(surface):
    text = f"他在{surface}和李明"
    entities = Entity("company", surface, 2, 2 + len(surface)), Entity("name", "李明", len(text) - 2, len(text))
    return Example("0", text, entities)


@pytest.mark.parametrize("surface", SURFACES)
def test_what_was_encoded_is_decoded(surface):
    gold = example_of(surface)
    decoded = CODEC.decode(gold.text, CODEC.encode(gold))
    assert (decoded.entities, decoded.surfaces, decoded.problems) == (gold.entities, gold.surfaces, ())
    scores = {("company", normalize("NFC", surface)): 0.25, ("name", "李明"): 0.5}
    assert [e.score for e in decoded.scored(scores).entities] == [0.25, 0.5]


def test_two_spellings_of_a_surface_are_written_once_and_both_found():
    text = "Cafe\u0301和Café"
    gold = Example("0", text, (Entity("company", "Cafe\u0301", 0, 5), Entity("company", "Café", 6, 10)))
    assert CODEC.encode(gold) == '{"company":["Café"]}'
    decoded = CODEC.decode(text, CODEC.encode(gold))
    assert (decoded.entities, decoded.surfaces) == (gold.entities, gold.surfaces)
    assert all(entity.ambiguous for entity in decoded.entities)
    assert decoded.ungrounded == ()


@pytest.fixture(scope="module")
def normalizing(tiny):
    """The tiny tokenizer with the normalizer that all of Qwen have."""
    from tokenizers import normalizers

    from qwen_ner.inference.loading import load_tokenizer

    tokenizer = load_tokenizer(tiny)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


@pytest.mark.parametrize("surface", SURFACES)
def test_a_tokenizer_that_normalizes_changes_nothing(tokenizer, normalizing, surface):
    gold = example_of(surface)
    target = CODEC.encode(gold)
    ids = spelled_out(normalizing, target)
    assert ids == spelled_out(tokenizer, target)
    assert prompt_ids(normalizing, CODEC, [gold.text]) == prompt_ids(tokenizer, CODEC, [gold.text])
    assert CODEC.decode(gold.text, decode_ids(normalizing, [ids])[0]).entities == gold.entities
