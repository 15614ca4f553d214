"""Running out of memory, as torch reports it.

In: an error. Out: whether it means that. Knows nothing of what was computed.
"""

from __future__ import annotations

import torch


def out_of_memory(error: Exception) -> bool:
    """Whether `error` means that a device, or the CPU, has no memory left.

    >>> out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    True
    >>> out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    from accelerate.utils.memory import should_reduce_batch_size

    return (
        isinstance(error, torch.OutOfMemoryError)
        or should_reduce_batch_size(error)
        or (isinstance(error, RuntimeError) and "not enough memory" in str(error))  # the CPU on Windows
    )
