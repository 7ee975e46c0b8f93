"""Self-attention at two scales, for images above the trained resolution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from beeline.core.declared import Wrapping
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.sampling.blur import gaussian_blur


class ScaleFused(Wrapping):
    """A field whose self-attention takes low frequencies from windows of the trained size.

    attention = global + G(local - global),  G: Gaussian blur of the image tokens, side 2 s - 1 and deviation 1 token
    Here local is the mean over windows of the trained size with a stride of half a window, in which an image token sees
    the window and all other tokens (the text); s is the ratio of the sides.  Up to the trained size it is the field.
    The windows are not shifted at random, so that the field is a function of state and time.
    Assumes images [B,C,H,W] that become tokens row by row, before or after those of the text, and attention by
    ``scaled_dot_product_attention`` without compilation.
    Source: Qiu et al. 2024, "FreeScale" (arXiv 2412.09626), scale fusion.

    >>> from beeline.networks.dit import DiT
    >>> net = DiT((1, 8, 8), width=16, depth=1, heads=2, any_size=True)
    >>> ScaleFused(net, trained=(4, 4))(torch.zeros(2, 1, 16, 16), torch.zeros(2)).shape
    torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        field: Any,
        trained: Sequence[int],  # rows and columns of tokens of the trained size
        patch: int = 2,  # side of a token in the state
        image_first: bool = False,  # whether image tokens come before those of the text
    ):
        super().__init__()
        rows, columns = trained
        require(
            rows >= 1 and columns >= 1 and patch >= 1,
            f"ScaleFused got trained={tuple(trained)} and patch={patch}; they are counts of tokens and the side of "
            "one: give numbers from 1",
        )
        self.field, self.trained, self.patch, self.image_first = field, (rows, columns), patch, image_first

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, *end: Tensor) -> Tensor:
        grid = -(-x.shape[-2] // self.patch), -(-x.shape[-1] // self.patch)
        if grid[0] <= self.trained[0] and grid[1] <= self.trained[1]:
            out: Tensor = self.field(x, t, cond, *end)
            return out
        with Fusion(grid, self.trained, self.image_first):
            out = self.field(x, t, cond, *end)
        return out


class Fusion(TorchFunctionMode):
    """Inside, self-attention over a grid of image tokens is fused."""

    def __init__(self, grid: tuple[int, int], trained: tuple[int, int], image_first: bool):
        super().__init__()
        self.grid, self.trained, self.image_first = grid, trained, image_first

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        whole = func(*args, **(kwargs or {}))
        if func is not F.scaled_dot_product_attention:
            return whole
        given = {**dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)), **(kwargs or {})}
        count, tokens = self.grid[0] * self.grid[1], given["query"].shape[-2]
        if given["key"].shape[-2] != tokens or tokens < count:
            return whole  # attention to a text, or among tokens of one
        image = slice(0, count) if self.image_first else slice(tokens - count, tokens)
        at = torch.arange(tokens, device=whole.device)
        text = torch.cat([at[: image.start], at[image.stop :]])
        local = self.local(given, at[image].view(self.grid), text)
        difference = (local - whole[..., image, :]).unflatten(-2, self.grid)
        side = max(-(-size // part) for size, part in zip(self.grid, self.trained, strict=True))
        result = whole.clone()
        result[..., image, :] += blurred(difference, side).flatten(-3, -2)
        return result

    def local(self, given: dict[str, Any], image: Tensor, text: Tensor) -> Tensor:
        """The mean of attention in all windows that hold a token, for the image tokens in the order of the grid."""
        q, k, v = (given[name] for name in ("query", "key", "value"))
        mask, rest = given.get("attn_mask"), {name: a for name, a in given.items() if name in ("scale", "enable_gqa")}
        total = torch.zeros_like(q[..., : image.numel(), :], dtype=v.dtype)
        counts, first = total.new_zeros(image.numel(), 1), image[0, 0]
        rows, columns = (starts(size, part) for size, part in zip(image.shape, self.trained, strict=True))
        for row, column in itertools.product(rows, columns):
            here = image[row : row + self.trained[0], column : column + self.trained[1]].flatten()
            seen = torch.cat([text, here])
            part = F.scaled_dot_product_attention(
                q[..., here, :], k[..., seen, :], v[..., seen, :], of_window(mask, here, seen), **rest
            )
            total[..., here - first, :] += part
            counts[here - first] += 1
        return total / counts


def starts(size: int, part: int) -> list[int]:
    """The first tokens of windows of ``part`` along an axis of ``size`` tokens, half a window apart.

    >>> starts(8, 4), starts(7, 4), starts(3, 4)
    ([0, 2, 4], [0, 2, 3], [0])
    """
    last = max(size - part, 0)
    return sorted({*range(0, last, max(part // 2, 1)), last})


def of_window(mask: Tensor | None, queries: Tensor, keys: Tensor) -> Tensor | None:
    """The mask of attention [...,N or 1,M] for some queries and keys."""
    if mask is None:
        return None
    mask = mask[..., keys]
    return mask if mask.shape[-2] == 1 else mask[..., queries, :]


def blurred(x: Tensor, side: int) -> Tensor:
    """``x`` [...,H,W,D] after a Gaussian blur over H and W of 2 side - 1 tokens with deviation 1, reflected at edges.

    >>> bool(torch.allclose(blurred(torch.ones(4, 4, 2), 2), torch.ones(4, 4, 2)))
    True
    """
    return gaussian_blur(x.movedim(-1, -3), 1.0, side - 1).movedim(-3, -1)
