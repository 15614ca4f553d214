"""Prefix sharing computes what the rows one by one compute."""

import copy
import logging

import pytest
import torch
from datasets import Dataset
from rows import EIGHT
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.inference.backends.prefix_cache import shared_prefix
from qwen_ner.training.batches import attention
from qwen_ner.training.batches.attention import PREFIX_SHARED
from qwen_ner.training.batches.collate import (
    PaddedCollator,
    PrefixSharedCollator,
    choose_collator,
    not_shareable,
)
from qwen_ner.training.batches.cpu import grouped_attention
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import NerTrainingArguments


@pytest.fixture(scope="module")
def rows(tokenizer):
    return build_dataset(EIGHT, Codec(CLUENER), tokenizer).to_list()


def load(folder, implementation="sdpa", lora=None):
    """(model, the collator that it gets), without dropout."""
    model = load_model(str(folder), attn_implementation=implementation, lora=lora).eval()
    return model, choose_collator(model, 0)


def loss_and_gradients(model, batches, tokens):
    """Of the mean over all supervised tokens, accumulated over `batches`."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = model(**batch, num_items_in_batch=tokens).loss
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_to_row_by_row(model, collators_and_rows, rows):
    tokens = sum(len(row["answer_ids"]) for row in rows)
    reference = loss_and_gradients(model, [PaddedCollator(0)([row]) for row in rows], tokens)
    found = loss_and_gradients(model, [collate(part) for collate, part in collators_and_rows], tokens)
    assert found[0] == pytest.approx(reference[0], rel=1e-5)
    assert found[1].keys() == reference[1].keys()
    for name, gradient in reference[1].items():
        difference = (found[1][name] - gradient).abs().max() / gradient.abs().max().clamp_min(1e-12)
        assert difference <= 1e-5, name


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "lora", [None, {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}], ids=["full", "lora"]
)
def test_loss_and_every_gradient_are_those_of_the_rows_one_by_one(tiny, rows, implementation, lora):
    model, collate = load(tiny, implementation, lora)
    assert isinstance(collate, PrefixSharedCollator)
    assert_equal_to_row_by_row(model, [(collate, rows)], rows)


def test_rows_whose_system_prompt_is_in_the_user_s_turn_share_it(tiny, tokenizer):
    """Gemma's template has no system turn; the prefix ends within the user's."""
    other = copy.deepcopy(tokenizer)
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    other.chat_template = refusal + tokenizer.chat_template
    codec = Codec(CLUENER)
    rows = build_dataset(EIGHT, codec, other).to_list()
    assert codec.system_prompt in other.decode(shared_prefix([row["prompt_ids"] for row in rows]))
    model, collate = load(tiny)
    assert_equal_to_row_by_row(model, [(collate, rows)], rows)


@pytest.mark.parametrize(
    "pick",
    [
        lambda rows: rows[:1],
        lambda rows: [rows[3]] * 4,
        lambda rows: [rows[2]] * 2,  # {} is the answer
        lambda rows: [{**row, "prompt_ids": [10 + i, *row["prompt_ids"][1:]]} for i, row in enumerate(rows)],
        lambda rows: [{**row, "prompt_ids": row["prompt_ids"][-1 - i :]} for i, row in enumerate(rows)],
    ],
    ids=["one row", "equal rows", "no entities", "nothing shared", "a prompt of one token"],
)
def test_the_odd_batches(tiny, rows, pick):
    # In double precision: of two or three answer tokens the gradient is small, and float32 rounds it by more than 1e-5.
    model, collate = load(tiny)
    picked = pick(rows)
    assert_equal_to_row_by_row(model.double(), [(collate, picked)], picked)


def test_a_batch_is_its_parts_accumulated(tiny, rows):
    model, collate = load(tiny)
    assert_equal_to_row_by_row(model, [(collate, rows[i : i + 3]) for i in (0, 3, 6)], rows)


def test_activation_checkpointing_changes_nothing(tiny, rows):
    model, collate = load(tiny)
    model.gradient_checkpointing_enable()
    model.train()
    assert_equal_to_row_by_row(model, [(collate, rows)], rows)


def test_bfloat16_is_as_exact_in_a_pack_as_in_the_rows_one_by_one(tiny, rows):
    def passed(batches, half):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return loss_and_gradients(model, batches, sum(len(row["answer_ids"]) for row in rows))

    def off(found):
        return sum(float((found[name] - gradient).pow(2).sum()) for name, gradient in wanted.items()) ** 0.5

    model, collate = load(tiny)
    alone = [PaddedCollator(0)([row]) for row in rows]
    whole, wanted = passed(alone, half=False)
    _, rounded = passed(alone, half=True)
    loss, gradients = passed([collate(rows)], half=True)
    assert loss == pytest.approx(whole, rel=1e-3)
    assert off(gradients) <= 1.2 * off(rounded)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_no_row_sees_another(tiny, rows, implementation):
    """Another text in one row, of the same length: no logit of the other rows moves by a bit."""
    model, collate = load(tiny, implementation)
    prefix = len(shared_prefix([row["prompt_ids"] for row in rows]))
    changed = [dict(row) for row in rows]
    prompt = list(changed[3]["prompt_ids"])
    prompt[prefix + 1 : -6] = [token + 1 for token in prompt[prefix + 1 : -6]]
    changed[3]["prompt_ids"] = prompt
    logits = []
    for batch in (collate(rows), collate(changed)):
        for supervised in ("labels", "logits_to_keep", "shift_labels"):
            del batch[supervised]
        with torch.no_grad():
            logits.append(model(**batch).logits[0])
    moved = (logits[0] != logits[1]).any(-1)
    at = prefix
    for i, row in enumerate(rows):
        end = at + len(row["prompt_ids"]) - prefix + len(row["answer_ids"])
        assert bool(moved[at:end].any()) is (i == 3)
        at = end
    assert at == len(moved)
    assert not moved[:prefix].any()


def test_the_attention_of_a_packed_row_leaves_other_batches_as_they_were(tiny, rows):
    """A model set to share prefixes generates and is evaluated with padded batches too."""
    model, _ = load(tiny)
    assert model.config._attn_implementation == PREFIX_SHARED
    batch = PaddedCollator(0)(rows)
    plain = AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="sdpa").eval()
    assert torch.equal(model(**batch).loss, plain(**batch).loss)
    assert "attn" not in (model.config.to_json_string())


def test_where_it_applies(tiny, caplog):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert isinstance(choose_collator(model, 0), PrefixSharedCollator)
    assert load(tiny, "eager")[1].attention == "eager"
    small = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    window = Qwen2ForCausalLM(Qwen2Config(**small, use_sliding_window=True, sliding_window=8, max_window_layers=1))
    assert "sliding_attention" in not_shareable(window)
    assert not_shareable(MistralForCausalLM(MistralConfig(**small, sliding_window=8)))
    model.config._attn_implementation = "flash_attention_2"
    with caplog.at_level(logging.INFO):
        assert isinstance(choose_collator(model, 0), PaddedCollator)
    assert caplog.text.count("attn_implementation flash_attention_2") == 1


@pytest.mark.parametrize(
    "lora", [None, {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}], ids=["full", "lora"]
)
def test_a_training_in_bfloat16_on_a_cpu_attends_by_products(tiny, rows, tokenizer, tmp_path, monkeypatch, lora):
    """Under autocast the rotary embedding leaves queries and keys in float32, and only values come in bfloat16."""
    taken = []

    def grouped(module, query, key, value, mask, **options):
        taken.append({query.dtype, key.dtype, value.dtype})
        return grouped_attention.grouped_attention(module, query, key, value, mask, **options)

    monkeypatch.setattr(attention, "grouped_attention", grouped)
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)
    model, collate = load(tiny, lora=lora)
    args = NerTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, bf16=True, max_steps=2, per_device_train_batch_size=8, save_strategy="no",
        eval_strategy="no", load_best_model_at_end=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    NerTrainer(
        model=model, args=args, ner_config=NerConfig(CLUENER, "找出实体", 8, (2, 0)), processing_class=tokenizer,
        data_collator=collate, train_dataset=Dataset.from_list(rows),
    ).train()  # fmt: skip
    assert taken == [{torch.bfloat16}] * 2 * model.config.num_hidden_layers
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}, "what a GPU does to layers is for GPUs"


def test_in_bfloat16_short_examples_attend_as_exactly_as_by_torchs_kernel(monkeypatch):
    torch.manual_seed(0)
    rows, heads, groups, own, prefix, size = 3, 6, 2, 11, 4, 16
    shapes = [(1, heads, prefix + rows * own, size), *[(1, groups, prefix + rows * own, size)] * 2]
    exact = [2 * torch.randn(shape) for shape in shapes]  # scores so large that it would show if they were rounded
    mask = torch.ones(own, prefix + own, dtype=torch.bool).tril(prefix)[None, None]
    places = prefix + torch.arange(rows * own).view(rows, own)
    module = torch.nn.Module()
    module.num_key_value_groups = heads // groups

    def attended(dtype, short):
        monkeypatch.setattr(grouped_attention, "SHORT", short)
        states = [state.detach().to(dtype, copy=True).requires_grad_() for state in exact]
        out, _ = attention.prefix_shared_attention(
            module, *states, mask, own=places, place=torch.arange(rows * own), scaling=size**-0.5
        )
        (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        return [out, *[state.grad for state in states]]

    reference, kernel, products = attended(torch.float32, 0), attended(torch.bfloat16, 0), attended(torch.bfloat16, 256)
    assert any(not torch.equal(a, b) for a, b in zip(kernel, products, strict=True))  # two ways were taken
    for want, blocked, found in zip(reference, kernel, products, strict=True):
        assert found.dtype == torch.bfloat16
        assert found.shape == want.shape
        off = (found.float() - want).norm() / want.norm()
        assert off <= 0.02
        assert off <= 1.2 * (blocked.float() - want).norm() / want.norm()
