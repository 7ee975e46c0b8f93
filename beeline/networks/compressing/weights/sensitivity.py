"""How much the output of a network changes with the weight of one of its layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.networks.adapters.delta import weight_of
from beeline.networks.adapters.recast import replaced
from beeline.networks.compressing.compressor import Call


class Sensitivity(Protocol):
    """(network, evaluations, its layers by name) -> function of (name, another layer) -> E |v' - v|^2 with it."""

    def __call__(
        self, network: nn.Module, calls: Sequence[Call], layers: Mapping[str, nn.Module]
    ) -> Callable[[str, nn.Module], float]:
        """The function; errors are sums over all evaluations, and may be estimates."""
        ...


@dataclass(frozen=True)
class Measured:
    """Evaluations of the network with every layer replaced alone.

    D_l = sum |v_l - v|^2

    >>> Measured()
    Measured()
    """

    def __call__(
        self, network: nn.Module, calls: Sequence[Call], layers: Mapping[str, nn.Module]
    ) -> Callable[[str, nn.Module], float]:
        trial = copy.deepcopy(network)
        wanted = [network(*call.inputs) for call in calls]

        def error(name: str, made: nn.Module) -> float:
            replaced(trial, name, made)
            changes = (trial(*call.inputs) - v for call, v in zip(calls, wanted, strict=True))
            total = sum(float(change.square().sum()) for change in changes)
            replaced(trial, name, layers[name])
            return total

        return error


@dataclass(frozen=True)
class Curvature:
    """An estimate by derivatives: a few backward passes for all layers and formats together.

    D_l ~ sum_ij F_ij (w'_ij - w_ij)^2,  F_ij = E (d(u.v) / dw_ij)^2 with random signs u: diagonal of J^T J, J = dv/dw
    With entries=False, D_l ~ mean(F) |w' - w|^2: the trace of the curvature over its size.  Errors of single numbers
    are taken as independent, which those of ``OptimalBrain`` are not.
    Source: Dong et al. 2019, "HAWQ-V2" (arXiv 1911.03852), with the output in place of a loss.

    >>> Curvature(signs=4).entries
    True
    """

    signs: Count = 8  # random vectors for every evaluation
    entries: bool = True  # the curvature of every number, or their mean

    def __call__(
        self, network: nn.Module, calls: Sequence[Call], layers: Mapping[str, nn.Module]
    ) -> Callable[[str, nn.Module], float]:
        own, rng = copy.deepcopy(network).requires_grad_(False), Rng(0).fork("curvature")
        modules = dict(own.named_modules())
        weights = {name: weight_of(modules[name]).requires_grad_() for name in layers}
        found = {name: torch.zeros_like(w, dtype=torch.float32, requires_grad=False) for name, w in weights.items()}
        for k, call in enumerate(calls):
            with torch.enable_grad():
                v = own(*call.inputs)
                for i in range(self.signs):
                    u = rng.fork(k, i).normal(torch.empty_like(v)).sign()
                    gradients = torch.autograd.grad(
                        (u * v).sum(), list(weights.values()), retain_graph=i + 1 < self.signs, allow_unused=True
                    )
                    for name, g in zip(weights, gradients, strict=True):
                        if g is not None:  # the layer was used
                            found[name] += g.detach().float().square() / self.signs
        if not self.entries:
            found = {name: f.mean() for name, f in found.items()}

        def error(name: str, made: nn.Module) -> float:
            change = (weight_of(made) - weight_of(layers[name])).detach().float()
            return float((found[name] * change.square()).sum())

        return error
