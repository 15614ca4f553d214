"""Running out of memory, as torch reports it.

In: an error, or what may raise one. Out: whether it means that. Knows nothing of what is computed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate.utils.memory import clear_device_cache

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


def fits_memory(compute: Callable[[], object], release: Callable[[], object] | None = None) -> bool:
    """Call `compute`; False, after `release` and with what it held freed, if the memory ran out."""
    try:
        compute()
        return True
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    if release:
        release()
    clear_device_cache(garbage_collection=True)  # here, where the error no longer holds the batch's tensors
    return False
