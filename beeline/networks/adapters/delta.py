"""Deltas: changes of the weights of layers, as functions of these weights and of few numbers that are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from beeline.core.declared import stacks_of
from beeline.core.errors import nearest, require
from beeline.core.ranges import Count, Positive, dataclass
from beeline.networks.adapters.recast import recast, replaced, without

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # whose weights [out, in, ...] are matrices [out, in]


class Delta(Protocol):
    """A change of the weight [out,in] of a layer."""

    def start(self, w: Tensor) -> dict[str, Tensor]:
        """The numbers that are trained, for a weight ``w``; random ones come from torch's ambient generator."""
        ...

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        """The changed weight [out,in]."""
        ...


@dataclass(frozen=True)
class LoRA:
    """A change of low rank.

    W' = W + scale B A,  A [rank,in] random, B [out,rank] zero at first
    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).

    >>> LoRA(rank=2).weight(torch.zeros(3, 4), LoRA(rank=2).start(torch.zeros(3, 4))).shape
    torch.Size([3, 4])
    """

    rank: Count = 4
    scale: Positive = 1.0  # alpha / rank in other tools

    def start(self, w: Tensor) -> dict[str, Tensor]:
        out, into = w.shape
        require(
            self.rank <= min(out, into),
            f"LoRA got rank={self.rank} for a layer of {into} x {out}; no change of it has more than "
            f"{min(out, into)}: set a smaller rank, or leave the layer out of layers=",
        )
        down = nn.init.normal_(torch.empty(self.rank, into), std=into**-0.5)
        return {"down": down, "up": torch.zeros(out, self.rank)}

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return torch.addmm(w, p["up"].to(w.dtype), p["down"].to(w.dtype), alpha=self.scale)


class Change(nn.Module):
    """A delta of one layer: w -> w + amount (delta(w) - w); with amount 0 it is ``w`` itself."""

    def __init__(self, delta: Delta, w: Tensor, amount: float):
        super().__init__()
        self.delta, self.amount = delta, amount
        started = delta.start(w.detach().flatten(1).float())
        self.numbers = nn.ParameterDict({name: value.to(w.device) for name, value in started.items()})

    def forward(self, w: Tensor) -> Tensor:
        if self.amount == 0:
            return w
        flat = w.flatten(1)
        changed = self.delta.weight(flat, dict(self.numbers))
        return (changed if self.amount == 1 else flat + self.amount * (changed - flat)).view_as(w)


class Changed(nn.Module):
    """A layer whose weight is changed; its own one keeps its name among the parameters."""

    changes: nn.ModuleList

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        w = self.own
        for change in self.changes:
            w = change(w)
        return w

    @property
    def own(self) -> Tensor:
        """The weight without the changes."""
        parameter = self._parameters.get("weight")
        w: Tensor = super().weight if parameter is None else parameter  # type: ignore[misc]
        return w


def layers_of(network: nn.Module, names: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The layers with a weight of a network by name: those of its blocks, or all but the last where it has none.

    ``names`` are ends of names; a layer is chosen if one of them fits.  Raises ValueError where none fits one of them.
    """
    known: dict[str, nn.Module] = {name: m for name, m in network.named_modules() if isinstance(m, LAYERS)}
    blocks = {id(m) for stack in stacks_of(network).values() for block in stack for m in block.modules()}
    inside = {name: m for name, m in known.items() if id(m) in blocks}
    usual: dict[str, nn.Module] = inside or dict(list(known.items())[: max(1, len(known) - 1)])
    require(bool(usual), f"{type(network).__name__} has no linear layer and no convolution that could be changed")
    for end in names:
        require(
            any(fits(name, end) for name in known),
            f"there is no layer {end!r} in {type(network).__name__}; {nearest(end, sorted(_ends(known)))}",
        )
    return {name: m for name, m in known.items() if any(fits(name, end) for end in names)} if names else usual


def fits(name: str, end: str) -> bool:
    """Whether the dotted name of a layer ends with whole parts."""
    return f".{name}".endswith(f".{end}")


def _ends(names: Mapping[str, Any]) -> set[str]:
    """The last one and two parts of names."""
    return {".".join(name.split(".")[-n:]) for name in names for n in (1, 2)}


def change_layers(network: nn.Module, delta: Delta, names: Sequence[str], amount: float) -> None:
    """Change the weights of the layers of a network by a delta, in place, after those that change them already."""
    for name, layer in layers_of(network, names).items():
        change = Change(delta, weight_of(layer), amount)
        if not isinstance(layer, Changed):
            layer = recast(layer, Changed)
            layer.add_module("changes", nn.ModuleList())
            replaced(network, name, layer)
        layer.changes.append(change)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer."""
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def changed_layers(network: nn.Module) -> dict[str, Changed]:
    """The layers whose weights are changed, by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, Changed)}


def settle_changes(network: nn.Module) -> None:
    """Make the changed weights of a network its own, in place; ValueError where its own have few bits."""
    for name, layer in changed_layers(network).items():
        require(
            "weight" in layer._parameters,
            f"adapters were to be merged into the layer {name!r}, whose weight is stored in few bits: the result would "
            "be rounded anew; keep the adapter beside it, or merge into the network before it was compressed and "
            "compress the result",
        )
        made = without(layer, Changed)
        made._parameters["weight"] = nn.Parameter(layer.weight.detach())
        del made._modules["changes"]
        replaced(network, name, made)
