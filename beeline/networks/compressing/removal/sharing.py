"""Blocks that share their weights, with differences of low rank."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import stacks_of
from beeline.core.errors import require
from beeline.core.ranges import Count, Whole, dataclass
from beeline.core.rng import Rng
from beeline.networks.adapters.delta import LAYERS, Changed
from beeline.networks.adapters.inside import Reparametrized
from beeline.networks.adapters.recast import recast, replaced
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.compressor import Plan, Probe
from beeline.networks.compressing.factors import split
from beeline.networks.compressing.packed import Decoded


class Tied(nn.Module):
    """A layer whose weight is that of several, and a difference of low rank of its own."""

    pool: list[Mapping[str, Tensor]]  # in a list, so that it is no module of the layer
    key: str
    shape: tuple[int, ...]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        w, up, down = self.pool[0][self.key], self._parameters.get("up"), self._parameters.get("down")
        if up is not None and down is not None:
            w = torch.addmm(w, up, down)
        return w.view(self.shape)


class SharedBlocks(Reparametrized):
    """A network whose blocks share the weights of layers, group by group.

    W_l = W_group + U_l V_l,  W_group the mean of the group at first, U_l V_l the nearest of its rank to the rest
    Biases and norms stay those of each block.  With a rank that is full the network is unchanged.
    Source: Bae et al. 2024, "Relaxed Recursive Transformers" (arXiv 2410.20672).

    >>> from beeline.networks.dit import DiT
    >>> net = DiT((1, 8, 8), width=16, depth=4, heads=2)
    >>> stored_bytes(SharedBlocks(net, groups=2)) < stored_bytes(DiT((1, 8, 8), width=16, depth=4, heads=2))
    True
    """

    def __init__(
        self,
        field: nn.Module,
        groups: int = 2,  # of blocks, in each stack
        rank: int = 0,  # of the differences; 0 for none
        cyclic: bool = False,  # block l is in group l mod groups; else groups are of neighbours
    ):
        super().__init__()
        self.settings = {"groups": groups, "rank": rank, "cyclic": cyclic}
        self.field, self.shared = field, nn.ParameterDict()
        stacks = stacks_of(field)
        require(
            any(len(stack) > groups for stack in stacks.values()),
            f"SharedBlocks got groups={groups} for the stacks { ({k: len(v) for k, v in stacks.items()}) } of "
            f"{type(field).__name__}, of which none has more blocks; give fewer groups, to a network of blocks",
        )
        for name, stack in stacks.items():
            n = len(stack)
            for group in range(min(groups, n)):
                members = [l for l in range(n) if (l % groups if cyclic else l * groups // n) == group]  # noqa: E741
                self.tie([stack[i] for i in members], f"{name}/{group}", rank)

    def tie(self, blocks: list[nn.Module], name: str, rank: int) -> None:
        """Share the weights of the layers of equal names and sizes."""
        for key, layer in list(blocks[0].named_modules()):
            layers: list[Any] = [dict(block.named_modules()).get(key) for block in blocks]
            if len(blocks) == 1 or not isinstance(layer, LAYERS) or len({_size(other) for other in layers}) > 1:
                continue
            weights = [parameter_of(other).flatten(1) for other in layers]
            at = f"{name}/{key.replace('.', '/')}"
            self.shared[at] = nn.Parameter(torch.stack(weights).mean(0), layer.weight.requires_grad)
            for block, other, w in zip(blocks, layers, weights, strict=True):
                made = recast(other, Tied)
                made.pool, made.key, made.shape = [self.shared], at, tuple(layer.weight.shape)
                del made._parameters["weight"]
                if rank:
                    up, down = split(w - self.shared[at].detach(), min(rank, *w.shape))
                    made.up, made.down = (nn.Parameter(part, layer.weight.requires_grad) for part in (up, down))
                replaced(block, key, made)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, **self.settings}


def _size(layer: Any) -> Any:
    return (type(layer), layer.weight.shape) if isinstance(layer, LAYERS) else None


def parameter_of(layer: Any) -> Tensor:
    """The weight of a layer that is to be shared; ValueError where it is not a parameter of its own."""
    require(
        not isinstance(layer, Changed | Decoded | Tied),
        f"the weight of a {type(layer).__name__} was to be shared among blocks, and it is computed from other numbers: "
        "merge adapters, and share before weights are stored in few bits",
    )
    weight: Tensor = layer.weight.detach()
    return weight


@dataclass(frozen=True)
class Share:
    """Blocks share their weights, group by group, with differences of low rank.

    W_l = W_group + U_l V_l
    Without training afterwards, ``Recovered(Share(...))``, blocks that differ are far from what they were.
    Source: Bae et al. 2024, "Relaxed Recursive Transformers" (arXiv 2410.20672).

    >>> Share(2, rank=8).groups
    2
    """

    groups: Count = 2  # of blocks, in each stack
    rank: Whole = 0  # of the differences; 0 for none
    cyclic: bool = False  # block l is in group l mod groups; else groups are of neighbours

    def plan(self, network: nn.Module, probe: Probe) -> Plan:
        made = self.shared(network)
        decisions = {key: f"shared, with differences of rank {self.rank}" for key in made.shared}
        return Plan(decisions, stored_bytes(network), stored_bytes(made))

    def apply(self, network: nn.Module, plan: Plan, probe: Probe, rng: Rng) -> nn.Module:
        return self.shared(network)

    def shared(self, network: nn.Module) -> SharedBlocks:
        """A copy of a network whose blocks share weights."""
        return SharedBlocks(copy.deepcopy(network), self.groups, self.rank, self.cyclic)
