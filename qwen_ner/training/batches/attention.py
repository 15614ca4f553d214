"""Attention over a packed row whose examples share a prefix: each example attends to the prefix and to itself.

In: queries, keys and values of one packed row, and the position of each example. Out: what masked attention over the
whole row would give, without computing the masked pairs. Knows nothing of data and models.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .cpu.grouped_attention import grouped_attention, is_faster
from .gpu.layers import autocast_dtype
from .gpu.varlen import LAYOUT, runs_on, varlen_attention

PREFIX_SHARED = "prefix_shared"
"""The name to select it by: `model.set_attn_implementation(PREFIX_SHARED)`."""


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
    """An attention function for transformers: heads of (1, heads, tokens, size) to (1, tokens, heads, size).

    The row is a prefix followed by n examples of up to s tokens. `own` (n, s) holds the positions of each example's
    tokens in the row (anything beyond its end), `place` the positions of the row's tokens after the prefix in (n · s),
    and `attention_mask` (1, 1, s, prefix + s) is causal after a prefix that every token sees. The prefix attends to
    itself; the examples attend to the prefix and themselves, as a batch of n. Without `own` this is transformers' sdpa.

    On a GPU in bfloat16 or float16 one kernel computes the row, if `options` have the tensors of `gpu.varlen.layout`.
    """
    sequences = {name: options.pop(name) for name in LAYOUT if name in options}
    if own is None or place is None or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows, longest = own.shape
    prefix = attention_mask.shape[-1] - longest
    # As autocast has it: the rotary embedding leaves queries and keys in float32.
    dtype = autocast_dtype(query.device) or query.dtype
    if sequences and runs_on(query, dtype) and not options.get("dropout") and options.get("softcap") is None:
        scale = options.get("scaling")
        return varlen_attention((query, key, value), sequences, dtype, prefix, longest, scale), None
    query, key, value = (states.to(dtype) for states in (query, key, value))

    def apart(states: torch.Tensor) -> torch.Tensor:
        """(1, heads, tokens, size) to (rows, heads, longest, size)."""
        picked = states[0].index_select(1, own.flatten())
        return picked.unflatten(1, (rows, longest)).transpose(0, 1)

    def behind_prefix(states: torch.Tensor) -> torch.Tensor:
        return torch.cat([states[:, :, :prefix].expand(rows, -1, -1, -1), apart(states)], dim=2)

    attend: Any = sdpa_attention_forward
    if is_faster(query, attention_mask) and options.get("softcap") is None:  # sdpa refuses a softcap
        attend = grouped_attention
    out, _ = attend(module, apart(query), behind_prefix(key), behind_prefix(value), attention_mask, **options)
    out = out.flatten(0, 1).index_select(0, place)[None]
    if prefix:
        parts = (states[:, :, :prefix] for states in (query, key, value))
        head, _ = sdpa_attention_forward(module, *parts, None, **{**options, "is_causal": True})
        out = torch.cat([head, out], dim=1)
    return out, None


AttentionInterface.register(PREFIX_SHARED, prefix_shared_attention)
# Batches without `own`, as in generation, get the mask of sdpa.
AttentionMaskInterface.register(PREFIX_SHARED, sdpa_mask)
