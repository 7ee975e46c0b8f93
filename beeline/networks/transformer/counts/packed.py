"""Data of several sizes in rows of tokens without padding between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.declared import Stages
from beeline.core.errors import require
from beeline.core.types import Cond, Loss
from beeline.networks.fp32 import layer_norm
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.layout import Layout, asked
from beeline.networks.transformer.mixers import Attention
from beeline.networks.transformer.plans.plan import Around


def packed(
    net: FlowTransformer, data: Sequence[Tensor], t: Tensor, cond: Cond = None, *, context: int = 256
) -> list[Tensor]:
    """The outputs of a network for data [C,*sides] of several sizes, one time [n] and condition for each.

    Tokens of several data stand in one row of at most ``context`` tokens, in which a token sees those of its own datum
    alone; the outputs are those of each datum by itself.  ``fill`` tells how full the rows are.
    Source: Lu et al. 2024, "FiT" (arXiv 2402.12376); Zhai et al. 2022, "ByteTransformer" (arXiv 2210.03052).

    Raises ValueError for another mixer than Attention, for streams of conditions, and for data above ``context``.
    """
    mixer, what = net.settings["mixer"], asked()
    require(
        isinstance(mixer, Attention) and net.text is None and not isinstance(net.visit, Around) and not net.skips,
        f"packed got {type(net).__name__} with mixer={type(mixer).__name__} and plan={type(net.plan).__name__}; tokens "
        "of several data stand in one row, which other mixers would mix: use DiT with mixer=Attention and a plan such "
        "as Plain",
    )
    require(
        len(data) == len(t) > 0 and (net.any_size or all(tuple(x.shape) == net.shape for x in data)),
        f"packed got {len(data)} data and {len(t)} times for a network of shape {net.shape} with "
        f"any_size={net.any_size}; give one time for each datum, and build the network with any_size=True for several "
        "sizes",
    )
    every = [net.tokens(x[None]) for x in data]
    counts = [h.shape[1] for h, _, _ in every]
    rows = in_rows(counts, context)
    length = max(sum(counts[i] for i in row) for row in rows)
    h = torch.stack([_filled([every[i][0][0] for i in row], length) for row in rows])
    segments = torch.full(h.shape[:2], -1, dtype=torch.int64, device=h.device)
    for r, row in enumerate(rows):
        numbers = torch.tensor(row, device=h.device)
        segments[r, : sum(counts[i] for i in row)] = numbers.repeat_interleave(
            torch.tensor([counts[i] for i in row], device=h.device)
        )
    turns = [turn for _, _, turn in every if turn is not None]
    turn = torch.stack([_filled([turns[i] for i in row], length) for row in rows]) if turns else None
    layout = Layout((length,), turn, what.notes is not None, part=what.part, segments=segments)
    z = net.embed.total(t, cond)

    def out(h: Tensor, z: Tensor, layout: Layout) -> Tensor:
        shift, scale = layout.spread(net.tell(z, h)).chunk(2, -1)
        return torch.addcmul(shift, layer_norm(h), 1 + scale)

    found = net.run(Stages(h, [*net.told(F.silu(z).to(h.dtype), t, layout), (z, layout)], out), what)
    return [net.data(found[segments == i][None], x.shape)[0] for i, x in enumerate(data)]


def packed_loss(
    net: FlowTransformer,
    x0: Sequence[Tensor],
    x1: Sequence[Tensor],
    t: Tensor,
    cond: Cond = None,
    *,
    context: int = 256,
) -> Loss:
    """Flow matching on the straight path for pairs of several sizes: the mean over data of their mean squared errors.

    A datum counts as much as another, whatever its size.
    """
    states = [a + s * (b - a) for a, b, s in zip(x0, x1, t, strict=True)]
    found = packed(net, states, t, cond, context=context)
    errors = torch.stack([(v - (b - a)).square().mean() for v, a, b in zip(found, x0, x1, strict=True)])
    counts = [net.tokens(x[None])[0].shape[1] for x in x1]
    full = torch.tensor(fill(counts, context))
    return Loss(errors.mean(), {"loss": errors.mean().detach(), "fill": full}, errors.detach(), t)


def in_rows(counts: Sequence[int], context: int) -> list[list[int]]:
    """Which data stand in each row, by their numbers of tokens: the largest first, each in the first row that it fits.

    >>> in_rows([4, 9, 6, 3], 10)
    [[1], [2, 0], [3]]
    """
    require(
        max(counts) <= context,
        f"a datum has {max(counts)} tokens, and rows have context={context}; a datum stands in one row: set "
        f"context={max(counts)} or more, or make data smaller",
    )
    rows: list[list[int]] = []
    for i in sorted(range(len(counts)), key=lambda i: (-counts[i], i)):
        fitting = next((row for row in rows if sum(counts[j] for j in row) + counts[i] <= context), None)
        if fitting is None:
            rows.append([i])
        else:
            fitting.append(i)
    return rows


def fill(counts: Sequence[int], context: int) -> float:
    """The share of tokens of packed rows that belong to data; padded to the largest datum it is the mean over the most.

    >>> fill([4, 9, 6, 3], 10)
    0.7333333333333333
    """
    rows = in_rows(counts, context)
    return sum(counts) / (len(rows) * max(sum(counts[i] for i in row) for row in rows))


def _filled(parts: Sequence[Tensor], length: int) -> Tensor:
    """Parts [n_i,...] after each other, with zeros up to a length."""
    joined = torch.cat(list(parts))
    return torch.cat([joined, joined.new_zeros(length - len(joined), *joined.shape[1:])])
