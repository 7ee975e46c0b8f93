"""Attention of image tokens, recorded while a network is evaluated."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from torch.overrides import TorchFunctionMode

from beeline.core.declared import TokenGrid


class RecordedAttention(TorchFunctionMode):
    """Records the mean attention of image tokens over heads and layers, inside its context and thread.

    ``image`` [B,N,N] is that to other image tokens, ``others`` [B,N,L] that to the other tokens, such as those of a
    text; rows of each have the sum 1.  Attention over fewer tokens than those of the image is not recorded, and of
    layers with different numbers of other tokens those with the number of the first.  The network's own result is not
    changed; the probabilities are computed a second time, in float32.
    """

    def __init__(self, grid: TokenGrid):
        super().__init__()
        self.grid = grid
        self.sums: dict[str, tuple[Tensor, int]] = {}

    @property
    def image(self) -> Tensor | None:
        """Attention to image tokens [B,N,N]; None if none was recorded."""
        return self._mean("image")

    @property
    def others(self) -> Tensor | None:
        """Attention to other tokens [B,N,L]; None if none was recorded."""
        return self._mean("others")

    def _mean(self, name: str) -> Tensor | None:
        found = self.sums.get(name)
        return None if found is None else found[0] / found[1]

    def _add(self, name: str, p: Tensor) -> None:
        p = p / p.sum(-1, keepdim=True).clamp(min=1e-12)
        total, count = self.sums.get(name, (torch.zeros_like(p), 0))
        if total.shape == p.shape:
            self.sums[name] = (total + p, count + 1)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = {**dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)), **kwargs}
            self.record(given["query"], given["key"], given.get("attn_mask"), given.get("scale"))
        return func(*args, **kwargs)

    @torch.no_grad()
    def record(self, q: Tensor, k: Tensor, mask: Tensor | None, scale: float | None) -> None:
        """Add the attention of queries [B,H,L,D] to keys [B,H,M,D]."""
        n, length, keys = self.grid.rows * self.grid.columns, q.shape[2], k.shape[2]
        cross = length == n and keys != n
        if length < n or not (cross or keys == length):
            return
        first = 0 if self.grid.first else length - n
        q = q[:, :, first : first + n].float()
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1).float()  # grouped queries
        logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        if mask is not None:
            mask = mask if mask.shape[-2] == 1 else mask[..., first : first + n, :]
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        p = logits.softmax(-1).mean(1)
        if cross:
            self._add("others", p)
            return
        self._add("image", p[..., first : first + n])
        if length > n:
            self._add("others", torch.cat([p[..., :first], p[..., first + n :]], -1))
