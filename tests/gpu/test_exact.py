"""On a GPU a pack computes what its rows one by one compute: QWEN_NER_GPU_TESTS=1 pytest tests/gpu."""

import math
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from rows import EIGHT

from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.training.batches import attention
from qwen_ner.training.batches.collate import PaddedCollator, choose_collator
from qwen_ner.training.batches.gpu.layers import fuse_layers
from qwen_ner.training.batches.gpu.varlen import has_kernel, varlen_attention
from qwen_ner.training.loop import trainer as trainer_module
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import NerTrainingArguments

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and QWEN_NER_GPU_TESTS=1")

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
IMPLEMENTATIONS = ("sdpa", "eager", "varlen", "varlen, fused layers")


@pytest.fixture
def rows(tokenizer):
    return build_dataset(EIGHT, Codec(CLUENER), tokenizer).to_list()


def load(folder, lora, implementation="sdpa"):
    """A model on the GPU, whose adapter does something, so that each of its weights has a gradient."""
    model = load_model(str(folder), attn_implementation=implementation, lora=lora)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model.cuda().eval()


def loss_and_gradients(model, batches, tokens, dtype):
    model.zero_grad()
    total = 0.0
    for batch in batches:
        batch = {name: value.cuda() for name, value in batch.items()}
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(**batch, num_items_in_batch=torch.tensor(float(tokens)).cuda()).loss
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def off(found, wanted):
    """The norm of the difference of two sets of gradients, as a share of the norm of the wanted ones."""
    assert found.keys() == wanted.keys()
    pairs = [(found[name] - gradient, gradient) for name, gradient in wanted.items()]
    return math.sqrt(sum(float(a.pow(2).sum()) for a, _ in pairs) / sum(float(b.pow(2).sum()) for _, b in pairs))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_loss_and_gradients_are_those_of_the_rows_one_by_one(tiny, rows, implementation, lora, dtype):
    varlen = implementation.startswith("varlen")
    if varlen and (dtype == torch.float32 or not has_kernel()):
        pytest.skip("no kernel for this GPU or this dtype")
    model = load(tiny, lora, "sdpa" if varlen else implementation)
    tokens, alone = sum(len(row["answer_ids"]) for row in rows), [PaddedCollator(0)([row]) for row in rows]
    wanted = loss_and_gradients(model, alone, tokens, torch.float32)
    rounded = off(loss_and_gradients(model, alone, tokens, dtype)[1], wanted[1])
    collate = choose_collator(model, 0)
    assert collate.varlen == has_kernel()
    if "fused" in implementation:
        fuse_layers(model, dtype)
    found = loss_and_gradients(model, [replace(collate, varlen=varlen)(rows)], tokens, dtype)
    half = dtype == torch.bfloat16
    assert found[0] == pytest.approx(wanted[0], rel=1e-3 if half else 1e-5)
    assert off(found[1], wanted[1]) <= max(1.2 * rounded, 1e-5)


@pytest.mark.skipif(not (torch.cuda.is_available() and has_kernel()), reason="no kernel for this GPU")
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_training_in_bfloat16_takes_the_kernel_and_repeats_itself(tiny, rows, tokenizer, tmp_path, monkeypatch, lora):
    calls = []
    monkeypatch.setattr(trainer_module, "obstacle", lambda trainer: "calls are counted")
    monkeypatch.setattr(attention, "varlen_attention", lambda *args: calls.append(1) or varlen_attention(*args))

    def trained(name):
        model = load_model(str(tiny), lora=lora)
        args = NerTrainingArguments(
            output_dir=str(tmp_path / name), bf16=True, max_steps=4, per_device_train_batch_size=8, seed=3, report_to="none",
            eval_strategy="no", save_strategy="no", load_best_model_at_end=False, disable_tqdm=True, learning_rate=1e-3,
        )  # fmt: skip
        trainer = NerTrainer(
            model=model, args=args, ner_config=NerConfig(CLUENER, "找出实体", 8, (2, 0)), processing_class=tokenizer,
            data_collator=choose_collator(model, 0), train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:2]),
        )  # fmt: skip
        trainer.train()
        assert len(calls) == 4 * model.config.num_hidden_layers, "a call a layer and step"
        calls.clear()
        assert math.isfinite(trainer.evaluate()["eval_loss"])
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    torch.manual_seed(5)
    first = trained("first")
    calls.clear()
    torch.manual_seed(5)
    for name, weight in trained("second").items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, first[name]), name
