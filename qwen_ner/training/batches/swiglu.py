"""The gated activation of an MLP, recomputed in the backward pass instead of kept for it.

In: a model whose MLPs are SwiGLU (Shazeer 2020, arXiv 2002.05202). Out: the same model with the same results. Knows
nothing of data and training.

down(silu(gate(x)) · up(x)) keeps four tensors of the MLP's width for its gradients: gate(x), silu(gate(x)), up(x) and
the product, which the adapter of `down` reads. The second is recomputed in the backward pass. With LoRA on a 0.5B, a
step of 15 rows took 1 GiB less of 7.4, and no more time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.functional import silu
from transformers.activations import SiLUActivation
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP


class SwiGLU(torch.autograd.Function):
    """silu(gate) · up of two tensors of one shape; keeps only these two.

    On a GPU each way is one kernel, made by torch when it is first used: the tensors are the widest of a step, and
    kernel by kernel they are read and written twice as often.
    """

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return _gated()(gate, up) if gate.is_cuda else silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (grad,) = grads
        gate, up = ctx.saved_tensors
        if gate.is_cuda:
            of_gate, of_up = _gated_backward()(grad, gate, up)
            return of_gate, of_up
        return torch.ops.aten.silu_backward(grad * up, gate), silu(gate) * grad


@cache
def _gated() -> Callable[..., torch.Tensor]:
    code = "template <typename T> T gated(T gate, T up) { return gate / (T(1) + exp(-gate)) * up; }"
    made: Callable[..., torch.Tensor] = torch.cuda.jiterator._create_jit_fn(code)
    return made


@cache
def _gated_backward() -> Callable[..., list[torch.Tensor]]:
    code = """
        template <typename T> void gated_backward(T grad, T gate, T up, T& of_gate, T& of_up) {
            T share = T(1) / (T(1) + exp(-gate));
            of_gate = grad * up * share * (T(1) + gate * (T(1) - share));
            of_up = grad * gate * share;
        }"""
    made: Callable[..., list[torch.Tensor]] = torch.cuda.jiterator._create_multi_output_jit_fn(code, num_outputs=2)
    return made


def recompute_activation(model: torch.nn.Module) -> torch.nn.Module:
    """Make the SwiGLU MLPs of `model` keep less, in place; other MLPs stay as they are."""
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
