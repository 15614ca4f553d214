"""Stand-ins for the kernels of a GPU, and a count of the kernels that a step would launch there."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def attend_by_sequence(query, key, value, query_ends, key_ends, longest_query, longest_key, *, scale):
    """What `gpu.varlen.kernel()` computes, by sdpa, sequence by sequence; refuses what the kernel would."""
    assert query_ends.dtype == key_ends.dtype == torch.int32
    lengths, key_lengths = query_ends.diff(), key_ends.diff()
    assert (int(lengths.max()), int(key_lengths.max())) == (longest_query, longest_key)
    assert lengths.min() > 0
    outs = []
    for q, k, v in zip(
        query.split(lengths.tolist()), key.split(key_lengths.tolist()), value.split(key_lengths.tolist()), strict=True
    ):
        seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        states = (state.transpose(0, 1) for state in (q, k, v))
        outs.append(scaled_dot_product_attention(*states, attn_mask=seen, scale=scale, enable_gqa=True))
    return torch.cat(outs, 1).transpose(0, 1)


@torch.library.custom_op("qwen_ner_tests::rms_norm", mutates_args=())
def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """One kernel, as on a GPU; the CPU computes it in six."""
    return torch.nn.functional.rms_norm(x, weight.shape, weight, eps)


@torch.library.custom_op("qwen_ner_tests::rms_norm_backward", mutates_args=())
def rms_norm_backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


rms_norm.register_fake(lambda x, weight, eps: torch.empty_like(x))
rms_norm_backward.register_fake(lambda grad, x, weight: torch.empty_like(x))
rms_norm.register_autograd(
    lambda ctx, grad: (rms_norm_backward(grad, *ctx.saved_tensors), None, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:2]),
)

NONE = {
    "_unsafe_view",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "_reshape_alias",
}
"""Operators that launch nothing, besides views."""

SEVERAL = {
    "bernoulli_": 0,  # dropout is one kernel on a GPU
    "div_": 0,
    "slice_backward": 2,  # zeros, and a copy
    "select_backward": 2,
    "_varlen_attn": 2,  # the kernel, and the zeros of a random state that it takes
    "_varlen_attn_backward": 5,  # FlashAttention 2 with grouped heads: sums of rows, the kernel, a cast, two sums
}


class Launches(TorchDispatchMode):
    """Counts kernels by operator; `waits` are those for which the host waits for the GPU."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator._schema.name.split("::")[-1]
        returns = operator._schema.returns
        view = any(each.alias_info is not None and not each.alias_info.is_write for each in returns)
        if not view and name not in NONE and operator.namespace != "prim":
            self.of[name] += SEVERAL.get(name, 1)
        return operator(*args, **(kwargs or {}))

    @property
    def waits(self) -> dict[str, int]:
        return {name: self.of[name] for name in self.WAITS if self.of[name]}


class Recorded(TorchDispatchMode):
    """As a CUDA graph: what ran within is run again by `replay`, on the same memory and with the same numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operator(*args, **(kwargs or {}))
        self.calls.append((operator, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for operator, args, kwargs, out in self.calls:
            again = operator(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if torch.is_tensor(old) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def record_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have torch.cuda record and replay on the CPU. Returns a list that gets the number of calls in each replay.

    Unlike on a GPU, what is recorded computes, too.
    """
    replays = []

    class Graph(Recorded):
        def replay(self) -> None:
            replays.append(len(self.calls))
            with torch.no_grad():
                super().replay()

    real = inspect.signature(torch.cuda.graph.__init__)

    @contextmanager
    def graph(*args: Any, **options: Any) -> Iterator[None]:
        real.bind(None, *args, **options)
        with args[0]:
            yield

    cuda = SimpleNamespace(wait_stream=lambda other: None)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda place: nullcontext())
    for name in ("Stream", "current_stream", "synchronize", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, lambda: cuda)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return replays
