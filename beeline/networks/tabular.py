"""Networks for tables: every column has an embedding, and may be known beforehand."""

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
    """Width, depth and dropout as given, or where None those that suit a number of rows: few are learned by heart.

    Numbers of rows are those of training; 0, which is unknown, stands for many.
    """
    usual = next(size for least, size in SIZES if (rows or math.inf) >= least)
    return (
        usual[0] if width is None else width,
        usual[1] if depth is None else depth,
        usual[2] if dropout is None else dropout,
    )


class ColumnLayout(nn.Module):
    """What the networks for tables share: the groups of coordinates, what is known, and what is put out.

    ``groups`` gives per column the widths of its blocks, 1 for a number (or bit) and K for one of K states.  With
    ``sharp`` the output is the expected datum (of the straight path): a state's coordinates are 2 softmax - 1, numbers
    are x + (1-t) v, and known cells are themselves, so that a flow with the prediction Data() carries them exactly to
    their place.  Without, it is a velocity.
    """

    numbers: Tensor  # coordinates that are numbers
    column: Tensor  # of every coordinate

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
            f"a network for tables got groups {self.groups} and shape {shape}; the groups give the widths of the "
            "blocks of every column, and together the size of a row: take both from the fitted table",
        )
        known = {"known": {"size": size}, "mask": {"size": len(self.groups)}}
        self.known: Conditions = {k: dict(v) for k, v in (conditions or {}).items()}
        require(
            not self.known or dict(self.known) == known,
            f"the conditions are described as {dict(self.known)}; this network knows cells of its own table, {known}, "
            "or none",
        )
        self.size, self.sharp, self.waves, self.short = size, sharp, waves, half
        starts = [0]
        for w in widths:
            starts.append(starts[-1] + w)
        states = [(a, w) for a, w in zip(starts, widths, strict=False) if w > 1]
        self.starts = {a for a, _ in states}
        self.blocks: list[tuple[int, int]] = []  # states one by one, and runs of numbers
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
        """Features of a row: coordinates, waves of the numbers, the known cells, and which columns are known."""
        return self.size + 2 * self.waves * len(self.numbers) + (self.size + len(self.groups) if self.known else 0)

    def settings(self) -> dict[str, Any]:
        return {"groups": self.groups, "shape": [self.size], "conditions": self.known, "sharp": self.sharp,
                "waves": self.waves, "half": self.short}  # fmt: skip

    def traits(self, offsets: Tensor) -> Traits:
        """What a network for this table declares."""
        return Traits({name: 0.0 for name in self.known}, self.groups, offsets, bool(self.known), self.sharp)

    def given(self, x: Tensor, cond: Cond) -> tuple[Tensor | None, Tensor | None]:
        """Known cells [B,D] and where they are, [B,D] and as columns [B,C]; none of both for None."""
        if cond is None or not self.known:
            require(
                cond is None,
                "a condition was given to a network for tables without any; build it with the conditions of the table",
            )
            return None, None
        found = dict(leaves(cond))
        require(
            set(found) == {"known", "mask"} and found["known"].shape == x.shape,
            f"the condition holds {sorted(found)} beside rows of {tuple(x.shape)}; "
            "it is {'known': [B,D], 'mask': [B,columns]}: make it with the table's condition(...)",
        )
        return found["known"].to(x.dtype), found["mask"].to(x.dtype)

    def features(self, x: Tensor, known: Tensor | None, mask: Tensor | None) -> Tensor:
        """[B,width_in]: the state where it is unknown, waves of numbers, the known cells, and the mask.

        Without known cells the last two, which would be zero, are left out.
        """
        noisy = x
        if known is not None and mask is not None:
            given = mask[:, self.column] > 0
            # a known cell has no noise, so it has weights of its own; its waves are those of a number like others
            x, noisy = torch.where(given, known, x), x.masked_fill(given, 0.0)
        parts = [noisy]
        if self.waves and len(self.numbers):
            # coordinates of numbers are normal; the finest wave resolves about 1/20 of their deviation at 8 waves
            turns = torch.arange(1, self.waves + 1, device=x.device, dtype=x.dtype) * (math.pi / 3)
            angle = (x[:, self.numbers, None] * turns).flatten(1)
            parts += [angle.sin(), angle.cos()]
        if known is not None and mask is not None:
            parts += [known, mask]
        return torch.cat(parts, 1)

    def finish(self, out: Tensor, x: Tensor, t: Tensor, known: Tensor | None, mask: Tensor | None) -> Tensor:
        """The output as an expected datum with ``sharp``, as it is without."""
        if not self.sharp:
            return out
        # block by block: a ragged softmax by gathering and scattering takes several times as long
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
    def narrow(self, x: Tensor) -> Iterator[None]:
        """Products in bfloat16 while learning or drawing; derivatives by the state are taken in full precision."""
        wanted = has_bfloat16(x.device) if self.short is None else self.short
        use = wanted and x.dtype == torch.float32 and (self.training or not torch.is_grad_enabled())
        with torch.autocast(x.device.type, torch.bfloat16, enabled=use):
            yield


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 faster than in float32."""
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()


class TabularBlock(nn.Module):
    """h + W2 dropout(silu((1 + scale) norm(h) W1 + shift)), with scale and shift told by the time."""

    def __init__(self, width: int, told: int, dropout: float):
        super().__init__()
        self.tell = zeroed(nn.Linear(told, 2 * width))
        self.inp = nn.Linear(width, width)
        self.out = zeroed(nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.tell(e).chunk(2, -1)
        u = F.silu(torch.addcmul(shift, self.inp(layer_norm(h)), 1 + scale))
        made: Tensor = h + self.out(self.dropout(u))
        return made


class TabularMLP(Declaring):
    """A residual network for rows of a table, gated by the time.

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
        conditions: Conditions | None = None,  # from the table: cells may be known
        span: bool = False,  # whether it takes the end of a jump as a second time
        dropout: float | None = None,  # 0 to 0.5; None is 0.4, 0.1 or 0
        rows: int = 0,  # of training, from the table; 0 stands for many
        sharp: bool = True,  # give the expected datum (for the prediction Data) instead of a velocity
        waves: int = 8,  # periodic features per number; 0 for none
        half: bool | None = False,  # products in bfloat16; None is where the processor has it
    ):
        super().__init__()
        self.columns = ColumnLayout(groups, shape, conditions, sharp, waves, half)
        width, depth, dropout = default_size(rows, width, depth, dropout)
        check_dropout(type(self).__name__, dropout)
        require(
            width >= 1 and depth >= 1,
            f"TabularMLP got width={width} and depth={depth}; both are whole numbers from 1: 384 and 4 are usual",
        )
        told = 128
        self.plain: dict[str, Any] = {"width": width, "depth": depth, "span": span, "dropout": dropout}
        self.time = TimeEmbedding(told, span, scale=200.0)
        self.inp = nn.Linear(self.columns.width_in, width)
        self.block = nn.ModuleList(TabularBlock(width, told, dropout) for _ in range(depth))
        self.out = zeroed(nn.Linear(width, self.columns.size))

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"block": self.block}

    @property
    def offsets(self) -> Tensor:
        """[D]: what is added to every output, the logits of states among them."""
        return self.out.get_parameter("bias")

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal network is built."""
        return {**self.columns.settings(), **self.plain}

    @property
    def traits(self) -> Traits:
        return self.columns.traits(self.offsets)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None, *, logits: bool = False) -> Any:
        check_state(self, x, t, (self.columns.size,))
        known, mask = self.columns.given(x, cond)
        e = F.silu(self.time(*collapse_equal_times(t, s))).to(x.dtype)
        with self.columns.narrow(x):
            features = self.columns.features(x, known, mask)
            h = F.linear(features, self.inp.weight[:, : features.shape[1]], self.inp.bias)
            for block in self.block:
                h = block(h, e)
            out = self.out(layer_norm(h))
        made = self.columns.finish(out.to(x.dtype), x, t, known, mask)
        return (made, out) if logits else made


class RowBlock(nn.Module):
    """Attention between the columns of a row, then a layer for each, both gated by the time."""

    def __init__(self, width: int, heads: int, told: int, dropout: float):
        super().__init__()
        self.tell = zeroed(nn.Linear(told, 6 * width))
        self.mix = SelfAttention(width, heads)
        self.layer = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        a, b, c, d, f, g = self.tell(e)[:, None].chunk(6, -1)
        h = h + c * self.mix(torch.addcmul(b, layer_norm(h), 1 + a))
        made: Tensor = h + g * self.layer(torch.addcmul(f, layer_norm(h), 1 + d))
        return made


class TabularTransformer(Declaring):
    """A transformer over the columns of a row, for wide tables: it grows with the columns, not with their width.

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
        conditions: Conditions | None = None,  # from the table: cells may be known
        span: bool = False,  # whether it takes the end of a jump as a second time
        dropout: float | None = None,  # 0 to 0.5; None is 0.4, 0.1 or 0
        rows: int = 0,  # of training, from the table; 0 stands for many
        sharp: bool = True,  # give the expected datum (for the prediction Data) instead of a velocity
        waves: int = 8,  # periodic features per number; 0 for none
        half: bool | None = False,  # products in bfloat16; None is where the processor has it
    ):
        super().__init__()
        self.columns = ColumnLayout(groups, shape, conditions, sharp, waves, half)
        width, depth, dropout = default_size(rows, width, depth, dropout)
        check_dropout(type(self).__name__, dropout)
        told = 128
        self.plain: dict[str, Any] = {"width": width, "depth": depth, "heads": heads, "span": span, "dropout": dropout}
        self.time = TimeEmbedding(told, span, scale=200.0)
        owner = self._owners()
        count = len(self.columns.groups)
        # one layer for all columns, of which each token sees the rows of its own features only
        self.inp = nn.Parameter(torch.randn(len(owner), width) / math.sqrt(max(1, len(owner) // count)))
        self.name = nn.Parameter(torch.randn(count, width) * 0.5)
        self.out = nn.Parameter(torch.zeros(self.columns.size, width))
        self.bias = nn.Parameter(torch.zeros(self.columns.size))
        self.register_buffer("owner", torch.tensor(owner), persistent=False)
        self.block = nn.ModuleList(RowBlock(width, heads, told, dropout) for _ in range(depth))

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
        """[D]: what is added to every output, the logits of states among them."""
        return self.bias

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal network is built."""
        return {**self.columns.settings(), **self.plain}

    @property
    def traits(self) -> Traits:
        return self.columns.traits(self.offsets)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None, *, logits: bool = False) -> Any:
        check_state(self, x, t, (self.columns.size,))
        known, mask = self.columns.given(x, cond)
        e = F.silu(self.time(*collapse_equal_times(t, s))).to(x.dtype)
        with self.columns.narrow(x):
            features = self.columns.features(x, known, mask)
            used = features.shape[1]
            own = features[..., None] * self.inp[:used]
            tokens = self.name.repeat(len(x), 1, 1).index_add(1, self.owner[:used], own)
            for block in self.block:
                tokens = block(tokens, e)
            out = (layer_norm(tokens)[:, self.columns.column] * self.out).sum(-1) + self.bias
        made = self.columns.finish(out.to(x.dtype), x, t, known, mask)
        return (made, out) if logits else made
