"""How many kernels a training step launches on a GPU, where a short step takes as long as its launches."""

import random
from dataclasses import replace

import pytest
import torch
from gpu_kernels import Launches, rms_norm
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from qwen_ner.training.batches import attention
from qwen_ner.training.batches.collate import choose_collator
from qwen_ner.training.batches.gpu import layers
from qwen_ner.training.batches.reduced_head import head_over
from qwen_ner.training.batches.swiglu import recompute_activation
from qwen_ner.training.doctor.costs import _to_fake
from qwen_ner.training.model import add_adapter

CONFIG = {
    "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "use_cache": False,
}  # fmt: skip


def make_rows(count):
    """Rows as long as CLUENER's."""
    draw = random.Random(0)

    def tokens(low, high):
        return [draw.randrange(40, 16_000) for _ in range(draw.randint(low, high))]

    return [{"prompt_ids": [*range(3, 35), *tokens(15, 51)], "answer_ids": tokens(5, 24)} for _ in range(count)]


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_a_lora_step_of_15_rows_launches_4000_kernels_at_most(monkeypatch, dropout):
    """Forward and backward pass, on fake tensors in the shape of Qwen2.5-0.5B; it was 7,379 on an H100."""
    pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(attention, "runs_on", lambda query, dtype: True)
    monkeypatch.setattr(layers, "rms_norm", lambda x, shape, weight, eps: rms_norm(x, weight, eps))
    with torch.device("meta"):
        base = Qwen2ForCausalLM._from_config(Qwen2Config(**CONFIG), attn_implementation="sdpa")
        lora = {"r": 16, "lora_alpha": 32, "lora_dropout": dropout, "target_modules": "all-linear"}
        model = layers.fuse_layers(recompute_activation(add_adapter(base, lora)), torch.bfloat16).train()
    rows = make_rows(15)
    batch = replace(choose_collator(model, 0), varlen=True)(rows)
    tokens = torch.tensor(sorted({token for row in rows for token in row["prompt_ids"] + row["answer_ids"]}))
    model = _to_fake(model, mode := FakeTensorMode(allow_non_fake_inputs=True))
    with head_over(tokens, model), mode:
        batch = {name: mode.from_tensor(value) for name, value in batch.items()}
        with Launches() as launches:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
    assert launches.of["_varlen_attn"] == 2 * 24
    assert not launches.waits, "the host does not wait for the GPU"
    assert launches.of.total() <= 4000, launches.of.most_common()
