"""Layers of a model under autocast in fewer kernels: RMSNorm, rotary positions, linear layers with a LoRA adapter.

In: a Qwen2 or Qwen3, with or without an adapter. Out: the same model with the same results, but for rounding. Knows
nothing of data and training.

On an H100 a step of 15 rows takes 152 ms, of which the GPU computes for 26: the rest is launches. A third of them are
casts: under autocast every linear layer casts its frozen weight, its input, and both matrices of its adapter.
"""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RMSNorm


def fuse_layers(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Make `model`, to be trained under autocast in `dtype`, launch fewer kernels, in place.

    Frozen weights of linear layers are stored in `dtype`, which autocast would cast them to in every step. A head that
    is the embedding stays as it is.
    """
    from peft.tuners.lora.layer import Linear

    kinds = dict.fromkeys((Qwen2RMSNorm, Qwen3RMSNorm), _normalizing)
    kinds |= dict.fromkeys((Qwen2Attention, Qwen3Attention), _rotating)
    kinds[Linear] = _adapting
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    for module in model.modules():
        kind: type = type(module)
        if kind in kinds:
            module.__class__ = kinds[kind](kind)
        if kind is torch.nn.Linear:
            for weight in module.parameters():
                if not weight.requires_grad and id(weight) not in embedded:
                    weight.data = weight.data.to(dtype)
    return model


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast computes in on `device`; None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


@cache
def _normalizing(stock: type) -> type:
    def forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        out = rms_norm(hidden.to(self.weight.dtype), self.weight.shape, self.weight, self.variance_epsilon)
        # Linear layers follow, so one cast serves them all.
        return out.to(autocast_dtype(hidden.device) or hidden.dtype)

    return type(stock.__name__, (stock,), {"forward": forward})


@cache
def _rotating(stock: Any) -> type:
    """`stock` with `rotate` for its own function; everything else in its forward pass is as it was."""
    own = stock.forward
    known = {**own.__globals__, "apply_rotary_pos_emb": rotate}
    forward = FunctionType(own.__code__, known, own.__name__, own.__defaults__, own.__closure__)
    forward.__kwdefaults__ = own.__kwdefaults__
    return type(stock.__name__, (stock,), {"forward": forward})


def rotate(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys (batch, heads, tokens, size) at their positions; under autocast in its dtype, as all attention
    there computes. As `apply_rotary_pos_emb` in transformers."""
    turned = Rotary.apply(
        query.transpose(1, 2), key.transpose(1, 2), cos[..., None, :], sin[..., None, :], autocast_dtype(query.device)
    )
    return turned[0].transpose(1, 2), turned[1].transpose(1, 2)


class Rotary(torch.autograd.Function):
    """Queries and keys of (batch, tokens, heads, size) together: one tensor turns in five kernels, there and back."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        dtype: torch.dtype | None,
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        ctx.heads, ctx.dtype = [query.shape[2], key.shape[2]], query.dtype
        out = _turned(torch.cat([query, key], 2), cos, sin, 1)
        return (out if dtype is None else out.to(dtype)).split(ctx.heads, 2)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        grad = _turned(torch.cat(grads, 2), cos, sin, -1).to(ctx.dtype)
        return *grad.split(ctx.heads, 2), None, None, None


def _turned(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, way: int) -> torch.Tensor:
    """By the angles of `cos` and `sin`, whose halves are equal: feature i turns with feature i + size / 2."""
    half = states.shape[-1] // 2
    out = states * cos
    out[..., :half].addcmul_(states[..., half:], sin[..., :half], value=-way)
    out[..., half:].addcmul_(states[..., :half], sin[..., :half], value=way)
    return out


@cache
def _adapting(stock: Any) -> type:
    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        dtype, base = autocast_dtype(x.device), self.base_layer
        name = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        plain = type(base) is torch.nn.Linear and name in self.lora_A and name not in self.lora_variant
        plain = plain and not self.lora_bias[name]
        trained = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
        if dtype is None or self.merged or self.disable_adapters or trained or not plain:
            return stock.forward(self, x, *args, **kwargs)
        x, dropout = x.to(dtype), self.lora_dropout[name]
        dropped = dropout(x) if isinstance(dropout, torch.nn.Dropout) and dropout.training else None
        weight, bias = (None if w is None else w.to(dtype) for w in (base.weight, base.bias))
        factors = (self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name])
        return LoRALinear.apply(x, dropped, weight, bias, *factors)

    return type(stock.__name__, (stock,), {"forward": forward})


class LoRALinear(torch.autograd.Function):
    """x · weightᵀ + bias + scale · dropped · aᵀ · bᵀ (Hu et al. 2021, arXiv 2106.09685), in the dtype of `x`.

    `dropped` is `x` after dropout, None if there is none. `weight` and `bias` are frozen; `a` and `b` may be of another
    dtype, in which they get their gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        adapted = (x if dropped is None else dropped).flatten(0, -2)
        ctx.scale, ctx.shared, ctx.dtypes = scale, dropped is None, (a.dtype, b.dtype)
        a, b = a.to(x.dtype), _scaled(b, scale, x.dtype)
        inner = adapted @ a.T
        ctx.save_for_backward(adapted, inner, weight, a, b)
        out = linear(x.flatten(0, -2), weight, bias).addmm_(inner, b.T)
        return out.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad = grads[0].flatten(0, -2)
        adapted, inner, weight, a, b = ctx.saved_tensors
        of_inner = grad @ b
        of_a = (of_inner.T @ adapted).to(ctx.dtypes[0])
        of_b = _scaled(grad.T @ inner, ctx.scale, ctx.dtypes[1])
        of_x = of_dropped = None
        shape = (*grads[0].shape[:-1], a.shape[1])
        if ctx.needs_input_grad[0]:
            of_x = grad @ weight
            of_x = (of_x.addmm_(of_inner, a) if ctx.shared else of_x).view(shape)
        if ctx.needs_input_grad[1]:
            of_dropped = (of_inner @ a).view(shape)
        return of_x, of_dropped, None, None, of_a, of_b, None


def _scaled(tensor: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """tensor · scale in `dtype`, in one kernel."""
    return torch.mul(tensor, scale, out=torch.empty_like(tensor, dtype=dtype))
