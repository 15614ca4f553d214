"""One call of a kernel for sequences of any length computes what the rows one by one compute."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from gpu_kernels import attend_by_sequence
from rows import EIGHT
from training.batches.test_attention import loss_and_gradients
from transformers import AutoModelForCausalLM
from transformers.utils import is_flash_attn_2_available

from qwen_ner.codec import Codec
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.training.batches import attention, collate
from qwen_ner.training.batches.collate import PaddedCollator, PrefixSharedCollator, choose_collator
from qwen_ner.training.batches.gpu import varlen
from qwen_ner.training.model import load_model


@pytest.fixture(scope="module")
def rows(tokenizer):
    return build_dataset(EIGHT, Codec(CLUENER), tokenizer).to_list()


@pytest.fixture
def calls(monkeypatch):
    """Has the attention of packs use the kernel on a CPU, in any dtype; the length of its queries at each call."""
    lengths = []

    def kernel(query, *rest, scale):
        lengths.append(len(query))
        return attend_by_sequence(query, *rest, scale=scale)

    monkeypatch.setattr(attention, "runs_on", lambda query, dtype: True)
    monkeypatch.setattr(varlen, "kernel", lambda: kernel)
    return lengths


@pytest.mark.parametrize(
    "lora", [None, {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}], ids=["full", "lora"]
)
@pytest.mark.parametrize(
    "pick",
    [
        lambda rows: rows,
        lambda rows: rows[:1],
        lambda rows: [rows[3]] * 4,
        lambda rows: [{**row, "prompt_ids": [10 + i, *row["prompt_ids"][1:]]} for i, row in enumerate(rows)],
        lambda rows: [{**row, "prompt_ids": row["prompt_ids"][-1 - i :]} for i, row in enumerate(rows)],
    ],
    ids=["eight rows", "one row", "equal rows", "nothing shared", "a prompt of one token"],
)
def test_loss_and_every_gradient_are_those_of_the_rows_one_by_one(tiny, rows, calls, lora, pick):
    rows, model = pick(rows), load_model(str(tiny), lora=lora).double().eval()
    pack = replace(choose_collator(model, 0), varlen=True)(rows)
    tokens = sum(len(row["answer_ids"]) for row in rows)
    wanted = loss_and_gradients(model, [PaddedCollator(0)([row]) for row in rows], tokens)
    assert not calls
    found = loss_and_gradients(model, [pack], tokens)
    assert calls == [pack["input_ids"].numel()] * model.config.num_hidden_layers, "a call a layer"
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        assert (found[1][name] - gradient).abs().max() <= 1e-6 * gradient.abs().max().clamp_min(1e-12), name


def test_gradients_of_gathered_states_are_those_of_index_select():
    layout = varlen.layout(3, [2, 4, 1])
    states = torch.randn(10, 2, 5, dtype=torch.double)
    upstream = torch.randn(len(layout["gather"]), 2, 5, dtype=torch.double)
    one, other = states.clone().requires_grad_(), states.clone().requires_grad_()
    (varlen.Gather.apply(one, layout["gather"], layout["scatter"], 3, 4) * upstream).sum().backward()
    (other.index_select(0, layout["gather"]) * upstream).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_a_dtype_or_an_attention_that_the_kernel_does_not_have_takes_the_other_path(tiny, rows, calls, monkeypatch):
    model = load_model(str(tiny)).train()
    pack = replace(choose_collator(model, 0), varlen=True)(rows)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    model(**pack)
    assert not calls, "the kernel has no dropout"
    monkeypatch.undo()
    monkeypatch.setattr(varlen, "has_kernel", lambda: True)
    assert not varlen.runs_on(torch.zeros(1, 2, 3, 64), torch.bfloat16), "not on a GPU"
    for size, dtype, runs in ((64, torch.bfloat16, True), (64, torch.float32, False), (20, torch.float16, False)):
        assert varlen.runs_on(SimpleNamespace(is_cuda=True, shape=(1, 2, 3, size)), dtype) is runs


def test_torchs_own_kernel_is_found():
    pytest.importorskip("torch.nn.attention.varlen")
    assert varlen.kernel() is not None
    assert not varlen.has_kernel()


def test_flash_attention_2_means_packs_where_there_is_a_kernel_and_says_why_not_elsewhere(tiny, monkeypatch, caplog):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.config._attn_implementation = "flash_attention_2"
    with caplog.at_level(logging.INFO):
        assert isinstance(choose_collator(model, 0), PaddedCollator)
    assert caplog.text.count("attn_implementation flash_attention_2") == 1
    monkeypatch.setattr(collate, "has_kernel", lambda: True)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert choose_collator(model, 0) == PrefixSharedCollator(varlen=True)
    assert model.config._attn_implementation == attention.PREFIX_SHARED
    assert "FlashAttention" in caplog.text


def test_flash_attention_2_that_is_not_installed_is_not_needed(tiny):
    if is_flash_attn_2_available():
        pytest.skip("it is installed")
    with pytest.raises(NerError) as error:
        load_model(str(tiny), attn_implementation="flash_attention_2")
    assert "attn_implementation" in error.value.remedy
    with pytest.raises(NerError) as error:
        load_model(str(tiny / "missing"))
    assert "attn_implementation" not in error.value.remedy
