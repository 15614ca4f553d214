"""How a process that trains takes memory from the system, and gives it back: to be set before its first tensor.

In and out: nothing but the state of the process. What is no Linux, or no glibc, is left as it is.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_MMAP_THRESHOLD = -3
"""Its name in glibc's malloc.h."""

LARGE = 8 << 20
"""Bytes from which on a tensor has pages of its own, which go back to the system with it."""


def set_pages() -> None:
    """Large pages for large tensors, and none of them in the heap.

    In pages of 4 KiB, a seventh of a step of a 0.5B on the CPU was the time to get them. And glibc puts what is below
    32 MiB into its heap as soon as something as large was freed; the lengths of batches differ, so that little of it
    fits where another was: a LoRA's steps of 10 rows held 9.1 GiB after eight minutes, and hold 5.7.

    >>> set_pages()  # doctest: +SKIP
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first tensor
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, LARGE)
