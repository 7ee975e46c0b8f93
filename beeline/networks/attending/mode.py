"""Another function in place of attention over the tokens of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from torch.overrides import TorchFunctionMode

from beeline.core.declared import TokenGrid


@dataclass(frozen=True)
class ImageAttention:
    """The inputs of one self-attention, or of a joint one with the tokens of a text."""

    q: Tensor  # [B,H,L,D], as k and v
    k: Tensor
    v: Tensor
    mask: Tensor | None  # bool or added to the logits, broadcast to [B,H,L,L]
    grid: TokenGrid
    options: Mapping[str, Any]  # further ones of scaled_dot_product_attention

    @property
    def image(self) -> slice:
        """The tokens of the image; the others are those of a text."""
        n, length = self.grid.rows * self.grid.columns, self.q.shape[2]
        return slice(0, n) if self.grid.first else slice(length - n, length)

    @property
    def text(self) -> slice:
        """The tokens of the text; none in self-attention."""
        n, length = self.grid.rows * self.grid.columns, self.q.shape[2]
        return slice(n, length) if self.grid.first else slice(0, length - n)

    @property
    def scale(self) -> float:
        """The factor of the logits."""
        given = self.options.get("scale")
        return float(self.q.shape[-1] ** -0.5 if given is None else given)

    def softmax(self, q: Tensor | None = None, v: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Plain attention [B,H,L,D], with some of the inputs replaced."""
        q, v = self.q if q is None else q, self.v if v is None else v
        return F.scaled_dot_product_attention(q, self.k, v, self.mask if mask is None else mask, **self.options)


Attention: TypeAlias = Callable[[ImageAttention], Tensor]
"""A function in place of attention, which returns [B,H,L,D]."""


class AttentionMode(TorchFunctionMode):
    """Calls ``attention`` for every attention among all tokens of an image, inside its context and thread.

    Attention with other tokens as keys, and over fewer tokens than those of the image, is unchanged.
    """

    def __init__(self, attention: Attention, grid: TokenGrid | None = None):
        super().__init__()
        self.attention, self.grid = attention, grid
        self.count = 0  # calls so far

    def __deepcopy__(self, memo: dict[int, Any]) -> AttentionMode:
        return self  # blocks that enter it are shared by copies of their network

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or self.grid is None:
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        q, k, v, mask = (given.pop(name, None) for name in names[:4])
        if k.shape[2] != q.shape[2] or q.shape[2] < self.grid.rows * self.grid.columns:
            return func(*args, **kwargs)
        self.count += 1
        if given.pop("enable_gqa", False):
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        return self.attention(ImageAttention(q, k, v, mask, self.grid, given))
