import math

import pytest
import torch
from rows import EIGHT
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.inference.backends.prefix_cache import PrefixCache, shared_prefix
from qwen_ner.inference.backends.torch import (
    generate,
    neutral_generation_config,
    pad_left,
    until_end,
)
from qwen_ner.inference.constraints.grammar import Grammar
from qwen_ner.training.model import load_model


@pytest.fixture(scope="module")
def model(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny).eval()


@pytest.fixture(scope="module")
def prompts(tokenizer, codec):
    return prompt_ids(tokenizer, codec, [gold.text for gold in EIGHT])


def run(model, prompts, **options):
    return generate(model, prompts, **{"max_new_tokens": 12, "end_token_ids": (2, 0), "pad_token_id": 0, **options})


def one_by_one(model, prompt, steps):
    """Greedy decoding from its definition: the whole text through the model for every token."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_it_is_greedy_decoding_in_the_order_of_the_prompts(model, prompts, batch_tokens):
    generated = run(model, prompts, batch_tokens=batch_tokens)
    for prompt, ids in zip(prompts, generated.ids, strict=True):
        assert ids == until_end(one_by_one(model, prompt, 12), {2, 0})[0]


def test_rows_that_finish_at_different_steps_leave_the_others_as_they_were(model, prompts):
    """End tokens chosen so that rows end early, late and never."""
    free = run(model, prompts, max_new_tokens=20)
    ends = (free.ids[0][1], free.ids[3][6])
    ended = run(model, prompts, max_new_tokens=20, end_token_ids=ends)
    expected = [until_end(ids, set(ends)) for ids in free.ids]
    assert list(zip(ended.ids, ended.finished, strict=True)) == expected
    assert len({len(ids) for ids in ended.ids}) > 2
    for ids, finished, logprobs, all_logprobs in zip(
        ended.ids, ended.finished, ended.logprobs, free.logprobs, strict=True
    ):
        assert len(logprobs) == len(ids) + finished
        assert logprobs == pytest.approx(all_logprobs[: len(logprobs)], abs=1e-5)


def test_log_probabilities_are_those_of_one_pass_over_the_whole(model, prompts):
    generated = run(model, prompts)
    for prompt, ids, logprobs in zip(prompts, generated.ids, generated.logprobs, strict=True):
        whole = torch.tensor([[*prompt, *ids]])
        with torch.no_grad():
            expected = model(input_ids=whole).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found = torch.tensor(logprobs[: len(ids)])
        assert torch.allclose(found, expected.gather(1, torch.tensor(ids)[:, None])[:, 0], atol=1e-5)


def test_it_gives_the_ids_of_transformers_generate(model, prompts):
    config = neutral_generation_config((2, 0), 0, 12)
    batch = pad_left(prompts, 0)
    out = model.generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :]
    assert run(model, prompts).ids == [until_end(ids, {2, 0})[0] for ids in out.tolist()]


def test_a_kept_prefix_changes_nothing_and_is_computed_once(model, prompts):
    prefix = PrefixCache()
    apart = [run(model, [prompt]) for prompt in prompts]
    kept = [run(model, [prompt], prefix=prefix) for prompt in prompts]
    assert [one.ids for one in kept] == [one.ids for one in apart]
    assert prefix.ids == shared_prefix(prompts)
    cache = prefix.cache
    assert run(model, prompts, prefix=prefix).ids == [one.ids[0] for one in apart]
    assert prefix.cache is cache
    other = [[9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 3]]
    assert run(model, other, prefix=prefix).ids == run(model, other).ids
    assert prefix.ids == [9, 8, 7, 6, 5]


class Scripted:
    """Forecasts what it is given, right or wrong, and allows everything."""

    closed = False

    def __init__(self, forecasts):
        self.forecasts, self.taken = forecasts, 0

    def forecast(self, limit):
        return self.forecasts(self.taken)[:limit]

    def advance(self, token):
        self.taken += 1


@pytest.mark.parametrize("right", [0, 1, 3, 9])
def test_drafts_change_nothing_but_the_number_of_passes(model, prompts, right, monkeypatch):
    """Of each draft the first `right` tokens are those that the model writes, the others are not."""
    plain = run(model, prompts)
    rows = list(range(len(prompts)))

    def script(row):
        ids = plain.ids[row]
        return Scripted(
            lambda taken: [*ids[taken : taken + right], *[(token + 1) % 100 + 10 for token in ids[taken + right :]]]
        )

    passes = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **inputs: passes.append(1) or forward(*args, **inputs))
    drafted = run(model, prompts, drafts=[script(row) for row in rows])
    assert drafted.ids == plain.ids
    assert drafted.finished == plain.finished
    for one, other in zip(drafted.logprobs, plain.logprobs, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    # The prefix, the rest of the prompts with the first token, then as many tokens a pass as the draft was right and one.
    assert len(passes) == 2 + math.ceil(11 / (1 + min(right, 6)))
    with monkeypatch.context() as few:
        few.setattr("qwen_ner.inference.backends.torch.DRAFT_ROWS", 3)  # drafts begin when others have left
        ends = (plain.ids[0][1], plain.ids[3][6])
        short = run(model, prompts, end_token_ids=ends, drafts=[script(row) for row in rows])
        assert short.ids == run(model, prompts, end_token_ids=ends).ids


def test_a_grammar_binds_and_forecasts_and_the_end_is_not_asked_for(model, prompts, tokenizer, codec):
    grammar = Grammar(CLUENER.names, tokenizer, (2, 0))
    texts = [gold.text for gold in EIGHT]
    constraints = [grammar.constraint(text, 24) for text in texts]
    bound = run(model, prompts, max_new_tokens=24, constraints=constraints)
    assert all(bound.finished)
    for text, ids, logprobs in zip(texts, bound.ids, bound.logprobs, strict=True):
        assert codec.decode(text, tokenizer.decode(ids)).problems == ()
        assert len(logprobs) == len(ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qwen_ner.inference.backends.torch.DRAFT_ROWS", 0)
        again = run(model, prompts, max_new_tokens=24, constraints=[grammar.constraint(text, 24) for text in texts])
    assert again.ids == bound.ids
    # Forecasts of the grammar do not bind: what the model writes by itself is the same.
    free = run(model, prompts, max_new_tokens=24)
    guided = run(model, prompts, max_new_tokens=24, drafts=[grammar.constraint(text, 24) for text in texts])
    assert guided.ids == free.ids


def test_a_hot_random_model_writes_valid_answers(model, prompts, tokenizer, codec):
    """Temperature 1.5, and texts of quotes, backslashes, braces, emoji, one character."""
    grammar = Grammar(CLUENER.names, tokenizer, (2, 0))
    texts = ['他说"好"', "a\\b\\", "{}[]:,", "😀👨‍👩‍👧", "一", '"', "\\", "x\ufffdy", "é\u0301e", "\x00\x1f\n\t"]
    torch.manual_seed(0)
    for limit in (3, 9, 40):
        hot = run(
            model,
            prompt_ids(tokenizer, codec, texts),
            max_new_tokens=limit,
            temperature=1.5,
            constraints=[grammar.constraint(text, limit) for text in texts],
        )
        assert all(hot.finished)
        for text, ids in zip(texts, hot.ids, strict=True):
            decoded = codec.decode(text, tokenizer.decode(ids))
            assert decoded.problems == ()
            assert decoded.ungrounded == ()
    assert run(model, prompts, temperature=1.5).ids != run(model, prompts, temperature=1.5).ids


@pytest.mark.parametrize(
    ("lengths", "budget", "rows"), [([3, 9, 5, 4, 2], 41, [1, 2, 2]), ([30, 1], 41, [1, 1]), ([5] * 7, 51, [3, 3, 1])]
)
def test_batches_hold_the_budget_longest_first(model, lengths, budget, rows):
    """Of the lengths, an answer has 12 more; a prompt longer than the budget goes alone."""
    seen = []
    run(model, [[9, *range(3, 2 + length)] for length in lengths], batch_tokens=budget, on_rows=seen.append)
    assert seen == rows


@pytest.mark.parametrize("passes_before", [0, 5])
def test_a_batch_that_runs_out_of_memory_is_halved_and_that_is_said_once(
    model, prompts, tokenizer, monkeypatch, caplog, passes_before
):
    """Out of memory at once, and amid the writing, when constraints have already gone on."""
    grammar = Grammar(CLUENER.names, tokenizer, (2, 0))
    texts = [gold.text for gold in EIGHT]
    options = {"max_new_tokens": 24, "end_token_ids": (2,)}

    def constraints():
        return [grammar.constraint(text, 24) for text in texts]

    plain = run(model, prompts, constraints=constraints(), **options)
    forward, passes = model.forward, []

    def short_of_memory(*args, **inputs):
        passes.append(len(inputs["input_ids"]))
        if len(passes) > passes_before + 1 and passes[-1] > 3:  # the first pass is the prefix's
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(*args, **inputs)

    monkeypatch.setattr(model, "forward", short_of_memory)
    rows = []
    again = run(model, [*prompts, *prompts], constraints=constraints() * 2, on_rows=rows.append, **options)
    assert again.ids == plain.ids * 2
    assert again.finished == plain.finished * 2
    assert sum(rows) == 16
    assert max(rows) <= 4
    assert again.batch_tokens < 16_384
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == len(set(warned)) <= 3  # 16 rows, 8, 4: each size once

    monkeypatch.setattr(
        model, "forward", lambda *a, **i: (_ for _ in ()).throw(torch.OutOfMemoryError(" out of memory."))
    )
    kept = PrefixCache()
    with pytest.raises(torch.OutOfMemoryError):
        run(model, prompts, prefix=kept)
    monkeypatch.setattr(model, "forward", forward)
    kept.common(model, prompts)
    monkeypatch.setattr(
        model, "forward", lambda *a, **i: (_ for _ in ()).throw(torch.OutOfMemoryError(" out of memory."))
    )
    with pytest.raises(NerError, match=r"tokens and its answer of up to 12 do not fit into the memory; use a smaller"):
        run(model, prompts, prefix=kept)


def test_another_fault_of_the_model_is_no_lack_of_memory(model, prompts, monkeypatch):
    monkeypatch.setattr(model, "forward", lambda *a, **i: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(model, prompts)


@pytest.mark.parametrize("kind", ["window", "adapter"])
def test_other_models_generate_the_same_way(tiny, prompts, kind):
    """Sliding windows share no prefix; an adapter is used as it stands, unmerged."""
    torch.manual_seed(0)
    if kind == "window":
        config = Qwen2Config.from_pretrained(tiny, use_sliding_window=True, sliding_window=16, max_window_layers=1)
        model = Qwen2ForCausalLM(config).eval()
    else:
        model = load_model(str(tiny), lora={"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}).eval()
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    wrong = [Scripted(lambda taken: [5, 6, 7]) for _ in prompts]
    for generated in (run(model, prompts), run(model, prompts, drafts=wrong)):
        for prompt, ids in zip(prompts, generated.ids, strict=True):
            assert ids == until_end(one_by_one(model, prompt, 12), {2, 0})[0]


def test_the_generation_config_that_a_model_ships_changes_nothing(model, prompts):
    plain = run(model, prompts)
    shipped = GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.5, no_repeat_ngram_size=2,
        eos_token_id=[7], suppress_tokens=plain.ids[0][:1], min_new_tokens=5, max_length=3,
    )  # fmt: skip
    before, model.generation_config = model.generation_config, shipped
    try:
        assert run(model, prompts) == plain
        assert model.generation_config is shipped
    finally:
        model.generation_config = before


def test_an_end_token_ends_and_its_absence_is_seen(model, prompts):
    free = run(model, prompts[:1])
    assert free.finished == [False]
    assert len(free.ids[0]) == 12
    third = free.ids[0][2]
    ended = run(model, prompts[:1], end_token_ids=(third,))
    assert ended.finished == [True]
    assert ended.ids[0] == free.ids[0][: free.ids[0].index(third)]


def test_nothing_to_do_gives_nothing(model):
    assert run(model, []).ids == []


def test_padding_is_on_the_left():
    batch = pad_left([[5, 6, 7], [8]], 0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
