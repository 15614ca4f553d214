"""Weights laid out for the CPU's matrix products once, rather than at every product.

In: a model for inference. Out: the same model with its linear layers replaced. Knows nothing of what it computes.

A product of few rows with a large weight spends most of its time copying the weight into the layout that the kernel
needs. oneDNN, which is part of PyTorch, also takes a weight that is in this layout already; torch.compile uses the same
operators when it freezes a model. On 2 cores, 8 rows times (896, 151936) take 92 ms, packed 24 ms.
"""

from __future__ import annotations

import ctypes
import os
import sys

import torch
from transformers import PreTrainedModel

KERNELS = "32"
"""Number of product shapes whose kernels are cached. Every number of tokens is a shape, and with PyTorch's default of
1,024 the memory grows by hundreds of MiB in the first minutes of a server."""


EXACT_LOGITS = 8
"""How many of the largest logits of a token a `PackedHead` computes in float32."""


class PackedLinear(torch.nn.Module):
    """`torch.nn.Linear` for inference in float32 or bfloat16 on the CPU; equal to it up to rounding."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self.packed, self.bias, "none", [], "")


class PackedHead(PackedLinear):
    """A head in bfloat16 whose logits are float32, the largest of them computed in float32.

    From 16 to 32 the numbers of bfloat16 are 1/8 apart: likely tokens would often tie, and a log-probability be off by
    1/16.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__(linear)
        self.weight = linear.weight  # also the embedding, in most small models

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().forward(hidden).float()
        largest = logits.topk(min(EXACT_LOGITS, logits.shape[-1]), sorted=False).indices
        exact = torch.einsum("...d,...kd->...k", hidden.float(), self.weight[largest].float())
        return logits.scatter_(-1, largest, exact if self.bias is None else exact + self.bias[largest])


def pack(model: PreTrainedModel) -> PreTrainedModel:
    """Pack the linear layers of `model` in place, if it is on a CPU, in a dtype that oneDNN packs there, and return it.

    The original weights are freed, except for those of a head that is tied to the embedding or in bfloat16.
    """
    if model.device.type != "cpu" or model.dtype not in packable():
        return model
    for variable in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):  # read at the first product
        os.environ.setdefault(variable, KERNELS)
    head = model.get_output_embeddings() if model.dtype == torch.bfloat16 else None
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, PackedHead(child) if child is head else PackedLinear(child))
    # glibc would keep what loading, merging and packing have freed: in bfloat16 more than the model takes.
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
    return model


def packable() -> tuple[torch.dtype, ...]:
    """The dtypes that oneDNN packs on this CPU."""
    # The operators are not part of PyTorch's public interface: a version without them works unpacked.
    operators = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in operators):
        return ()
    return (torch.float32, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)
