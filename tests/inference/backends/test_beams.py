import logging
import math
from typing import NamedTuple

import pytest
import torch
from rows import EIGHT
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.inference.backends.beams import BeamSearch
from qwen_ner.inference.backends.torch import TorchBackend
from qwen_ner.inference.constraints.grammar import Grammar

LIMIT = 40


class OneOf:
    """Allows these answers alone, none of which begins another."""

    def __init__(self, answers):
        self.answers, self.taken = answers, ()

    @property
    def closed(self):
        return self.taken in self.answers

    def allowed(self):
        at = len(self.taken)
        return sorted({answer[at] for answer in self.answers if answer[:at] == self.taken and len(answer) > at})

    def allows(self, token):
        return token in self.allowed()

    def advance(self, token):
        assert self.allows(token)
        self.taken += (token,)


ANSWERS = [(5, 6, 7), (5, 6, 8), (5, 9), (11, 6, 7, 8), (11, 6, 7, 9), (11, 12), (13,), (14, 5, 5), (14, 6, 6)]


@pytest.fixture(scope="module")
def model(trained):
    return AutoModelForCausalLM.from_pretrained(trained["full"]).eval()


@pytest.fixture(scope="module")
def prompts(tokenizer, codec):
    return prompt_ids(tokenizer, codec, [gold.text for gold in EIGHT])


@pytest.fixture(scope="module")
def grammar(tokenizer):
    return Grammar(CLUENER.names, tokenizer, (2, 0))


@pytest.fixture
def guides(grammar):
    return [grammar.constraint(gold.text, LIMIT) for gold in EIGHT]


def search(model, prompts, guides, beams, **options):
    """The answers to each prompt: ids, log-probabilities, their sum, whether it is finished, and the guide."""
    found = TorchBackend(model, (2, 0), 0).search(prompts, LIMIT, guides, beams, **options)
    return [
        [Found(one.ids, one.logprobs, sum(one.logprobs), one.finished, guide) for one, guide in own] for own in found
    ]


class Found(NamedTuple):
    ids: tuple
    logprobs: tuple
    total: float
    finished: bool
    guide: object


def log_probabilities(model, prompt, ids):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()


def test_one_beam_is_greedy_decoding(model, prompts, guides, grammar):
    found = search(model, prompts, guides, 1)
    own = [grammar.constraint(gold.text, LIMIT) for gold in EIGHT]
    greedy = TorchBackend(model, (2, 0), 0).complete(prompts, LIMIT, own)
    for (beam,), one, guide in zip(found, greedy, own, strict=True):
        assert (list(beam.ids), beam.finished) == (one.ids, one.finished)
        assert beam.logprobs == pytest.approx(one.logprobs, abs=1e-4)
        assert beam.guide.forced_surfaces == guide.forced_surfaces
    assert any(len(one.ids) > 2 for one in greedy)


@pytest.mark.parametrize("beams", [2, 8])
def test_beams_are_greedys_answer_and_others_with_the_models_own_probabilities(model, prompts, guides, grammar, beams):
    greedy = [own[0] for own in search(model, prompts, guides, 1)]
    for gold, prompt, first, own in zip(EIGHT, prompts, greedy, search(model, prompts, guides, beams), strict=True):
        assert own[0].ids == first.ids
        assert [beam.total for beam in own[1:]] == sorted((beam.total for beam in own[1:]), reverse=True)
        assert sum(math.exp(beam.total) for beam in own) <= 1 + 1e-5
        assert len({beam.ids for beam in own}) == len(own) == beams
        for beam in own:
            assert beam.logprobs == pytest.approx(log_probabilities(model, prompt, beam.ids), abs=1e-4)
            again = grammar.constraint(gold.text, LIMIT)
            for token in beam.ids:
                again.advance(token)
            assert again.closed, "under the grammar an answer ends before the limit"
            assert beam.finished


def test_guides_given_stay_at_the_beginning(model, prompts, guides):
    search(model, prompts, guides, 3)
    assert {guide.remaining for guide in guides} == {LIMIT}


def test_a_search_as_wide_as_there_are_answers_finds_all(model, prompts):
    for prompt in prompts[:3]:
        (found,) = search(model, [prompt], [OneOf(ANSWERS)], len(ANSWERS) + 2)
        expected = {ids: sum(log_probabilities(model, prompt, ids)) for ids in ANSWERS}
        assert {beam.ids: beam.total for beam in found} == pytest.approx(expected, abs=1e-4)
        assert [beam.ids for beam in found[1:]] == sorted(set(ANSWERS) - {found[0].ids}, key=lambda i: -expected[i])


@pytest.mark.parametrize("beams", [2, 3, 4])
def test_a_narrow_search_keeps_the_likeliest_beginnings(model, prompts, beams):
    """From its definition: all answers' beginnings, a step longer each time, the likeliest of which go on."""
    for prompt in prompts[:4]:
        total = {
            ids[:end]: sum(log_probabilities(model, prompt, ids[:end]))
            for ids in ANSWERS
            for end in range(1, len(ids) + 1)
        }
        kept, greedy = {()}, ()
        for length in range(1, 5):
            longer = {ids for ids in total if ids[:-1] in kept and len(ids) == length} | (kept & set(ANSWERS))
            greedy = greedy if greedy in ANSWERS else max(
                (ids for ids in longer if ids[:-1] == greedy and len(ids) == length), key=total.get
            )  # fmt: skip
            kept = {greedy, *sorted(longer - {greedy}, key=lambda ids: -total[ids])[: beams - 1]}
        (found,) = search(model, [prompt], [OneOf(ANSWERS)], beams)
        assert {beam.ids for beam in found} == kept
        assert found[0].ids == greedy


@pytest.mark.parametrize("batch_tokens", [1, 2000])
def test_a_batch_changes_nothing(model, prompts, guides, batch_tokens):
    done = []
    together = search(model, prompts, guides, 4)
    apart = search(model, prompts, guides, 4, batch_tokens=batch_tokens, on_rows=done.append)
    assert sum(done) == len(prompts)
    assert len(done) > 1
    for one, other in zip(together, apart, strict=True):
        assert [beam.ids for beam in one] == [beam.ids for beam in other]
        assert [beam.total for beam in one] == pytest.approx([beam.total for beam in other], abs=1e-4)
    assert search(model, [], [], 4) == []


def test_layers_that_forget_tokens_have_the_same_beams(tokenizer, prompts):
    """Their cache can be neither cropped nor shared."""
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "use_sliding_window": True, "sliding_window": 8}
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**small, **more, layer_types=["sliding_attention"] * 2)).eval()
    answers = [(5, 6, 7), (5, 9), (11, 6, 7, 8), (13,)]
    for own, prompt in zip(search(model, prompts, [OneOf(answers)] * len(prompts), 4), prompts, strict=True):
        expected = {ids: sum(log_probabilities(model, prompt, ids)) for ids in answers}
        assert {beam.ids: beam.total for beam in own} == pytest.approx(expected, abs=1e-4)


def test_prompts_that_do_not_fit_into_memory_together_are_searched_apart(model, prompts, guides, monkeypatch, caplog):
    whole, write = search(model, prompts, guides, 3), BeamSearch.write

    def short(self, some, *given):
        if len(some) > most:
            raise torch.OutOfMemoryError("out of memory")
        return write(self, some, *given)

    monkeypatch.setattr(BeamSearch, "write", short)
    most = 3
    with caplog.at_level(logging.WARNING):
        assert [[b.ids for b in own] for own in search(model, prompts, guides, 3)] == [
            [b.ids for b in own] for own in whole
        ]
    assert "8 prompts" in caplog.text
    most = 0
    with pytest.raises(NerError) as caught:
        search(model, prompts, guides, 3)
    assert (caught.value.place, caught.value.value) == ("beams", 3)


def test_logits_that_are_not_finite_are_refused(tiny, prompts, guides):
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    torch.nn.init.constant_(model.model.norm.weight, math.nan)
    with pytest.raises(NerError) as caught:
        search(model, prompts, guides, 2)
    assert "checkpoint" in caught.value.remedy
