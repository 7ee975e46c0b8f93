"""Low-rank changes of linear layers, each token with its own amount of several of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.declared import TokenGrid, traits_of
from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import bind
from beeline.networks.skipping import ChangedBlocks, block_names, kind_of, with_forward

ATTENTION = ("qkv", "out", "to_q", "to_k", "to_v", "to_out.0")  # names of the layers of attention in blocks


class LowRank(nn.Module):
    """Low-rank changes of linear layers in the blocks of a network, which is not changed (LoRA).

    W x + scale U D x,  D [rank, in] random, U [out, rank] zero at first
    ``layers`` are ends of the names of layers in a block.  Raises ValueError where no layer has such a name.
    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).

    >>> from beeline.networks.dit import DiT
    >>> len(list(LowRank(DiT((1, 8, 8), width=16, depth=2), rank=2).parameters()))
    8
    """

    def __init__(self, field: Any, rank: int = 4, scale: float = 1.0, layers: Sequence[str] = ATTENTION, seed: int = 0):
        super().__init__()
        require(rank >= 1, f"LowRank got rank={rank}; it is the number of columns of a change: give 1 or more")
        self.scale, self.down, self.up = scale, nn.ParameterDict(), nn.ParameterDict()
        found: dict[str, nn.Linear] = {}

        def note(name: str, block: nn.Module) -> Callable[..., Any]:
            found.update(
                {key(name, path): layer for path, layer in linear_layers(block) if path.endswith(tuple(layers))}
            )
            return block.forward

        with_forward(field, block_names(field), note)
        require(
            bool(found),
            f"LowRank got layers={tuple(layers)} for {kind_of(field)}, whose blocks have no linear layer with such a "
            "name; give the ends of names of layers",
        )
        for name, layer in found.items():
            noise = Rng(seed).fork(name).normal(torch.empty(rank, layer.in_features))
            self.down[name] = nn.Parameter((noise / layer.in_features**0.5).to(layer.weight.device))
            self.up[name] = nn.Parameter(torch.zeros(layer.out_features, rank, device=layer.weight.device))

    def change(self, name: str, x: Tensor) -> Tensor:
        """The change [...,out] of the output of a layer for its input [...,in]."""
        return self.scale * F.linear(F.linear(x, self.down[name].to(x.dtype)), self.up[name].to(x.dtype))


class Gates:
    """How much of every adapter tokens of a picture take; a text takes none.  Without them all take everything."""

    def __init__(self, masks: Sequence[Tensor] | None, tokens: Callable[[Sequence[int]], TokenGrid] | None):
        self.masks = None if masks is None else [m.flatten(1) for m in masks]  # of every adapter: [B,N]
        self.tokens, self.grid = tokens, TokenGrid(0, 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Gates:
        return self  # shared by copies of the network

    def __call__(self, k: int, layer: str, x: Tensor) -> Tensor | None:
        """The gate [R,L,1] of adapter ``k`` for the input [R,L,C] of a layer; None is everything."""
        if self.masks is None:
            return None
        mask, n = self.masks[k], self.grid.rows * self.grid.columns
        require(
            x.ndim == 3 and mask.shape[1] == n,
            f"a gate of {mask.shape[1]} tokens was given for the layer {layer!r}, whose input has shape "
            f"{tuple(x.shape)}, and a picture of {n} tokens; gates are for layers that act on tokens: leave others out "
            "of layers=, and give one weight for every token",
        )
        gate = mask.to(x).repeat(len(x) // len(mask), 1)
        more = x.shape[1] - n
        if more < 0:
            return gate.new_zeros(len(x), x.shape[1], 1)  # the stream of a text
        return F.pad(gate, (0, more) if self.grid.first else (more, 0))[..., None]


class Adapted(ChangedBlocks):
    """A field with low-rank changes in its layers."""

    def __init__(self, field: Any, gates: Gates):
        super().__init__(field)
        self.gates = gates

    def around(self, field: Any) -> Adapted:
        return Adapted(field, self.gates)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, *s: Tensor) -> Tensor:
        if self.gates.tokens is not None:
            self.gates.grid = self.gates.tokens(tuple(x.shape[1:]))
        return bind(self.field, cond)(x, t, *s)


def with_adapters(field: Any, adapters: Sequence[LowRank], masks: Sequence[Tensor] | None = None) -> Adapted:
    """A field with the same weights to whose layers low-rank changes are added; ``field`` is not changed.

    y = W x + sum_k m_k scale_k U_k D_k x
    ``masks`` [B,N] or [B,rows,columns] of every adapter hold the m_k of the tokens of a picture; without masks they are
    1, and each token of a text also takes all.  Raises ValueError for another number of masks, and for masks of a
    field that does not declare the tokens of an image.
    """
    require(
        masks is None or len(masks) == len(adapters),
        f"{len(adapters)} adapters got {0 if masks is None else len(masks)} masks; give one for each",
    )
    tokens = traits_of(field).tokens
    require(
        masks is None or tokens is not None,
        f"masks of adapters were given for {kind_of(field)}, which does not declare the tokens of an image; use "
        "networks.DiT, a bundle such as of FLUX, or no masks",
    )
    gates = Gates(masks, tokens)

    def change(name: str, block: nn.Module) -> Callable[..., Any]:
        for path, layer in linear_layers(block):
            full = key(name, path)
            if any(full in adapter.down for adapter in adapters):
                layer.forward = _gated(full, layer.forward, adapters, gates)  # type: ignore[assignment, method-assign]
        return block.forward

    return Adapted(with_forward(field, block_names(field), change), gates)


def linear_layers(block: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of a block by name."""
    return ((path, layer) for path, layer in block.named_modules() if isinstance(layer, nn.Linear))


def key(block: str, path: str) -> str:
    """The name of a layer as that of a parameter."""
    return f"{block}.{path}".replace(".", "/")


def _gated(
    name: str, inner: Callable[[Tensor], Tensor], adapters: Sequence[LowRank], gates: Gates
) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        y = inner(x)
        for k, adapter in enumerate(adapters):
            if name in adapter.down:
                gate, change = gates(k, name, x), adapter.change(name, x)
                y = y + (change if gate is None else gate * change)
        return y

    return forward
