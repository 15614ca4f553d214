"""Inputs of on_gpu.py: a Qwen2 with random weights, rows as long as CLUENER's, and batches for each attention.

In: the device and the size. Out: models and batches on that device. Does not know what is measured.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from train_rivals import LORA

ATTENTIONS = ("sdpa", "eager", "varlen")


@dataclass(frozen=True)
class Device:
    """Where models live, and whether they are `tiny` (three narrow layers) or have the shape of Qwen2.5-0.5B."""

    name: str
    tiny: bool

    @property
    def cuda(self) -> bool:
        return self.name == "cuda"

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def empty_cache(self) -> None:
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def autocast(self, enabled: bool = True) -> AbstractContextManager[None]:
        return torch.autocast(self.name, torch.bfloat16, enabled=enabled)

    def move(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {key: value.to(self.name) if torch.is_tensor(value) else value for key, value in batch.items()}


@contextmanager
def cudnn_attention(on: bool) -> Iterator[None]:
    """Allow or forbid cuDNN's attention, whatever the package sets meanwhile; restore the setting afterwards."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(on)
    try:
        with patch.object(torch.backends.cuda, "enable_cudnn_sdp", lambda enabled: None):
            yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def config_of(tiny: bool) -> Any:
    from transformers import Qwen2Config

    if tiny:
        shape = {"vocab_size": 400, "hidden_size": 112, "intermediate_size": 160, "num_hidden_layers": 3}
    else:
        shape = {"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    return Qwen2Config(
        **shape,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        use_cache=False,  # as the Trainer sets it
    )


def make_model(device: Device, lora: bool, dtype: torch.dtype = torch.float32) -> Any:
    """A model with random weights, made on the device itself.

    A new adapter is zero in one half, so that the other half has no gradient to compare: the zeros are replaced.
    """
    from transformers import Qwen2ForCausalLM

    from qwen_ner.training.model import add_adapter

    torch.manual_seed(0)
    with torch.device(device.name):
        model = Qwen2ForCausalLM._from_config(config_of(device.tiny), attn_implementation="sdpa", dtype=dtype)
        model = add_adapter(model, LORA if lora else None)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.01)
    return model.to(device.name)


def make_rows(device: Device, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows as long as CLUENER's: 32 shared tokens, 15 to 51 of a text, 5 to 24 of an answer."""
    draw, top = random.Random(seed), min(config_of(device.tiny).vocab_size, 16_000)

    def tokens(low: int, high: int) -> list[int]:
        return [draw.randrange(40, top) for _ in range(draw.randint(low, high))]

    return [
        {"prompt_ids": [*range(3, 35), *tokens(15, 51)], "answer_ids": [*tokens(4, 23), 2], "row": row}
        for row in range(count)
    ]


def batch_for(device: Device, model: Any, rows: list[dict[str, Any]], attention: str) -> dict[str, Any]:
    """`rows` as one batch on the device, with `model` set to attend as `attention` says.

    "varlen" is what a training on a GPU takes, "sdpa" what it takes without that kernel; "padded" shares no prefix.
    """
    from qwen_ner.training.batches.collate import PaddedCollator, choose_collator

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if attention == "padded":
        base.set_attn_implementation("sdpa")
        return device.move(PaddedCollator(0)(rows))
    base.set_attn_implementation("eager" if attention == "eager" else "sdpa")
    return device.move(replace(choose_collator(model, 0), varlen=attention == "varlen")(rows))
