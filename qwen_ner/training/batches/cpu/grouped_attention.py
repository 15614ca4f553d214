"""Attention by plain matrix products, which beat torch's blocked kernel for short rows in bfloat16 on a CPU.

In and out: as transformers' `sdpa_attention_forward`.
"""

from __future__ import annotations

from typing import Any

import torch

SHORT = 160
"""Keys up to which plain matrix products train faster than torch's blocked kernel: 15 examples of 55 tokens after 32,
14 heads, took 20 ms forward and backward against 46; 120 tokens: 84 against 101 (a thread, AVX-512, torch 2.13)."""


def is_faster(query: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether to prefer `grouped_attention` for these queries: on a CPU, short rows, in training, in bfloat16."""
    half = query.dtype == torch.bfloat16
    return query.device.type == "cpu" and half and query.requires_grad and mask.shape[-1] <= SHORT


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Like `sdpa_attention_forward`, with one matrix product for all query heads that share a key head.

    Scores are in float32: rounded to bfloat16, they would triple the error of the gradients.
    """
    tokens, size = query.shape[2:]
    with torch.autocast("cpu", enabled=False):
        queries = query.float() * (size**-0.5 if scaling is None else scaling)
        queries = queries.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
        scores = (queries @ key.float().transpose(2, 3)).unflatten(2, (-1, tokens))
        scores = scores.masked_fill(~attention_mask[:, :, None], torch.finfo(scores.dtype).min)
        weights = torch.nn.functional.dropout(scores.softmax(-1), dropout).to(value.dtype)
        out = weights.flatten(2, 3) @ value
    return out.unflatten(2, (-1, tokens)).flatten(1, 2).transpose(1, 2), None
