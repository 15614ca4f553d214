"""The gated activation of an MLP, without keeping for the backward pass what two products give again.

In: a model whose MLPs are SwiGLU (Shazeer 2020, arXiv 2002.05202). Out: the same model, computing the same. Knows
nothing of data and training.

down(silu(gate(x)) · up(x)) keeps four tensors of the MLP's width for its gradients: gate(x), silu(gate(x)), up(x) and
the product, which the adapter of `down` reads. The second is made anew in the backward pass. A step of 15 rows on a
0.5B with LoRA took 1 GiB of 7.4 less, and no more time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn.functional import silu
from transformers.activations import SiLUActivation
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP


class SwiGLU(torch.autograd.Function):
    """silu(gate) · up, of two tensors of one shape, keeping these two alone."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (grad,) = grads
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), silu(gate) * grad


def recompute_activation(model: torch.nn.Module) -> torch.nn.Module:
    """`model` with its SwiGLU MLPs made to keep less, in place; other MLPs stay as they are."""
    for module in model.modules():
        kind: type = type(module)
        if kind in (Qwen2MLP, Qwen3MLP) and isinstance(module.act_fn, SiLUActivation):
            module.__class__ = _recomputing(kind)
    return model


@cache
def _recomputing(stock: type) -> type:
    def forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        return self.down_proj(SwiGLU.apply(self.gate_proj(hidden), self.up_proj(hidden)))

    return type(stock.__name__, (stock,), {"forward": forward})
