"""Attention over a packed row whose examples share a prefix, in one call of FlashAttention for sequences of any length.

In: queries, keys and values of one packed row, and the tensors of `layout`. Out: what `prefix_shared_attention` gives,
without a mask, and without a plan for each new shape. Knows nothing of data and models.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

LAYOUT = ("gather", "scatter", "query_ends", "key_ends")
"""The names of `layout`'s tensors."""


def layout(prefix: int, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
    """The sequences of a packed row: a prefix of that length, then examples of these lengths, each behind the prefix.

    The queries are the row as it stands, and `query_ends` tells where a sequence ends. The keys are gathered: `gather`
    holds their places in the row, prefix | prefix, example 1 | prefix, example 2 | …, `key_ends` their ends. `scatter`
    has all copies of the prefix, then the examples, as places among the keys.

    >>> for name, tensor in layout(2, [3, 1]).items():
    ...     print(name, tensor.tolist())
    gather [0, 1, 0, 1, 2, 3, 4, 0, 1, 5]
    scatter [0, 1, 2, 3, 7, 8, 4, 5, 6, 9]
    query_ends [0, 2, 5, 6]
    key_ends [0, 2, 7, 10]
    """
    first = [0, prefix] if prefix else [0]  # no sequence is empty
    queries, keys = torch.tensor([*first, *lengths]), torch.tensor([*first, *(prefix + length for length in lengths)])
    gather = list(range(prefix))
    at = prefix
    for length in lengths:
        gather += [*range(prefix), *range(at, at + length)]
        at += length
    places = torch.tensor(gather)
    scatter = (places >= prefix).sort(stable=True).indices
    ends = (lengths.cumsum(0, dtype=torch.int32) for lengths in (queries, keys))
    return dict(zip(LAYOUT, (places, scatter, *ends), strict=True))


class Gather(torch.autograd.Function):
    """Rows `gather` of (tokens, …); in the backward pass `scatter` brings the copies of the prefix together.

    The gradients of the copies are summed in one reduction: it rounds once, and gives the same bits in every run, while
    torch's own gradient of `index_select` adds to the same place from many threads.
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, gather: torch.Tensor, scatter: torch.Tensor, prefix: int, copies: int
    ) -> torch.Tensor:
        ctx.save_for_backward(scatter)
        ctx.prefix, ctx.copies = prefix, copies
        return states.index_select(0, gather)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (scatter,) = ctx.saved_tensors
        apart = grads[0].index_select(0, scatter)
        ends = ctx.prefix * ctx.copies
        shared = apart[:ends].unflatten(0, (ctx.copies, ctx.prefix)).sum(0) if ends else apart[:0]
        return torch.cat([shared, apart[ends:]]), None, None, None, None


def runs_on(query: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether `varlen_attention` can be used: a kernel is installed, and takes these heads and this dtype."""
    size = query.shape[-1]
    return query.is_cuda and dtype in (torch.bfloat16, torch.float16) and size % 8 == 0 and size <= 256 and has_kernel()


@cache
def has_kernel() -> bool:
    """Whether a kernel is installed for the GPU of this process: one of NVIDIA, of the Ampere generation or later."""
    if torch.version.cuda is None or not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        return False
    return kernel() is not None


@cache
def kernel() -> Callable[..., torch.Tensor] | None:
    """FlashAttention over sequences of any length, causal from the bottom right, with fewer heads of keys than of
    queries: torch's own (from torch 2.11) or flash_attn's; None if neither is installed."""
    try:
        from torch.nn.attention.varlen import varlen_attn

        options = inspect.signature(varlen_attn).parameters
        if "window_size" in options:
            grouped = {"enable_gqa": True} if "enable_gqa" in options else {}
            return lambda *states, scale: varlen_attn(*states, scale=scale, window_size=(-1, 0), **grouped)
    except ImportError:
        pass
    try:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return lambda *states, scale: flash_attn_varlen_func(*states, softmax_scale=scale, causal=True)


def varlen_attention(
    states: Sequence[torch.Tensor],
    sequences: dict[str, torch.Tensor],
    dtype: torch.dtype,
    prefix: int,
    longest: int,
    scale: float | None,
) -> torch.Tensor:
    """(1, tokens, heads, size) from queries, keys and values of (1, heads, tokens, size).

    `prefix` and `longest` are the lengths of the prefix and the longest example: known here, nothing waits for the GPU.
    """
    attend = kernel()
    assert attend is not None
    query, *pair = (state.squeeze(0).transpose(0, 1).to(dtype) for state in states)
    ends = sequences["query_ends"], sequences["key_ends"]
    # All sequences hold the prefix as keys: the prefix itself, if there is one, and each example.
    copies = len(ends[0]) - 1
    keys, values = (Gather.apply(one, sequences["gather"], sequences["scatter"], prefix, copies) for one in pair)
    return attend(query, keys, values, *ends, max(prefix, longest), prefix + longest, scale=scale)[None]
