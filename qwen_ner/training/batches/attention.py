"""Attention of a packed row in which examples share their prefix: each example attends by itself.

In: queries, keys and values of one packed row, and where each example stands in it. Out: what attention over the whole
row under its mask would give, without the pairs of tokens that the mask forbids. Knows nothing of data and models.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PREFIX_SHARED = "prefix_shared"
"""The name under which a model's config asks for it: `model.set_attn_implementation(PREFIX_SHARED)`."""


def prefix_shared_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    own: torch.Tensor | None = None,
    place: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An attention function of transformers': (1, tokens, heads, head size) from the heads of (1, heads, tokens, size).

    The row is a prefix followed by n examples of up to s tokens. `own` (n, s) are the places of each example's tokens
    in the row (any place where it is shorter), `place` those of the row's tokens behind the prefix in (n · s), and
    `attention_mask` (1, 1, s, prefix + s) is causal behind a prefix that all see. The prefix attends to itself; each
    example to the prefix and to itself, as a batch of n. Without `own` this is transformers' sdpa.
    """
    if own is None or place is None or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows, longest = own.shape
    prefix = attention_mask.shape[-1] - longest

    def apart(states: torch.Tensor) -> torch.Tensor:
        """(1, heads, tokens, size) to (rows, heads, longest, size)."""
        picked = states[0].index_select(1, own.flatten())
        return picked.unflatten(1, (rows, longest)).transpose(0, 1)

    def behind_prefix(states: torch.Tensor) -> torch.Tensor:
        return torch.cat([states[:, :, :prefix].expand(rows, -1, -1, -1), apart(states)], dim=2)

    grouped = short_on_cpu(query, attention_mask) and options.get("softcap") is None  # which sdpa refuses
    attend = grouped_attention if grouped else sdpa_attention_forward
    out, _ = attend(module, apart(query), behind_prefix(key), behind_prefix(value), attention_mask, **options)
    out = out.flatten(0, 1).index_select(0, place)[None]
    if prefix:
        parts = (states[:, :, :prefix] for states in (query, key, value))
        head, _ = sdpa_attention_forward(module, *parts, None, **{**options, "is_causal": True})
        out = torch.cat([head, out], dim=1)
    return out, None


SHORT = 256
"""Keys up to which bfloat16 trains faster on a CPU by products of whole matrices than by torch's blocked kernel: 10
examples of 58 tokens behind 31, 14 heads, took 7 ms forth and back for its 28, one thread (AVX-512, torch 2.13.0)."""


def short_on_cpu(query: torch.Tensor, mask: torch.Tensor) -> bool:
    short = mask.shape[-1] <= SHORT and query.requires_grad
    return short and query.device.type == "cpu" and query.dtype == torch.bfloat16


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
    """As `sdpa_attention_forward`: the query heads that share a key head are rows of one product with it."""
    tokens, size = query.shape[2:]
    queries = (query * (size**-0.5 if scaling is None else scaling)).unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    scores = (queries @ key.transpose(2, 3)).unflatten(2, (-1, tokens))
    scores = scores.masked_fill(~attention_mask[:, :, None], torch.finfo(scores.dtype).min)
    weights = torch.nn.functional.dropout(scores.softmax(-1), dropout).to(value.dtype)
    out = weights.flatten(2, 3) @ value
    return out.unflatten(2, (-1, tokens)).flatten(1, 2).transpose(1, 2), None


AttentionInterface.register(PREFIX_SHARED, prefix_shared_attention)
# Whoever brings no `own`, as generation does, gets the mask of sdpa.
AttentionMaskInterface.register(PREFIX_SHARED, sdpa_mask)
