"""Another function in place of attention over the tokens of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from torch.overrides import TorchFunctionMode

from beeline.core.declared import TokenGrid
from beeline.core.host_times import host_times

Place: TypeAlias = tuple[str, int]
"""A block, and the number of the attention in it."""


class Evaluation:
    """One evaluation of a network, in which attention takes place."""

    def __init__(self, t: Tensor | None = None):
        self._t = t

    @cached_property
    def time(self) -> float:
        """The time of its first row; read once, as it may have to be copied from an accelerator."""
        return 0.0 if self._t is None else float(host_times(self._t).flatten()[0])


@dataclass(frozen=True)
class ImageAttention:
    """The inputs of one self-attention, or of a joint one with the tokens of a text."""

    q: Tensor  # [B,H,L,D], as k and v
    k: Tensor
    v: Tensor
    mask: Tensor | None  # bool or added to the logits, broadcast to [B,H,L,L]
    grid: TokenGrid
    options: Mapping[str, Any]  # further ones of scaled_dot_product_attention
    block: str = ""  # the name of the block in which it takes place
    index: int = 0  # of this attention among those of the block
    evaluation: Evaluation = field(default_factory=Evaluation)

    @property
    def place(self) -> Place:
        """Where it takes place in the network."""
        return self.block, self.index

    @property
    def time(self) -> float:
        """The time at which the network is evaluated."""
        return self.evaluation.time

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

    def softmax(
        self,
        q: Tensor | None = None,
        v: Tensor | None = None,
        mask: Tensor | None = None,
        k: Tensor | None = None,
    ) -> Tensor:
        """Plain attention [B,H,L,D], with some of the inputs replaced; another number of keys needs a mask of it."""
        q, v, k = self.q if q is None else q, self.v if v is None else v, self.k if k is None else k
        return F.scaled_dot_product_attention(q, k, v, self.mask if mask is None else mask, **self.options)

    def logits(self) -> Tensor:
        """Logits [B,H,L,L] in float32, with the mask."""
        z = self.q.float() @ self.k.float().mT * self.scale
        if self.mask is None:
            return z
        return z.masked_fill(~self.mask, -torch.inf) if self.mask.dtype == torch.bool else z + self.mask.float()

    def weights(self) -> Tensor:
        """The weights [B,H,L,L] of plain attention in float32, whose rows have the sum 1."""
        return self.logits().softmax(-1)


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
        self.block, self.first = "", 0  # the block that is evaluated, and the number of calls before it
        self.evaluation = Evaluation()

    def enter(self, block: str) -> None:
        """A block begins."""
        self.block, self.first = block, self.count

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
        index = self.count - self.first - 1
        if given.pop("enable_gqa", False):
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        a = ImageAttention(q, k, v, mask, self.grid, given, self.block, index, self.evaluation)
        return self.attention(a)
