"""Networks for tables, with optional conditioning on known cells."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.declared import Declaring, Traits
from beeline.core.errors import require
from beeline.core.types import Cond, leaves
from beeline.networks.attention import SelfAttention
from beeline.networks.checks import check_dropout
from beeline.networks.embed import Conditions, TimeEmbedding, check_state, collapse_equal_times
from beeline.networks.fp32 import layer_norm, zeroed

SIZES = ((10_000, (384, 4, 0.0)), (2_000, (256, 3, 0.1)), (0, (128, 2, 0.4)))  # least rows: width, depth, dropout


def default_size(rows: int, width: int | None, depth: int | None, dropout: float | None) -> tuple[int, int, float]:
    """Width, depth and dropout as given, or for None the default for the number of training rows (0: unknown).

    Smaller tables get smaller networks with more dropout, against overfitting.
    """
    usual = next(size for least, size in SIZES if (rows or math.inf) >= least)
    return (
        usual[0] if width is None else width,
        usual[1] if depth is None else depth,
        usual[2] if dropout is None else dropout,
    )


class ColumnLayout(nn.Module):
    """The layout of table rows [B,D], shared by the networks for tables: input features, known cells and output.

    ``groups`` gives per column the widths of its blocks: 1 for a number (or bit), K for a category with K values.  With
    ``sharp`` the output is the expected datum on the straight path: 2 softmax - 1 for categories, x + (1-t) v for
    numbers, and the given values for known cells, which the prediction Data() therefore reproduces exactly.  Without
    ``sharp`` it is a velocity.
    """

    numbers: Tensor  # indices of the coordinates that are numbers
    column: Tensor  # [D] column of each coordinate

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        shape: Sequence[int] | None,
        conditions: Conditions | None,
        sharp: bool,
        waves: int,
        half: bool | None,
    ):
        super().__init__()
        self.groups = [[int(w) for w in group] for group in groups]
        widths = [w for group in self.groups for w in group]
        size = sum(widths)
        require(
            bool(widths) and min(widths) >= 1 and (shape is None or tuple(shape) == (size,)),
            f"a network for tables got groups={self.groups} and shape={shape}; the block widths of all columns must "
            "sum to the size of a row: use both from the fitted table",
        )
        known = {"known": {"size": size}, "mask": {"size": len(self.groups)}}
        self.known: Conditions = {k: dict(v) for k, v in (conditions or {}).items()}
        require(
            not self.known or dict(self.known) == known,
            f"a network for tables got conditions={dict(self.known)}; it supports known cells only: pass {known}, or "
            "None",
        )
        self.size, self.sharp, self.waves, self.short = size, sharp, waves, half
        starts = [0]
        for w in widths:
            starts.append(starts[-1] + w)
        states = [(a, w) for a, w in zip(starts, widths, strict=False) if w > 1]
        self.starts = {a for a, _ in states}
        self.blocks: list[tuple[int, int]] = []  # each category, and runs of consecutive numbers
        for a, w in zip(starts, widths, strict=False):
            if w == 1 and self.blocks and self.blocks[-1][0] not in self.starts:
                self.blocks[-1] = (self.blocks[-1][0], self.blocks[-1][1] + 1)
            else:
                self.blocks.append((a, w))
        numbers = [a for a, w in zip(starts, widths, strict=False) if w == 1]
        column = [c for c, group in enumerate(self.groups) for w in group for _ in range(w)]
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64), persistent=False)
        self.register_buffer("column", torch.tensor(column), persistent=False)

    @property
    def width_in(self) -> int:
        """Number of input features: coordinates, periodic features of numbers, known cells and their mask."""
        return self.size + 2 * self.waves * len(self.numbers) + (self.size + len(self.groups) if self.known else 0)

    def settings(self) -> dict[str, Any]:
        return {"groups": self.groups, "shape": [self.size], "conditions": self.known, "sharp": self.sharp,
                "waves": self.waves, "half": self.short}  # fmt: skip

    def traits(self, offsets: Tensor) -> Traits:
        """The traits of a network for this table."""
        return Traits({name: 0.0 for name in self.known}, self.groups, offsets, bool(self.known), self.sharp)

    def known_cells(self, x: Tensor, cond: Cond) -> tuple[Tensor | None, Tensor | None]:
        """The values [B,D] of known cells and their mask by column [B,C]; (None, None) without a condition."""
        if cond is None or not self.known:
            require(
                cond is None,
                "cond was passed to a network for tables without conditions, which would ignore it; build it with the "
                "conditions of the table",
            )
            return None, None
        found = dict(leaves(cond))
        require(
            set(found) == {"known", "mask"} and found["known"].shape == x.shape,
            f"the condition has the names {sorted(found)} for rows of shape {tuple(x.shape)}; it must be "
            "{'known': [B,D], 'mask': [B,columns]}: create it with the table's condition(...)",
        )
        return found["known"].to(x.dtype), found["mask"].to(x.dtype)

    def features(self, x: Tensor, known: Tensor | None, mask: Tensor | None) -> Tensor:
        """Input features [B,width_in]: unknown cells of the state, periodic features, known cells and their mask.

        Without known cells the last two, which would be zero, are omitted.
        """
        noisy = x
        if known is not None and mask is not None:
            given = mask[:, self.column] > 0
            # a known cell has no noise and separate weights; its periodic features are those of any number
            x, noisy = torch.where(given, known, x), x.masked_fill(given, 0.0)
        parts = [noisy]
        if self.waves and len(self.numbers):
            # numbers are standardised; with 8 waves the highest frequency resolves about 1/20 standard deviation
            turns = torch.arange(1, self.waves + 1, device=x.device, dtype=x.dtype) * (math.pi / 3)
            angle = (x[:, self.numbers, None] * turns).flatten(1)
            parts += [angle.sin(), angle.cos()]
        if known is not None and mask is not None:
            parts += [known, mask]
        return torch.cat(parts, 1)

    def finish(self, out: Tensor, x: Tensor, t: Tensor, known: Tensor | None, mask: Tensor | None) -> Tensor:
        """The output [B,D] converted to an expected datum with ``sharp``, else unchanged."""
        if not self.sharp:
            return out
        # per block: a ragged softmax by gather and scatter takes several times as long
        parts, left = [], (1 - t).to(x.dtype)[:, None]
        for start, width in self.blocks:
            here = out[:, start : start + width]
            state = start in self.starts
            parts.append(2 * here.softmax(1) - 1 if state else torch.addcmul(x[:, start : start + width], left, here))
        out = torch.cat(parts, 1)
        if known is not None and mask is not None:
            out = torch.where(mask[:, self.column] > 0, known, out)
        return out

    @contextlib.contextmanager
    def autocast_bfloat16(self, x: Tensor) -> Iterator[None]:
        """Context manager: bfloat16 autocast in training and sampling, not for derivatives in the state."""
        wanted = has_bfloat16(x.device) if self.short is None else self.short
        use = wanted and x.dtype == torch.float32 and (self.training or not torch.is_grad_enabled())
        with torch.autocast(x.device.type, torch.bfloat16, enabled=use):
            yield


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has fast bfloat16 products."""
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()


class TabularBlock(nn.Module):
    """h + W2 dropout(silu((1 + scale) norm(h) W1 + shift)), with scale and shift from the time."""

    def __init__(self, width: int, embed_width: int, dropout: float):
        super().__init__()
        self.tell = zeroed(nn.Linear(embed_width, 2 * width))
        self.inp = nn.Linear(width, width)
        self.out = zeroed(nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.tell(e).chunk(2, -1)
        u = F.silu(torch.addcmul(shift, self.inp(layer_norm(h)), 1 + scale))
        result: Tensor = h + self.out(self.dropout(u))
        return result


class TabularMLP(Declaring):
    """A residual network for rows of a table, modulated by the time.

    h = W features(x, known);  h <- h + W2 silu((1 + scale(t)) W1 norm(h) + shift(t)), depth times;  output = W norm(h)
    Assumes [B,D] rows whose columns are the ``groups``; the first layer holds an embedding of every column.
    Source: Zhang et al. 2025, "RecTable" (arXiv 2503.20731), whose gates these are; periodic features of numbers after
    Gorishniy et al. 2022 (arXiv 2203.05556); softmax outputs after Eijkelboom et al. 2024 (arXiv 2406.04843).

    >>> TabularMLP([[1], [3]], width=32)(torch.zeros(2, 4), torch.zeros(2)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],  # per column the widths of its blocks, from the table
        width: int | None = None,  # 64 to 1024; None is 128, 256 or 384 by the number of rows
        depth: int | None = None,  # blocks; None is 2, 3 or 4
        *,
        shape: Sequence[int] | None = None,  # of a row, from the table
        conditions: Conditions | None = None,  # from the table, for known cells
        span: bool = False,  # take the end of a jump as a second time, for flow maps
        dropout: float | None = None,  # 0 to 0.5; None is 0.4, 0.1 or 0
        rows: int = 0,  # number of training rows, from the table; 0: unknown
        sharp: bool = True,  # output the expected datum (prediction Data) instead of a velocity
        waves: int = 8,  # periodic features per number; 0 for none
        half: bool | None = False,  # bfloat16 products; None: if the processor supports them
    ):
        super().__init__()
        self.columns = ColumnLayout(groups, shape, conditions, sharp, waves, half)
        width, depth, dropout = default_size(rows, width, depth, dropout)
        check_dropout(type(self).__name__, dropout)
        require(
            width >= 1 and depth >= 1,
            f"TabularMLP got width={width} and depth={depth}; both are whole numbers from 1: 384 and 4 are usual",
        )
        embed_width = 128
        self.plain: dict[str, Any] = {"width": width, "depth": depth, "span": span, "dropout": dropout}
        self.time = TimeEmbedding(embed_width, span, scale=200.0)
        self.inp = nn.Linear(self.columns.width_in, width)
        self.block = nn.ModuleList(TabularBlock(width, embed_width, dropout) for _ in range(depth))
        self.out = zeroed(nn.Linear(width, self.columns.size))

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"block": self.block}

    @property
    def offsets(self) -> Tensor:
        """Bias [D] of the output, including the logits of categories."""
        return self.out.get_parameter("bias")

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self.columns.settings(), **self.plain}

    @property
    def traits(self) -> Traits:
        return self.columns.traits(self.offsets)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None, *, logits: bool = False) -> Any:
        check_state(self, x, t, (self.columns.size,))
        known, mask = self.columns.known_cells(x, cond)
        e = F.silu(self.time(*collapse_equal_times(t, s))).to(x.dtype)
        with self.columns.autocast_bfloat16(x):
            features = self.columns.features(x, known, mask)
            h = F.linear(features, self.inp.weight[:, : features.shape[1]], self.inp.bias)
            for block in self.block:
                h = block(h, e)
            out = self.out(layer_norm(h))
        result = self.columns.finish(out.to(x.dtype), x, t, known, mask)
        return (result, out) if logits else result


class RowBlock(nn.Module):
    """A transformer block over the columns of a row, modulated by the time."""

    def __init__(self, width: int, heads: int, embed_width: int, dropout: float):
        super().__init__()
        self.tell = zeroed(nn.Linear(embed_width, 6 * width))
        self.mix = SelfAttention(width, heads)
        self.layer = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        a, b, c, d, f, g = self.tell(e)[:, None].chunk(6, -1)
        h = h + c * self.mix(torch.addcmul(b, layer_norm(h), 1 + a))
        result: Tensor = h + g * self.layer(torch.addcmul(f, layer_norm(h), 1 + d))
        return result


class TabularTransformer(Declaring):
    """A transformer over the columns of a row, for tables with many columns.

    token of a column = W_c features(x_c) + embedding_c;  blocks with adaLN;  output of a column = V_c norm(token)
    Assumes [B,D] rows whose columns are the ``groups``.
    Source: Gorishniy et al. 2021, FT-Transformer (arXiv 2106.11959); adaLN: Peebles and Xie 2022 (arXiv 2212.09748).

    >>> TabularTransformer([[1], [3]], width=32, heads=2)(torch.zeros(2, 4), torch.zeros(2)).shape
    torch.Size([2, 4])
    """

    owner: Tensor  # the column of every feature

    def __init__(
        self,
        groups: Sequence[Sequence[int]],  # per column the widths of its blocks, from the table
        width: int = 64,  # of a token, a multiple of heads
        depth: int | None = None,  # blocks; None is 2, 3 or 4 by the number of rows
        heads: int = 4,
        *,
        shape: Sequence[int] | None = None,  # of a row, from the table
        conditions: Conditions | None = None,  # from the table, for known cells
        span: bool = False,  # take the end of a jump as a second time, for flow maps
        dropout: float | None = None,  # 0 to 0.5; None is 0.4, 0.1 or 0
        rows: int = 0,  # number of training rows, from the table; 0: unknown
        sharp: bool = True,  # output the expected datum (prediction Data) instead of a velocity
        waves: int = 8,  # periodic features per number; 0 for none
        half: bool | None = False,  # bfloat16 products; None: if the processor supports them
    ):
        super().__init__()
        self.columns = ColumnLayout(groups, shape, conditions, sharp, waves, half)
        width, depth, dropout = default_size(rows, width, depth, dropout)
        check_dropout(type(self).__name__, dropout)
        embed_width = 128
        self.plain: dict[str, Any] = {"width": width, "depth": depth, "heads": heads, "span": span, "dropout": dropout}
        self.time = TimeEmbedding(embed_width, span, scale=200.0)
        owner = self._owners()
        count = len(self.columns.groups)
        # one layer for all columns, of which each token sees the rows of its own features only
        self.inp = nn.Parameter(torch.randn(len(owner), width) / math.sqrt(max(1, len(owner) // count)))
        self.name = nn.Parameter(torch.randn(count, width) * 0.5)
        self.out = nn.Parameter(torch.zeros(self.columns.size, width))
        self.bias = nn.Parameter(torch.zeros(self.columns.size))
        self.register_buffer("owner", torch.tensor(owner), persistent=False)
        self.block = nn.ModuleList(RowBlock(width, heads, embed_width, dropout) for _ in range(depth))

    def _owners(self) -> list[int]:
        column = self.columns.column.tolist()
        waved = [column[i] for i in self.columns.numbers.tolist() for _ in range(self.columns.waves)]
        known = [*column, *range(len(self.columns.groups))] if self.columns.known else []
        return [*column, *waved, *waved, *known]

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"block": self.block}

    @property
    def offsets(self) -> Tensor:
        """Bias [D] of the output, including the logits of categories."""
        return self.bias

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self.columns.settings(), **self.plain}

    @property
    def traits(self) -> Traits:
        return self.columns.traits(self.offsets)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None, *, logits: bool = False) -> Any:
        check_state(self, x, t, (self.columns.size,))
        known, mask = self.columns.known_cells(x, cond)
        e = F.silu(self.time(*collapse_equal_times(t, s))).to(x.dtype)
        with self.columns.autocast_bfloat16(x):
            features = self.columns.features(x, known, mask)
            used = features.shape[1]
            own = features[..., None] * self.inp[:used]
            tokens = self.name.repeat(len(x), 1, 1).index_add(1, self.owner[:used], own)
            for block in self.block:
                tokens = block(tokens, e)
            out = (layer_norm(tokens)[:, self.columns.column] * self.out).sum(-1) + self.bias
        result = self.columns.finish(out.to(x.dtype), x, t, known, mask)
        return (result, out) if logits else result
