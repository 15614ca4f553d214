"""Running out of memory, as torch reports it.

In: an error. Out: whether it means that. Knows nothing of what was computed.
"""

from __future__ import annotations

import torch

PHRASES = (
    "out of memory",  # CUDA, HIP, XPU, MPS; the driver's "CUDA error: out of memory"; NCCL's "Cuda failure 2"
    "alloc failed",  # CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED, …
    "allocation failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "failed to cuda calloc",  # NCCL
    "can't allocate memory",  # the CPU
    "not enough memory",  # the CPU on Windows
)
"""What the messages of such errors say, in lower case, with spaces for underscores."""


def out_of_memory(error: Exception) -> bool:
    """Whether `error` means that a device, or the CPU, has no memory left.

    >>> out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    True
    >>> out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    True
    >>> out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    said = str(error).lower().replace("_", " ")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in said for phrase in PHRASES)
    )
