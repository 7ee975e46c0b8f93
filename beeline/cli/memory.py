"""How this process keeps its memory."""

from __future__ import annotations

import ctypes
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt


def keep_memory() -> bool:
    """Let the C library keep the memory of freed tensors for the next ones; whether it is one that can be told.

    Otherwise glibc takes every large tensor from the system and gives it back, page by page: on a CPU that was measured
    to be a quarter of a training step.  For programs, not for libraries: it concerns the whole process.
    """
    try:
        libc: Any = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):  # another system
        return False
