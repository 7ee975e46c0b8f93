"""Deltas: changes of the weights of layers, as functions of these weights and of few numbers that are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from beeline.core.declared import stacks_of
from beeline.core.errors import nearest, require
from beeline.core.ranges import Count, Positive, dataclass
from beeline.networks.adapters.amounts import Amount, Apart, amount_of, fits
from beeline.networks.adapters.recast import recast, replaced, without

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # whose weights [out, in, ...] are matrices [out, in]


class Part(NamedTuple):
    """A share of the output of a layer: share * (w x + b)."""

    share: Tensor  # [...,out] or [...,1], for the rows [...,in] of an input
    w: Tensor
    b: Tensor | None


class Delta(Protocol):
    """A change of the weight [out,in] of a layer.

    Names of numbers that begin with "_" are fixed: they are stored with the others and are not trained.
    """

    moves_bias: ClassVar[bool] = False  # whether ``bias`` gives another one
    mixes: ClassVar[bool] = (
        False  # whether every row of an input takes its own shares of several weights: ``parts_for``
    )

    def start(self, w: Tensor) -> dict[str, Tensor]:
        """The numbers of the delta of a weight ``w``; random ones come from torch's ambient generator."""
        ...

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        """The changed weight [out,in]."""
        ...

    def bias(self, b: Tensor, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        """The changed bias [out], for the weight ``w`` before the change; layers without a bias get none."""
        return b

    def parts_for(self, x: Tensor, w: Tensor, b: Tensor | None, p: Mapping[str, Tensor]) -> Sequence[Part]:
        """Weights and biases, and the shares of them that the rows [...,in] of an input take beside the layer's own."""
        return ()


@dataclass(frozen=True)
class LoRA(Delta):
    """A change of low rank.

    W' = W + scale B A,  A [rank,in] random, B [out,rank] zero at first
    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).

    >>> LoRA(rank=2).weight(torch.zeros(3, 4), LoRA(rank=2).start(torch.zeros(3, 4))).shape
    torch.Size([3, 4])
    """

    rank: Count = 4
    scale: Positive = 1.0  # alpha / rank in other tools

    def start(self, w: Tensor) -> dict[str, Tensor]:
        return low_rank_start(w, self.rank, type(self).__name__)

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return torch.addmm(w, p["up"], p["down"], alpha=self.scale)


def low_rank_start(w: Tensor, rank: int, name: str) -> dict[str, Tensor]:
    """``down`` [rank,in], random, and ``up`` [out,rank], zero; ValueError for a rank above that of the layer."""
    out, into = w.shape
    require(
        rank <= min(out, into),
        f"{name} got rank={rank} for a layer of {into} x {out}; no change of it has more than {min(out, into)}: set a "
        "smaller rank, or leave the layer out of layers=",
    )
    down = nn.init.normal_(torch.empty(rank, into), std=into**-0.5)
    return {"down": down, "up": w.new_zeros(out, rank)}


class Change(nn.Module):
    """A delta of one layer: w -> w + amount (delta(w) - w); with amount 0 it is ``w`` itself."""

    def __init__(self, delta: Delta, w: Tensor, amount: float | Amount, layer: str):
        super().__init__()
        self.delta, self.amount, self.layer = delta, amount, layer
        started = delta.start(w.detach().flatten(1).float().cpu())  # equal numbers on every device
        self.numbers = nn.ParameterDict({k: v.to(w.device) for k, v in started.items() if not k.startswith("_")})
        for name, value in started.items():
            if name.startswith("_"):
                self.register_buffer(name, value.to(w.device))

    def parts(self, like: Tensor) -> dict[str, Tensor]:
        """All numbers by name, those that are no indices in the dtype of ``like``."""
        fixed = {name: value for name, value in self._buffers.items() if value is not None}
        every = {**dict(self.numbers), **fixed}
        return {name: v.to(like.dtype) if v.is_floating_point() else v for name, v in every.items()}

    def forward(self, w: Tensor) -> Tensor:
        amount = amount_of(self.amount, self.layer)
        if amount == 0:
            return w
        flat = w.flatten(1)
        changed = self.delta.weight(flat, self.parts(w))
        return (changed if amount == 1 else flat + amount * (changed - flat)).view_as(w)

    def bias(self, b: Tensor, w: Tensor) -> Tensor:
        """The bias of a layer with the bias ``b`` and the weight ``w``."""
        amount = amount_of(self.amount, self.layer)
        if amount == 0 or not self.delta.moves_bias:
            return b
        changed = self.delta.bias(b, w.flatten(1), self.parts(w))
        return changed if amount == 1 else b + amount * (changed - b)

    def parts_of(self, x: Tensor, part: Part) -> list[Part]:
        """The parts of the output of a layer for an input ``x`` in place of one of those before the change."""
        amount = amount_of(self.amount, self.layer)
        if amount == 0:
            return [part]
        if not self.delta.mixes:
            return [Part(part.share, self(part.w), None if part.b is None else self.bias(part.b, part.w))]
        sides = part.w.ndim - 2  # of a convolution, whose rows are means of places
        rows = x.flatten(2).mean(2) if sides else x
        made = []
        for share, w, b in self.delta.parts_for(rows, part.w.flatten(1), part.b, self.parts(part.w)):
            made.append(Part(amount * share.reshape(*share.shape, *[1] * sides), w.view_as(part.w), b))
        rest = part.share.new_ones(()) - sum(p.share for p in made)
        return [Part(part.share * p.share, p.w, p.b) for p in (Part(rest, part.w, part.b), *made)]


USED: ContextVar[tuple[nn.Module, Tensor, Tensor | None] | None] = ContextVar(
    "a layer and the weight and bias that it has for one of its parts", default=None
)


class Extra(nn.Module):
    """Base of modules that were added to a network, whose layers no delta changes."""


class Changed(nn.Module):
    """A layer whose weight is changed; its own one keeps its name among the parameters."""

    changes: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        if not self.mixes:
            made: Tensor = super().forward(x)  # type: ignore[misc]
            return made
        parts = [Part(x.new_ones(()), self.own, self._parameters["bias"])]
        for change in self.changes:
            parts = [made for part in parts for made in change.parts_of(x, part)]  # type: ignore[operator]
        whole: Tensor = sum(part.share * self.applied(x, part.w, part.b) for part in parts)  # type: ignore[assignment]
        return whole

    @property
    def mixes(self) -> bool:
        """Whether rows of an input take different shares of changes, so that there is no changed weight."""
        return any(change.delta.mixes for change in self.changes)  # type: ignore[union-attr]

    def applied(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """The output of the layer with a weight and a bias."""
        token = USED.set((self, w, b))
        try:
            made: Tensor = super().forward(x)  # type: ignore[misc]
            return made
        finally:
            USED.reset(token)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        used = USED.get() if self.mixes else None  # torch.compile breaks its graph at get()
        if used is not None and used[0] is self:
            return used[1]
        w = self.own
        for change in self.changes:
            w = change(w)
        return w

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        used = USED.get() if self.mixes else None
        if used is not None and used[0] is self:
            return used[2]
        b, w = self._parameters["bias"], self.own
        if b is None or not any(change.delta.moves_bias for change in self.changes):  # type: ignore[union-attr]
            return b
        changed: Tensor = b
        for change in self.changes:
            changed, w = change.bias(changed, w), change(w)  # type: ignore[operator]
        return changed

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
    extra = {id(m) for part in network.modules() if isinstance(part, Extra) for m in part.modules()}
    known: dict[str, nn.Module] = {
        name: m for name, m in network.named_modules() if isinstance(m, LAYERS) and id(m) not in extra
    }
    blocks = {id(m) for stack in stacks_of(network).values() for block in stack for m in block.modules()}
    inside = {name: m for name, m in known.items() if id(m) in blocks}
    usual: dict[str, nn.Module] = inside or dict(list(known.items())[: max(1, len(known) - 1)])
    require(bool(usual), f"{type(network).__name__} has no linear layer and no convolution that could be changed")
    for end in names:
        others = {type(m).__name__ for name, m in network.named_modules() if fits(name, end)} - {""}
        require(
            any(fits(name, end) for name in known) or not others,
            f"{end!r} is a {', '.join(sorted(others))} of {type(network).__name__}, whose weight is no matrix "
            f"of a layer; the kinds of layers are {', '.join(kind.__name__ for kind in LAYERS)}: "
            f"{nearest(end, sorted(_ends(known)))}",
        )
        require(
            any(fits(name, end) for name in known),
            f"there is no layer {end!r} in {type(network).__name__}; {nearest(end, sorted(_ends(known)))}",
        )
    return {name: m for name, m in known.items() if any(fits(name, end) for end in names)} if names else usual


def _ends(names: Mapping[str, Any]) -> set[str]:
    """The last one and two parts of names."""
    return {".".join(name.split(".")[-n:]) for name in names for n in (1, 2)}


def change_layers(network: nn.Module, delta: Delta, names: Sequence[str], amount: float | Amount) -> None:
    """Change the weights of the layers of a network by a delta, in place, after those that change them already."""
    for name, layer in layers_of(network, names).items():
        mixed = isinstance(layer, Changed) and layer.mixes
        change = Change(delta, layer.own if mixed else weight_of(layer), amount, name)  # type: ignore[arg-type]
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
        require(
            not any(isinstance(change.amount, Apart) for change in layer.changes),
            f"adapters were to be merged into the layer {name!r}, which a control changes for the tokens of its hint "
            "alone; keep the adapter beside it, or merge into the network without the control",
        )
        made = without(layer, Changed)
        made._parameters["weight"] = nn.Parameter(layer.weight.detach())
        if layer.bias is not None:
            made._parameters["bias"] = nn.Parameter(layer.bias.detach())
        del made._modules["changes"]
        replaced(network, name, made)
