"""Networks with fewer heads, hidden channels and blocks."""

from __future__ import annotations

import copy
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.ranges import Count, Range, dataclass
from beeline.core.rng import Rng
from beeline.networks.adapters.delta import Changed
from beeline.networks.attention import SelfAttention
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.compressor import Moments, Plan, Probe
from beeline.networks.compressing.removal.blocks import BlockChoice, LeastChange, changes, removable, without
from beeline.networks.compressing.removal.scores import Fluctuation, UnitScore
from beeline.networks.compressing.removal.units import Units, together, units_of
from beeline.networks.compressing.rounding import damped
from beeline.networks.transformer.feeds import Dense, Gated
from beeline.networks.transformer.plans.elastic import SubNetwork, extracted
from beeline.networks.transformer.plans.subset import share_of


@dataclass(frozen=True)
class Narrow:
    """Fewer heads and hidden channels in every block: those with the lowest scores are taken away.

    With ``fitted`` the layer after them is W' = argmin E |W x - W' x_kept - b'|^2; else its bias takes the means of
    what was taken away.
    Source: An et al. 2023, FLAP (arXiv 2312.11983); fitted: Park et al. 2023, K-prune (arXiv 2308.03449).

    >>> Narrow(0.5).fitted
    True
    """

    share: Annotated[float, Range(above=0, below=1)] = 0.5  # of heads and hidden channels that stay
    fitted: bool = True
    score: UnitScore = Fluctuation()

    def plan(self, network: nn.Module, probe: Probe) -> Plan:
        units = units_of(network, "Narrow")
        after = stored_bytes(extracted(copy.deepcopy(network), self.share))
        keep = {name: f"{share_of(unit.count, self.share)} of {unit.count}" for name, unit in units.items()}
        return Plan(keep, stored_bytes(network), after, 0.1 * len(units))

    @torch.no_grad()
    def apply(self, network: nn.Module, plan: Plan, probe: Probe, rng: Rng) -> nn.Module:
        return SubNetwork(ordered(network, probe, self.score, self.share, self.fitted), self.share, own=True)


@dataclass(frozen=True)
class Ordered:
    """The same network with its heads and hidden channels in the order of their scores, the highest first.

    v' = v;  parts of it, such as ``networks.SubNetwork(made, 0.5)``, have what matters most
    For a trained network whose parts are trained next, by the objective ``Elastic``.
    Source: An et al. 2023, FLAP (arXiv 2312.11983), for the scores.

    >>> Ordered().score
    Fluctuation()
    """

    score: UnitScore = Fluctuation()

    def plan(self, network: nn.Module, probe: Probe) -> Plan:
        units, size = units_of(network, "Ordered"), stored_bytes(network)
        return Plan({name: f"{unit.count} in order" for name, unit in units.items()}, size, size, 0.1 * len(units))

    @torch.no_grad()
    def apply(self, network: nn.Module, plan: Plan, probe: Probe, rng: Rng) -> nn.Module:
        return ordered(network, probe, self.score)


def ordered(network: nn.Module, probe: Probe, score: UnitScore, share: float = 1.0, fitted: bool = False) -> nn.Module:
    """A copy whose heads and hidden channels are in the order of their scores, and the first ``share`` repaired."""
    made = copy.deepcopy(network)
    units = units_of(made, "Narrow or Ordered")
    moments = probe.moments(made, {name: unit.last for name, unit in units.items()})
    for name in units:
        require(
            name in moments,
            f"no input of the layer {name!r} was seen while the network sampled, so that its parts cannot be "
            "compared; compress a network whose blocks are all used",
        )
    scores = together(units, score(made, probe, units, moments))
    for name, unit in units.items():
        inputs = in_order(unit, scores[name])
        repair(unit.last, moments[name], inputs, share_of(unit.count, share) * unit.size, fitted)
    return made


def in_order(unit: Units, scores: Tensor) -> Tensor:
    """Put units into the order of their scores in place, the highest first; the order of their inputs before.

    Raises ValueError for adapters, whose numbers have an order of their own.
    """
    require(
        not any(isinstance(m, Changed) for part in (unit.module, *unit.closed) for m in part.modules()),
        f"units of a {type(unit.module).__name__} with an adapter were to be put in order, and the numbers of the "
        "adapter belong to the order before; merge the adapter first",
    )
    order = scores.argsort(descending=True, stable=True).to(unit.last.weight.device)
    inputs = (order[:, None] * unit.size + torch.arange(unit.size, device=order.device)).flatten()
    unit.last.weight.copy_(unit.last.weight[:, inputs])
    for part in (unit.module, *unit.closed):
        REORDER[next(kind for kind in REORDER if isinstance(part, kind))](part, inputs)
    return inputs


def repair(last: nn.Linear, seen: Moments, inputs: Tensor, n: int, fitted: bool) -> None:
    """Give the weights of the first ``n`` inputs, and the bias, what the others did; inputs were reordered."""
    w, mean = last.weight.double(), seen.mean.to(last.weight.device)[inputs]
    second = seen.second.to(w.device)[inputs][:, inputs]
    kept = w[:, :n]
    if fitted:
        centred = second - mean[:, None] * mean
        kept = torch.linalg.solve(damped(centred[:n, :n], 1e-6), centred[:n] @ w.mT).mT
    last.bias.add_((w @ mean - kept @ mean[:n]).to(last.bias))
    last.weight[:, :n] = kept.to(last.weight)


def _heads(m: Any, inputs: Tensor) -> None:
    for p in (m.qkv.weight, m.qkv.bias):
        p.copy_(p.unflatten(0, (3, -1))[:, inputs].flatten(0, 1))


def _hidden(m: Any, inputs: Tensor) -> None:
    for p in (m[0].weight, m[0].bias):
        p.copy_(p[inputs])


def _gated(m: Any, inputs: Tensor) -> None:
    for p in (m.up.weight, m.up.bias):
        p.copy_(p.unflatten(0, (2, -1))[:, inputs].flatten(0, 1))


REORDER = {SelfAttention: _heads, Dense: _hidden, Gated: _gated}
"""A module -> the function that puts the parts of its first layer in the order of inputs of its last layer."""


@dataclass(frozen=True)
class Shallow:
    """Fewer residual blocks: those of the choice are taken away.

    h <- h in place of h <- block(h)
    Source: Zhang et al. 2024, LAPTOP-Diff (arXiv 2404.11098); Kim et al. 2023, BK-SDM (arXiv 2305.15798).

    >>> Shallow(2).remove
    2
    """

    remove: Count = 1  # blocks; the most of them for Greedy
    choice: BlockChoice = LeastChange()

    def plan(self, network: nn.Module, probe: Probe) -> Plan:
        blocks = removable(network, probe, "Shallow")
        require(
            self.remove < blocks,
            f"Shallow got remove={self.remove} for a network of {blocks} blocks; give {max(1, blocks - 1)} or fewer",
        )
        out = self.choice(changes(network, probe), blocks, self.remove)
        decisions = {str(k): said for k, said in out.items()}
        return Plan(decisions, stored_bytes(network), stored_bytes(without(network, out, own=True)))

    def apply(self, network: nn.Module, plan: Plan, probe: Probe, rng: Rng) -> nn.Module:
        return without(network, [int(k) for k in plan.decisions], own=True)
