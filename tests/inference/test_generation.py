import pytest
import torch
from rows import EIGHT
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.inference.generation import (
    PrefixCache,
    _batches,
    generate,
    neutral_generation_config,
    pad_left,
    shared_prefix,
    until_end,
)
from qwen_ner.training.trainer import load_model


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


def test_batches_hold_the_budget_longest_first():
    assert list(_batches([3, 9, 5, 4, 2], 10)) == [[1], [2, 3], [0, 4]]
    assert list(_batches([30, 1], 10)) == [[0], [1]]


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
    generated = run(model, prompts)
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
