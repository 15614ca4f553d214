"""Weights laid out for the CPU's matrix products once, rather than at every product.

In: a model for inference. Out: the same model with its linear layers replaced. Knows nothing of what it computes.

A product of few rows with a large weight spends most of its time copying the weight into the layout that the kernel
needs. oneDNN, which is part of PyTorch, also takes a weight that is in this layout already; torch.compile uses the same
operators when it freezes a model. On 2 cores, 8 rows times (896, 151936) take 92 ms, packed 24 ms.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


KERNELS = "32"
"""Number of product shapes whose kernels are cached. Every number of tokens is a shape, and with PyTorch's default of
1,024 the memory grows by hundreds of MiB in the first minutes of a server."""


class PackedLinear(torch.nn.Module):
    """`torch.nn.Linear` for inference in float32 on the CPU; equal to it up to rounding."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self.packed, self.bias, "none", [], "")


def pack(model: PreTrainedModel) -> PreTrainedModel:
    """Pack the linear layers of `model` in place, if it is in float32 on a CPU that oneDNN supports, and return it.

    The original weights are freed, except for a head that is tied to the embedding.
    """
    fits = model.device.type == "cpu" and model.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    # The operators are not part of PyTorch's public interface: a version without them works unpacked.
    if not fits or not all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        return model
    for variable in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):  # read at the first product
        os.environ.setdefault(variable, KERNELS)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, PackedLinear(child))
    return model
