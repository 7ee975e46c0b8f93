"""Attentions in groups of tokens: windows of a pyramid, slices, frames in order, windows with latents."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.modes import wide
from beeline.core.ranges import Count, Range, dataclass
from beeline.networks.attention import SelfAttention, attend
from beeline.networks.fp32 import layer_norm
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.mixers import AttentionMixer, Core, CoreMixer
from beeline.networks.transformer.mixing.groups import apart, check_grid, in_groups, runs, seen, tiles
from beeline.networks.transformer.mixing.scan import before, recurrence

DOWN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
UP = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class SlicedAttention(CoreMixer):
    """Softmax attention inside groups of tokens.

    o_i = softmax over the group of i of (q_i k' / sqrt(d)) v
    Half of the heads cut the tokens in runs, the others deal them (token i is in group i modulo ``groups``), so that
    two blocks join all pairs where N >= groups^2.  Its time falls with the number of groups.  Tokens of conditions are
    seen by all groups and see all tokens.
    Source: Shen, Liu and Xing 2021, "Sliced Recursive Transformer" (arXiv 2111.09297), which permutes at random.

    >>> SlicedAttention().groups
    4
    """

    alike: ClassVar[bool] = False
    groups: Count = 4  # equal parts of the tokens; 1 is softmax attention

    def core(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        cut, joined = runs(min(self.groups, layout.tokens), q.shape[1] // 2)
        return apart(q, k, v, layout, cut, lambda y: joined(y)[:, :, : layout.tokens])


class Pyramid(nn.Module):
    """Attention inside windows of several resolutions, summed."""

    def __init__(self, width: int, axes: int, window: int, levels: int):
        super().__init__()
        self.axes, self.window, self.levels = axes, window, levels
        if levels > 1:
            self.down = nn.Parameter(torch.full((width, 1, *[2] * axes), 0.5**axes))
            self.up = nn.Parameter(torch.zeros(width, 1, *[2] * axes))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        check_grid(layout, self.axes)
        fine = apart(q, k, v, layout, *tiles(layout.grid, self.window))
        grids, every = [layout.grid], [torch.cat([y[:, :, : layout.tokens] for y in (q, k, v)])]
        while len(grids) < self.levels and max(grids[-1]) > self.window:
            every.append(self.resized(every[-1], grids[-1], True))
            grids.append(tuple(-(-n // 2) for n in grids[-1]))
        coarse: Tensor | None = None
        for level in range(len(grids) - 1, 0, -1):
            (f, g, u), (cut, joined) = every[level].chunk(3), tiles(grids[level], self.window)
            mixed = apart(f, g, u, Layout(grids[level]), cut, joined)
            coarse = self.resized(mixed if coarse is None else mixed + coarse, grids[level], False)
            for axis, n in enumerate(grids[level - 1]):
                coarse = coarse.narrow(2 + axis, 0, n)
            coarse = coarse.flatten(2, -2)
        return (
            fine
            if coarse is None
            else torch.cat([fine[:, :, : layout.tokens] + coarse, fine[:, :, layout.tokens :]], 2)
        )

    def resized(self, y: Tensor, grid: tuple[int, ...], down: bool) -> Tensor:
        """Tokens [B,H,N,d] of half the sides, rounded up; or a grid [B,H,*sides,d] of twice the sides."""
        axes, (b, h, _, d) = len(grid), y.shape
        y = y.transpose(2, 3).reshape(b, h * d, *grid)
        if down:
            y = F.pad(y, [p for n in grid[::-1] for p in (0, n % 2)])
            y = DOWN[axes](y, self.down.to(y), stride=2, groups=h * d)
            return y.reshape(b, h, d, -1).transpose(2, 3)
        y = UP[axes](y, self.up.to(y), stride=2, groups=h * d)
        return y.unflatten(1, (h, d)).movedim(2, -1)


@dataclass(frozen=True)
class Multipole(AttentionMixer):
    """Softmax attention inside windows of a pyramid of resolutions, summed: near tokens in full, far ones together.

    (q, k, v)_{l+1} = D (q, k, v)_l,  o = o_0 + U (o_1 + U (o_2 + ..)),  o_l = attention inside windows of level l
    D and U are convolutions of 2 patches a side with a stride of 2 for every channel, the same on all levels; D is the
    mean and U zero at first.  Levels end where one window holds the grid; its time grows with the number of tokens.
    Tokens of conditions are seen by all windows of level 0.
    Source: Colagrande et al. 2025, "Linear Attention with Global Context: A Multipole Attention Mechanism for Vision
    and Physics" (arXiv 2507.02748).

    >>> Multipole(window=4).levels
    3
    """

    window: Count = 8  # patches along a side of a window; 4 to 16
    levels: Count = 3  # at most; with fewer than log2(side / window) + 1 some tokens do not see each other in one block

    def made(self, width: int, heads: int, grid: tuple[int, ...]) -> Core:
        needed = 1
        while (max(grid) - 1) >> (needed - 1) >= self.window:  # (n - 1) >> l is the largest index of level l
            needed += 1
        return Pyramid(width, len(grid), self.window, min(self.levels, needed))


class Frames(nn.Module):
    """Softmax attention inside frames, and a state of the frames before."""

    def __init__(self, width: int, heads: int, axes: int):
        super().__init__()
        self.axes = axes
        self.gate = nn.Parameter(torch.zeros(heads, width // heads, 1))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        check_grid(layout, self.axes)
        n, d = layout.tokens, q.shape[-1]
        cut, joined = runs(layout.grid[0])
        more = (k[:, :, n:], v[:, :, n:])
        f, g, u = (cut(y[:, :, :n]) for y in (q, k, v))
        inside = in_groups(f, g, u, seen(layout, cut, q), more if q.shape[2] > n else None)
        kept = F.logsigmoid(wide(g) @ self.gate.to(wide(g))[:, None]).mean(3, keepdim=True) / 16
        states = (wide(g).mT @ wide(u) / (g.shape[3] * d**0.5)).transpose(1, 2)  # [B,S,H,d,d]
        past = before(recurrence(kept.exp().transpose(1, 2).expand_as(states), states)).transpose(1, 2)
        mixed = joined(inside + (wide(f) @ past).to(v.dtype))
        return mixed if q.shape[2] == n else torch.cat([mixed, attend(q[:, :, n:], *more, _others(layout))], 2)


def _others(layout: Layout) -> Tensor | None:
    """Which tokens of conditions may be seen."""
    return None if layout.mask is None else layout.mask[..., layout.tokens :]


@dataclass(frozen=True)
class ChunkCausal(AttentionMixer):
    """Softmax attention inside each frame, and linear attention to the frames before it.

    o_s = softmax(q_s k_s' / sqrt(d)) v_s + q_s S_{s-1},  S_s = gamma_s S_{s-1} + k_s' v_s / (n sqrt(d)),  S_0 = 0
    gamma_s = exp(mean log sigmoid(w k_s) / 16)
    A frame is a slice of the first axis: of a video, or a row of an image.  No frame sees a later one.  Tokens of
    conditions are seen by all frames and see each other.
    Source: Hui et al. 2025, "ARFlow: Autoregressive Flow with Hybrid Linear Attention" (arXiv 2501.16085).

    >>> ChunkCausal()
    ChunkCausal()
    """

    def made(self, width: int, heads: int, grid: tuple[int, ...]) -> Core:
        require(
            len(grid) > 1,
            f"ChunkCausal got data with {len(grid)} axis; its first axis is that of the frames, and others have their "
            "patches: use mixer=Causal() for sequences",
        )
        return Frames(width, heads, len(grid))


@dataclass(frozen=True)
class Causal(CoreMixer):
    """Softmax attention in which a token sees itself and those before it.

    o_i = softmax over j <= i of (q_i k_j' / sqrt(d)) v_j
    The order is that of the patches, row by row.  Tokens of conditions come first: all tokens see them.
    Source: Vaswani et al. 2017 (arXiv 1706.03762); as the trunk of a velocity: Ma et al. 2024, "JanusFlow" (arXiv
    2411.07975).

    >>> Causal()
    Causal()
    """

    def core(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        n, total = layout.tokens, q.shape[2]
        mask = torch.ones(total, total, dtype=torch.bool, device=q.device)
        mask[:n, :n] = mask[:n, :n].tril()
        mask[n:, :n] = False
        bias = layout.bias(k)  # of tokens that may be seen, or that stand for several
        if bias is not None:
            mask = mask & bias if bias.dtype == torch.bool else bias.masked_fill(~mask, -torch.inf)
        return attend(q, k, v, mask)


class Interleaved(nn.Module):
    """Attention inside windows, and latents of the windows that see each other."""

    def __init__(self, width: int, heads: int, window: int, latents: int):
        super().__init__()
        self.window = window
        self.table = nn.Parameter(torch.randn(heads, 1, latents, width // heads))
        self.all = SelfAttention(width, heads)
        self.tell = nn.Linear(width, 2 * width)
        self.write = nn.Parameter(torch.zeros(heads, 1, width // heads))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        cut, joined = tiles(layout.grid, self.window)
        n, heads = layout.tokens, q.shape[1]
        own = Layout(layout.grid, keep=None if layout.keep is None else layout.keep[:, :n])
        f, g, u = (cut(y[:, :, :n]) for y in (q, k, v))
        read = in_groups(self.table.to(q).expand(len(q), -1, f.shape[2], -1, -1), g, u, seen(own, cut, q[:, :, :n]))
        latents = read.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)  # [B,Gm,D]
        latents = latents + self.all(layer_norm(latents))
        told = self.tell(layer_norm(latents)).unflatten(1, (f.shape[2], -1)).unflatten(-1, (2, heads, -1))
        wrote = joined(in_groups(f, *told.permute(3, 0, 4, 1, 2, 5).unbind(0)))
        mixed = apart(q, k, v, layout, cut, joined)
        return torch.cat([mixed[:, :, :n] + self.write.to(q) * wrote, mixed[:, :, n:]], 2)


@dataclass(frozen=True)
class WindowsWithLatents(AttentionMixer):
    """Softmax attention inside windows, which tell each other by a few latents each.

    l = softmax(c k' / sqrt(d)) v of a window,  l <- l + attention(norm(l)) over all windows
    o = attention inside the window + a * softmax(q k(l)' / sqrt(d)) v(l),  a = 0 at first
    Pairs are N n + 2 N m + (N m / n)^2 for windows of n tokens with m latents.  In the paper latents live from block to
    block; here every block reads its own.  Tokens of conditions are seen by all windows.
    Source: Chen and Li 2023, "FIT: Far-reaching Interleaved Transformers" (arXiv 2305.12689).

    >>> WindowsWithLatents().latents
    4
    """

    window: Count = 8  # patches along a side of a window
    latents: Annotated[int, Range(least=1)] = 4  # of a window; 4 to 16

    def made(self, width: int, heads: int, grid: tuple[int, ...]) -> Core:
        return Interleaved(width, heads, self.window, self.latents)
