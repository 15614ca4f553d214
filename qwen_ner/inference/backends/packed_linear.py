"""Weights laid out for the CPU's matrix products once, instead of anew at every product.

In: a model that only infers. Out: the same model with its linear layers replaced. Knows nothing of what it computes.

A product of few rows with a large weight spends most of its time on copying the weight into the order that the kernel
wants. oneDNN, which PyTorch brings, takes a weight that is in that order already; torch.compile does so where it
freezes a model, and these are its operators. On 2 cores, 8 rows times (896, 151936): 92 ms before, 24 ms packed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


KERNELS = "32"
"""Shapes of products whose kernels are kept. Every number of tokens is a shape, and of PyTorch's own 1,024 the memory
grows by hundreds of MiB in the first minutes of a server."""


class PackedLinear(torch.nn.Module):
    """`torch.nn.Linear` for inference in float32 on the CPU; equal to it but for the rounding of sums."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self.packed, self.bias, "none", [], "")


def pack(model: PreTrainedModel) -> PreTrainedModel:
    """`model` with its linear layers packed, in place, where it is in float32 on a CPU that oneDNN knows.

    The weights that are replaced are freed, but for a head that is the embedding too.
    """
    if not _packable(model):
        return model
    for of in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):  # read at the first product
        os.environ.setdefault(of, KERNELS)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, PackedLinear(child))
    return model


def _packable(model: PreTrainedModel) -> bool:
    if model.device.type != "cpu" or model.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return False
    # Not part of PyTorch's public interface: a version without them goes on as before.
    return hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(torch.ops.mkldnn, "_linear_pointwise")
