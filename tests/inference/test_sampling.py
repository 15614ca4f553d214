import json
import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import EIGHT

from qwen_ner.codec import Codec, Decoded
from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.inference.backends.base import Backend
from qwen_ner.inference.extractor import Extractor
from qwen_ner.inference.sampling import Sampling, vote

TEXT = "三星在北京大学北京"
CODEC = Codec(CLUENER)
TEXTS = [gold.text for gold in EIGHT]
HOT = {"samples": 5, "temperature": 1.5, "top_p": 0.95}


def decoded(*answers):
    return [CODEC.decode(TEXT, answer) for answer in answers]


def pairs(found):
    return {(e.label, e.text): e.score for e in found.entities}


PART = st.lists(
    st.tuples(st.sampled_from(CLUENER.names[:3]), st.sampled_from(["三星", "北京", "北京大学", "苹果"])), max_size=4
)
ANSWER = st.one_of(st.sampled_from(["", "{}", "[]", '{"company":["三']), PART.map(
    lambda given: json.dumps({label: [s for one, s in given if one == label] for label, _ in given}, ensure_ascii=False)
))  # fmt: skip


@given(st.lists(ANSWER, min_size=1, max_size=7), st.floats(0, 1))
def test_a_score_is_the_share_of_the_answers_that_have_the_surface(answers, floor):
    each = decoded(*answers)
    found = vote(TEXT, each, CLUENER, floor)
    for (label, surface), score in pairs(found).items():
        count = sum((label, surface) in answer.surfaces for answer in each)
        assert score == count / len(answers) >= floor
        assert score * len(answers) == pytest.approx(round(score * len(answers)))
        assert score <= 1
    every = {pair for answer in each for pair in answer.surfaces}
    assert set(found.surfaces) == {p for p in every if sum(p in a.surfaces for a in each) >= floor * len(each) - 1e-9}
    assert len(found.problems) == sum(len(answer.problems) for answer in each), "of all answers, none dropped"


@given(st.lists(ANSWER, min_size=1, max_size=7), st.randoms())
def test_the_order_of_the_answers_does_not_count(answers, chance):
    other = chance.sample(answers, len(answers))
    one, two = (vote(TEXT, decoded(*some), CLUENER) for some in (answers, other))
    assert (one.entities, set(one.surfaces)) == (two.entities, set(two.surfaces))


@given(ANSWER, st.integers(1, 5))
def test_copies_of_one_answer_vote_for_just_that_with_certainty(answer, number):
    found = vote(TEXT, decoded(*[answer] * number), CLUENER, 1.0)
    (one,) = decoded(answer)
    assert found.entities == tuple(replace(entity, score=1.0) for entity in one.entities)
    assert found.surfaces == one.surfaces


def test_answers_without_json_and_empty_ones_are_answers_without_entities():
    found = vote(TEXT, decoded('{"company":["三星"]}', '{"company":["三星"]}', "{}", "三星"), CLUENER)
    assert pairs(found) == {("company", "三星"): 0.5}
    assert [problem.kind for problem in found.problems] == ["not_json"]
    assert pairs(vote(TEXT, decoded('{"company":["三星"]}', "{}", "三星"), CLUENER)) == {}


def test_offsets_are_those_of_what_the_vote_kept():
    """北京大学, which one answer wrote, takes no place from 北京."""
    found = vote(
        TEXT, decoded('{"address":["北京"]}', '{"address":["北京"]}', '{"organization":["北京大学"]}'), CLUENER
    )
    assert [entity.span for entity in found.entities] == [(3, 5), (7, 9)]
    assert found.entities == tuple(replace(e, score=2 / 3) for e in decoded('{"address":["北京"]}')[0].entities)


def test_what_is_not_in_the_text_has_a_vote_like_the_rest():
    kept, dropped = ('{"company":["苹果"],"水果":["三星"]}',) * 2, ("{}",) * 3
    assert vote(TEXT, decoded(*kept), CLUENER).ungrounded == (("company", "苹果"), ("水果", "三星"))
    left = vote(TEXT, decoded(*kept, *dropped), CLUENER)
    assert (left.surfaces, len(left.problems)) == ((), 4)


@pytest.mark.parametrize(
    ("given", "place", "remedy"),
    [
        ((0, 1.0, 1.0), "samples", "1 or more"),
        ((1, -0.1, 1.0), "temperature", "greedy"),
        ((1, math.nan, 1.0), "temperature", "greedy"),
        ((1, math.inf, 1.0), "temperature", "greedy"),
        ((1, 1.0, 0.0), "top_p", "up to 1"),
        ((1, 1.0, 1.1), "top_p", "up to 1"),
        ((1, 1.0, math.nan), "top_p", "up to 1"),
        ((5, 0.0, 1.0), "samples", "temperature above 0"),
        ((1, 0.0, 0.9), "top_p", "temperature above 0"),
    ],
)
def test_values_without_a_meaning_are_refused(given, place, remedy):
    with pytest.raises(NerError) as caught:
        Sampling(*given)
    assert caught.value.place == place
    assert str(caught.value.value) == str(given[("samples", "temperature", "top_p").index(place)])
    assert remedy in caught.value.remedy
    Sampling(1, 0.0, 1.0), Sampling(5, 0.7, 0.9)


def test_draws_depend_on_the_text_and_the_number_of_the_answer():
    five = [Sampling(5, 1.0).draws(text) for text in (*TEXTS, "\ud800")]
    assert len({draw.seed for own in five for draw in own}) == 5 * 9
    assert Sampling(3, 1.0).draws(TEXTS[0]) == five[0][:3]


@pytest.fixture(scope="module")
def extractor(trained):
    return Extractor.from_pretrained(trained["full"])


@pytest.mark.parametrize("constrained", [True, False])
def test_drawn_answers_are_the_same_in_any_order_and_batch(extractor, constrained):
    options = {**HOT, "constrained": constrained, "min_score": 0.0}
    found = extractor.predict(TEXTS, **options)
    assert extractor.predict(TEXTS[::-1], batch_tokens=200, **options) == found[::-1]
    assert [extractor.predict([text], **options)[0] for text in TEXTS[:3]] == found[:3]
    scores = {e.score for one in found for e in one.entities}
    assert scores <= {0.2, 0.4, 0.6, 0.8, 1.0}
    assert len(scores) > 1, "too cold to test anything"
    if constrained:
        assert {one.problems for one in found} == {()}
    majority = extractor.predict(TEXTS, **{**options, "min_score": None})
    assert [set(one.surfaces) for one in majority] == [{p for p, s in pairs(all_of).items() if s >= 0.5} | (
        {p for p in one.ungrounded}) for one, all_of in zip(majority, found, strict=True)]  # fmt: skip
    assert {e.score for one in majority for e in one.entities} == {s for s in scores if s >= 0.5}


@pytest.mark.parametrize("constrained", [True, False])
def test_cold_answers_are_the_greedy_one_with_certainty(extractor, constrained):
    greedy = extractor.predict(TEXTS, constrained=constrained)
    cold = extractor.predict(TEXTS, constrained=constrained, samples=3, temperature=1e-6)
    assert any(one.entities for one in greedy)
    for one, other in zip(cold, greedy, strict=True):
        assert one.entities == tuple(replace(entity, score=1.0) for entity in other.entities)
    single = extractor.predict(TEXTS, constrained=constrained, temperature=1e-6)
    for one, other in zip(single, greedy, strict=True):
        assert one.scored({}) == other.scored({})
        assert [e.score for e in one.entities] == pytest.approx([e.score for e in other.entities], rel=1e-3)


def test_a_text_of_several_windows_is_voted_on_window_by_window(extractor):
    windowed = Extractor(extractor.backend, extractor.tokenizer, replace(extractor.config, window=12))
    text = "。".join(TEXTS[:3]) + "。"
    assert len(windowed.windows(text)) > 2
    (found,) = windowed.predict([text], **HOT)
    assert all(text[e.start : e.end] == e.text and e.score in (0.6, 0.8, 1.0) for e in found.entities)
    assert found.entities
    assert windowed.predict(["  "], **HOT) == [Decoded()]


def test_thresholds_of_greedy_answers_are_refused_for_drawn_ones(extractor):
    with pytest.raises(NerError) as caught:
        extractor.extract(TEXTS, temperature=0.7, thresholds="auto")
    assert (caught.value.place, caught.value.value) == ("thresholds", "auto")
    assert "min_score" in caught.value.remedy


def test_hot_answers_under_the_grammar_always_parse(extractor):
    """Those that are cut short too."""
    short = Extractor(extractor.backend, extractor.tokenizer, replace(extractor.config, max_new_tokens=9))
    for found in short.predict(TEXTS, samples=4, temperature=5.0, min_score=0.0):
        assert found.problems == ()


@pytest.mark.parametrize(
    ("given", "value", "remedy"),
    [
        ({"beams": 0}, 0, "1 or more"),
        ({"beams": 4, "temperature": 0.7}, 4, "samples"),
        ({"beams": 4, "top_p": 0.9}, 4, "top_p"),
        ({"beams": 4, "samples": 3}, 4, "leave samples"),
        ({"beams": 4, "constrained": False}, 4, "constrained"),
    ],
)
def test_beams_that_make_no_sense_are_refused(extractor, given, value, remedy):
    with pytest.raises(NerError) as caught:
        extractor.extract(TEXTS, **given)
    assert (caught.value.place, caught.value.value) == ("beams", value)
    assert remedy in caught.value.remedy


def test_calibrated_thresholds_and_a_server_are_refused_for_beams(extractor):
    with pytest.raises(NerError) as caught:
        extractor.extract(TEXTS, beams=2, thresholds="auto")
    assert (caught.value.place, caught.value.value) == ("thresholds", "auto")
    assert "beams" in caught.value.remedy
    with pytest.raises(NerError) as caught:
        extractor.serve(lambda tokens: [], sampling=Sampling(beams=2))
    assert (caught.value.place, caught.value.value) == ("beams", 2)


def test_an_engine_that_does_not_search_says_so(extractor):
    class Other(Backend):
        max_length = 512

        def complete(self, prompts, limit, constraints=None, **options):
            raise AssertionError

    with pytest.raises(NerError) as caught:
        Extractor(Other(), extractor.tokenizer, extractor.config).extract(TEXTS, beams=2)
    assert (caught.value.place, caught.value.value) == ("beams", 2)
    assert "torch" in caught.value.remedy


def test_one_beam_is_the_greedy_answer_with_its_scores(extractor):
    assert extractor.predict(TEXTS, beams=1) == extractor.predict(TEXTS)


def test_a_score_of_beams_is_the_summed_probability_of_those_that_have_the_surface(extractor):
    found = extractor.predict(TEXTS, beams=6, min_score=0.0)
    limit = extractor.config.max_new_tokens
    guides = [extractor.grammar.constraint(text, limit) for text in TEXTS]
    searched = extractor.backend.search(prompt_ids(extractor.tokenizer, extractor.codec, TEXTS), limit, guides, 6)
    below = 0
    for text, one, greedy, beams in zip(TEXTS, found, extractor.predict(TEXTS), searched, strict=True):
        expected = Counter()
        for completion, _ in beams:
            decoded = extractor.codec.decode(text, extractor.tokenizer.decode(completion.ids))
            expected.update(dict.fromkeys(decoded.surfaces, math.exp(sum(completion.logprobs))))
        assert set(one.surfaces) == set(expected)
        assert all(score == pytest.approx(expected[pair]) and 0 <= score <= 1 for pair, score in pairs(one).items())
        assert set(greedy.surfaces) <= set(one.surfaces)
        assert one.problems == ()
        below += len(set(one.surfaces) - set(greedy.surfaces))
    assert below, "what the model almost wrote comes too"


def test_beams_are_the_same_in_any_batch_and_half_the_probability_is_asked_by_default(extractor):
    every = extractor.predict(TEXTS, beams=4, min_score=0.0)
    apart = [extractor.predict([text], beams=4, min_score=0.0)[0] for text in TEXTS]
    for one, other in zip(every, apart, strict=True):
        assert pairs(one) == pytest.approx(pairs(other), abs=1e-4)
    kept = [{pair for pair, score in pairs(one).items() if score >= 0.5} for one in every]
    assert [set(pairs(one)) for one in extractor.predict(TEXTS, beams=4)] == kept
    assert any(kept)


def test_beams_of_texts_in_which_nothing_can_be_found(extractor):
    assert extractor.predict(["", "  "], beams=4) == [Decoded()] * 2
    assert extractor.predict(["。"], beams=4, min_score=0.999) == [Decoded()]
