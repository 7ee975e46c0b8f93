"""Memory that is free."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return None
