import pytest
import torch
from rows import EIGHT
from transformers import AutoModelForCausalLM, GenerationConfig

from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.inference.generation import generate, pad_left, until_end


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


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_it_is_greedy_decoding_in_the_order_of_the_prompts(model, prompts, batch_size):
    generated = run(model, prompts, batch_size=batch_size)
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
