"""Shared by the claims about memory: what a forward pass keeps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def kept_bytes(net: nn.Module, x: Tensor) -> float:
    """Bytes beside weights that a forward pass at states [B,...] keeps for the backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    seen: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        if saved.untyped_storage().data_ptr() not in weights:
            seen[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        out = net(x, torch.linspace(0, 1, len(x)))
    del out
    return float(sum(seen.values()))
