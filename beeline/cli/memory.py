"""Memory allocation of the C library in this process."""

from __future__ import annotations

import ctypes
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt


def keep_memory() -> bool:
    """Reuse the memory of freed tensors instead of returning it to the system; returns whether this is supported.

    By default, glibc maps and unmaps every large tensor, which was measured to cost a quarter of a training step on a
    CPU.  It changes the whole process, so programs call it and libraries do not.
    """
    try:
        libc: Any = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):  # another system
        return False
