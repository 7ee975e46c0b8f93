"""Settings as plain data, and what differs between two of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def settings(part: Any) -> Any:
    """A component as plain data for comparison: dataclasses by field, functions by name, tensors by their hash."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {f.name: settings(getattr(part, f.name)) for f in dataclasses.fields(part)}
        return {"is": type(part).__name__} | fields
    if isinstance(part, Mapping):
        return {str(k): settings(v) for k, v in part.items()}
    if isinstance(part, list | tuple):
        return [settings(v) for v in part]
    if isinstance(part, Tensor):
        raw = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"tensor {list(part.shape)} {hashlib.sha256(raw).hexdigest()[:16]}"
    if part is None or isinstance(part, bool | int | float | str):
        return part
    return getattr(part, "__qualname__", type(part).__qualname__)


def difference(old: Any, new: Any, name: str = "") -> list[str]:
    """Lines ``name: old -> new`` for every setting that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in difference(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    return [] if old == new else [f"{name}: {json.dumps(old)} -> {json.dumps(new)}"]
