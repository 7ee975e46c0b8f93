"""Memory that is free, and operations that are counted."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return None


def counter() -> Any:
    """A counter of operations that knows the attention of processors."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *settings: Any, **more: Any) -> int:
        return sdpa_flop_count(query, key, value)  # of shapes

    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={fused: attention})
