"""Prefix sharing computes what the rows one by one compute."""

import logging

import pytest
import torch
from rows import EIGHT
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from qwen_ner.codec import Codec
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.inference.generation import shared_prefix
from qwen_ner.training.collate import (
    IGNORED,
    PaddedCollator,
    PrefixSharedCollator,
    block_mask,
    choose_collator,
    not_shareable,
)
from qwen_ner.training.trainer import load_model

ONE_PACK, SOME_PACKS, MANY_PACKS = 1e9, 30.0, 0.0


@pytest.fixture(scope="module")
def rows(tokenizer):
    return build_dataset(EIGHT, Codec(CLUENER), tokenizer).to_list()


def sharing(break_even_keys=ONE_PACK, **options):
    return PrefixSharedCollator(0, break_even_keys, **options)


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


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "lora", [None, {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}], ids=["full", "lora"]
)
@pytest.mark.parametrize("keys", [ONE_PACK, SOME_PACKS, MANY_PACKS], ids=["one pack", "some packs", "many packs"])
def test_loss_and_every_gradient_are_those_of_the_rows_one_by_one(tiny, rows, attention, lora, keys):
    model = load_model(str(tiny), attn_implementation=attention, lora=lora).eval()
    collate = sharing(keys, attention=attention)
    packs = collate(rows)["input_ids"].shape[0]
    assert (packs == 1) if keys == ONE_PACK else (1 < packs <= 8)
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
    model = AutoModelForCausalLM.from_pretrained(tiny).double().eval()
    picked = pick(rows)
    assert_equal_to_row_by_row(model, [(sharing(), picked)], picked)


def test_a_batch_is_its_parts_accumulated(tiny, rows):
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    assert_equal_to_row_by_row(model, [(sharing(), rows[i : i + 3]) for i in (0, 3, 6)], rows)


def test_activation_checkpointing_changes_nothing(tiny, rows):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.gradient_checkpointing_enable()
    model.train()
    assert_equal_to_row_by_row(model, [(sharing(), rows)], rows)


def test_bfloat16_autocast_takes_the_mask(tiny, rows):
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    whole = model(**sharing()(rows)).loss.item()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(**sharing()(rows)).loss.item()
    assert half == pytest.approx(whole, rel=2e-2)


def test_no_row_sees_another(tiny, rows):
    """Another text in one row, of the same length: no logit of the other rows moves by a bit."""
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    prefix = len(shared_prefix([row["prompt_ids"] for row in rows]))
    changed = [dict(row) for row in rows]
    prompt = list(changed[3]["prompt_ids"])
    prompt[prefix + 1 : -6] = [token + 1 for token in prompt[prefix + 1 : -6]]
    changed[3]["prompt_ids"] = prompt
    logits = []
    for batch in (sharing()(rows), sharing()(changed)):
        with torch.no_grad():
            logits.append(
                model(
                    input_ids=batch["input_ids"],
                    position_ids=batch["position_ids"],
                    attention_mask=batch["attention_mask"],
                ).logits[0]
            )
    moved = (logits[0] != logits[1]).any(-1)
    segment = sharing().packs(prefix, [len(row["prompt_ids"]) - prefix + len(row["answer_ids"]) for row in rows])[0]
    at = prefix
    for i in segment:
        end = at + len(rows[i]["prompt_ids"]) - prefix + len(rows[i]["answer_ids"])
        assert bool(moved[at:end].any()) is (i == 3)
        at = end
    assert not moved[:prefix].any()


def test_the_tensors_of_two_packs():
    rows = [
        {"prompt_ids": [1, 2, 3], "answer_ids": [4, 9]},
        {"prompt_ids": [1, 2, 5], "answer_ids": [9]},
        {"prompt_ids": [1, 2, 6], "answer_ids": [7, 8, 9]},
    ]
    batch = sharing(break_even_keys=6.0)(rows)  # n = 2/3 · sqrt(1 + 6/2) = 1.33, so three packs
    assert batch["input_ids"].shape == (3, 6)
    batch = sharing(break_even_keys=12.0)(rows)  # n = 2/3 · sqrt(1 + 12/2) = 1.76, so two packs
    assert batch["input_ids"].tolist() == [[1, 2, 6, 7, 8, 9, 0], [1, 2, 3, 4, 9, 5, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0], [0, 1, 2, 3, 4, 2, 3]]
    assert batch["labels"].tolist() == [
        [IGNORED, IGNORED, IGNORED, 7, 8, 9, IGNORED],
        [IGNORED, IGNORED, IGNORED, 4, 9, IGNORED, 9],
    ]
    assert batch["shift_labels"].tolist() == [7, 8, 9, 4, 9, 9]
    assert batch["attention_mask"].shape == (2, 1, 7, 7)
    additive = sharing(break_even_keys=12.0, attention="eager")(rows)["attention_mask"]
    assert torch.equal(additive == 0, batch["attention_mask"])


def test_the_block_mask_is_the_dense_mask(rows):
    from torch.nn.attention.flex_attention import create_mask

    for keys in (ONE_PACK, SOME_PACKS):
        dense = sharing(keys)(rows)["attention_mask"]
        segment = sharing(keys, attention="flex_attention")(rows)["segment"]
        packs, width = segment.shape
        made = create_mask(block_mask(segment).mask_mod, packs, 1, width, width, device="cpu")
        assert torch.equal(made, dense)


def test_flex_attention_gives_the_loss_of_sdpa(tiny, rows):
    """Forward only: torch has no backward pass of flex attention on the CPU."""
    batch = sharing()(rows)
    expected = AutoModelForCausalLM.from_pretrained(tiny).eval()(**batch).loss.item()
    model = AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="flex_attention").eval()
    collate = choose_collator(model, 0)
    batch = collate(rows)
    assert batch["input_ids"].shape[0] == 1
    mask = block_mask(batch.pop("segment"))
    with torch.no_grad():
        assert model(**batch, attention_mask=mask).loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_number_of_packs_makes_the_work_least():
    """Against every other number of packs, for work counted as the docstring counts it."""
    for prefix, own, keys in [(35, 47, 8300), (300, 47, 8300), (20, 40, 640), (35, 47, 300)]:
        lengths = [own] * 240

        def work(packs, prefix=prefix, own=own, keys=keys):
            tokens = [prefix + own * len(pack) for pack in packs]
            return sum(keys * t + t * t for t in tokens)

        chosen = sharing(keys).packs(prefix, lengths)
        others = [[list(range(240))[i::n] for i in range(n)] for n in range(1, 241)]
        assert work(chosen) <= 1.02 * min(map(work, others))


def test_where_it_applies(tiny, caplog):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert isinstance(choose_collator(model, 0), PrefixSharedCollator)
    for attention in ("eager", "flex_attention"):
        other = AutoModelForCausalLM.from_pretrained(tiny, attn_implementation=attention)
        assert choose_collator(other, 0).attention == attention
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
    assert caplog.text.count("Batches are padded, without prefix sharing: attn_implementation flash_attention_2") == 1
