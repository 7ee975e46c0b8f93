"""Scores of heads and hidden channels: those with the lowest are taken away first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from beeline.core.ranges import Count, NonNegative, Positive, dataclass
from beeline.core.rng import Rng
from beeline.networks.compressing.compressor import Moments, Probe
from beeline.networks.compressing.removal.units import Units, gated
from beeline.networks.compressing.rounding import damped

CALLS = 16  # of a probe, at which derivatives are taken
ROWS = 16  # of a step of training


class UnitScore(Protocol):
    """(network, probe, its units, moments of the inputs of their last layers) -> scores [count] of the units."""

    def __call__(
        self, network: nn.Module, probe: Probe, units: Mapping[str, Units], moments: Mapping[str, Moments]
    ) -> dict[str, Tensor]:
        """Scores by the names of the last layers; they are compared within one layer."""
        ...


@dataclass(frozen=True)
class Fluctuation:
    """Units whose outputs vary least, since a constant can be replaced by a bias.

    score_j = Var(x_j) |W_:j|^2, summed over the inputs j of a unit
    Source: An et al. 2023, FLAP (arXiv 2312.11983).

    >>> Fluctuation()
    Fluctuation()
    """

    def __call__(
        self, network: nn.Module, probe: Probe, units: Mapping[str, Units], moments: Mapping[str, Moments]
    ) -> dict[str, Tensor]:
        variances = {name: seen.second.diagonal() - seen.mean.square() for name, seen in moments.items()}
        return {name: unit.by_unit(variances[name].cpu() * _sizes(unit)) for name, unit in units.items()}


@dataclass(frozen=True)
class Magnitude:
    """Units that are read with the smallest weights.

    score_j = |W_:j|^2, summed over the inputs j of a unit
    Source: Han et al. 2015 (arXiv 1506.02626).

    >>> Magnitude()
    Magnitude()
    """

    def __call__(
        self, network: nn.Module, probe: Probe, units: Mapping[str, Units], moments: Mapping[str, Moments]
    ) -> dict[str, Tensor]:
        return {name: unit.by_unit(_sizes(unit)) for name, unit in units.items()}


def _sizes(unit: Units) -> Tensor:
    return unit.last.weight.detach().double().square().sum(0).cpu()


@dataclass(frozen=True)
class Taylor:
    """Units whose removal changes the output least to first order.

    score_j = E |dv/dg_j|^2,  g_j a gate on the unit: x_j <- E[x_j] + g_j (x_j - E[x_j]), at g = 1
    The squared Jacobian is estimated by E (d(u.v)/dg_j)^2 with random signs u.  It is also the second-order term of
    E |v_g - v|^2, whose first derivative is zero.
    Source: Molchanov et al. 2019 (arXiv 1906.10771), with the output in place of a loss.

    >>> Taylor().signs
    4
    """

    signs: Count = 4  # random vectors for every evaluation

    def __call__(
        self, network: nn.Module, probe: Probe, units: Mapping[str, Units], moments: Mapping[str, Moments]
    ) -> dict[str, Tensor]:
        rng, means = Rng(0).fork("taylor"), {name: seen.mean for name, seen in moments.items()}
        scores = {name: torch.zeros(unit.count, dtype=torch.float64) for name, unit in units.items()}
        for k, call in enumerate(probe.calls[:: max(1, len(probe.calls) // CALLS)]):
            ones = call.x.new_ones
            gates = {name: ones(len(call.x), unit.count).requires_grad_() for name, unit in units.items()}
            with gated(units, gates, means):
                v = network(*call.inputs)
                for i in range(self.signs):
                    u = rng.fork(k, i).normal(torch.empty_like(v)).sign()
                    found = torch.autograd.grad((u * v).sum(), list(gates.values()), retain_graph=i + 1 < self.signs)
                    for name, grad in zip(gates, found, strict=True):
                        scores[name] += grad.double().square().sum(0).cpu()
        return scores


@dataclass(frozen=True)
class SecondOrder:
    """Units whose output the others can replace best; one is taken away after another.

    score of removal: argmin_j tr(W_j ((H^-1)_jj)^-1 W_j^T),  H = Cov(x) + damp mean(diag) I,  after which W and H^-1
    are those of the inputs that are left (optimal brain surgeon)
    The score is the number of units that went before.  Of two equal units one goes first, although both matter.
    Source: Hassibi and Stork 1992; of structures: Kurtic et al. 2023, ZipLM (arXiv 2302.04089).

    >>> SecondOrder().damp
    0.0001
    """

    damp: NonNegative = 1e-4

    def __call__(
        self, network: nn.Module, probe: Probe, units: Mapping[str, Units], moments: Mapping[str, Moments]
    ) -> dict[str, Tensor]:
        return {name: self.order(unit, moments[name]) for name, unit in units.items()}

    @torch.no_grad()
    def order(self, unit: Units, seen: Moments) -> Tensor:
        """The place [count] of every unit in the order of removal."""
        mean, w = seen.mean.cpu(), unit.last.weight.double().cpu()
        inverse = torch.linalg.inv(damped(seen.second.cpu() - mean[:, None] * mean, self.damp))
        n, size = unit.count, unit.size
        left, place = torch.ones(n, dtype=torch.bool), torch.zeros(n)
        for k in range(n):
            blocks = inverse.view(n, size, n, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # [n,size,size]
            parts = w.view(-1, n, size).transpose(0, 1)  # [n,out,size]
            blocks = torch.where(left[:, None, None], blocks, torch.eye(size).double())
            loss = (parts * torch.linalg.solve(blocks, parts.mT).mT).sum((1, 2))
            j = int(loss.masked_fill(~left, torch.inf).argmin())
            left[j], place[j] = False, k
            at = slice(j * size, (j + 1) * size)
            step = torch.linalg.solve(blocks[j], inverse[at])
            w = w - w[:, at] @ step
            inverse = inverse - inverse[:, at] @ step
        return place


@dataclass(frozen=True)
class Learned:
    """Units whose gates are smallest after a training in which gates cost something.

    min over gates E |v_g - v|^2 / E |v|^2 + penalty mean |g|,  x_j <- E[x_j] + g_j (x_j - E[x_j]),  score_j = |g_j|
    The states are those of the probe, and the weights stay as they are.
    Source: Liu et al. 2017, "Network Slimming" (arXiv 1708.06519), with gates in place of norms; masks: Liu et al.
    2024, PAT (arXiv 2408.14721).

    >>> Learned(steps=50).penalty
    0.01
    """

    steps: Count = 200
    penalty: Positive = 0.01
    rate: Positive = 0.05  # of Adam, falling to 0

    def __call__(
        self, network: nn.Module, probe: Probe, units: Mapping[str, Units], moments: Mapping[str, Moments]
    ) -> dict[str, Tensor]:
        means = {name: seen.mean for name, seen in moments.items()}
        gates = {name: seen.mean.new_ones(1, units[name].count).float() for name, seen in moments.items()}
        optimizer = torch.optim.Adam([gate.requires_grad_() for gate in gates.values()], self.rate)
        falling, rng = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps), Rng(0).fork("gates")
        for step in range(self.steps):
            call = probe.calls[int(rng.fork("call", step).integers(len(probe.calls), 1))]
            call = call.rows(rng.fork("rows", step).permutation(len(call.x))[:ROWS].to(call.x.device))
            with torch.no_grad():
                wanted = network(*call.inputs)
            with gated(units, gates, means):
                error = (network(*call.inputs) - wanted).square().mean() / wanted.square().mean()
                loss = error + self.penalty * torch.cat([gate[0] for gate in gates.values()]).abs().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                falling.step()
        return {name: gate.detach()[0].abs().double().cpu() for name, gate in gates.items()}
