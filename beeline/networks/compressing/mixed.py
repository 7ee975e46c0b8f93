"""Bits for every layer by what it loses."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from beeline.core.errors import require
from beeline.core.ranges import Share, dataclass
from beeline.core.rng import Rng
from beeline.networks.adapters.delta import layers_of
from beeline.networks.compressing.compressor import Call, Plan, Probe
from beeline.networks.compressing.formats import Format, Integers
from beeline.networks.compressing.packed import packed, parameter_of
from beeline.networks.compressing.quantize import Quantize, compressed_by, identity, measured
from beeline.networks.compressing.rounding import OptimalBrain
from beeline.networks.compressing.weights.sensitivity import Measured, Sensitivity

STEPS = 2000  # in which a budget of bytes is divided
CALLS, ROWS = 8, 16  # of which errors are measured


@dataclass(frozen=True)
class MixedBits:
    """Formats of layers such that the network takes a share of its bytes, with the least sum of errors.

    min sum_l D_l(f_l) over formats f_l with sum_l bytes_l(f_l) <= share bytes,
    D_l(f) = E |v - v_l,f|^2 of the output with layer l alone in format f, by ``errors``;  by dynamic programming
    Layers outside of the blocks have 8 bits.  Raises ValueError for a share that the smallest formats exceed.
    Source: errors of single layers and their sum: Hubara et al. 2021, AdaQuant (arXiv 2006.10518).

    >>> MixedBits(0.2).share
    0.2
    """

    share: Share = 0.2  # of the bytes of the network
    formats: tuple[Format, ...] = tuple(Integers(bits, 64, OptimalBrain()) for bits in (2, 3, 4, 5, 6, 8))
    errors: Sensitivity = Measured()

    @torch.no_grad()
    def plan(self, network: nn.Module, probe: Probe) -> Plan:
        layers = layers_of(network)
        base = Quantize(Integers(8)).plan(network, probe)
        moments = probe.moments(network, layers)
        few = [call.rows(torch.arange(min(ROWS, len(call.x)), device=call.x.device)) for call in _spread(probe.calls)]
        error = self.errors(network, few, layers)
        bytes_: dict[str, list[int]] = {}
        errors: dict[str, list[float]] = {}
        seconds = 0.0
        for name, layer in layers.items():
            w = parameter_of(layer, self.formats[0]).flatten(1)
            known = moments.get(name) or identity(w)
            bytes_[name], errors[name] = [], []
            for form in self.formats:
                begin = time.perf_counter()
                made = packed(layer, form, known)
                seconds += (time.perf_counter() - begin) / len(self.formats)
                bytes_[name].append(sum(t.numel() * t.element_size() for t in made.stored.values()))
                errors[name].append(error(name, made))
        own = [measured(Integers(8), parameter_of(m, Integers(8)).flatten(1), None)[0] for m in layers.values()]
        rest = base.after - sum(t.numel() * t.element_size() for stored in own for t in stored.values())
        least = rest + sum(min(sizes) for sizes in bytes_.values())
        require(
            least <= self.share * base.before,
            f"MixedBits got share={self.share:g}, and its smallest formats take {least / base.before:.3f} of the bytes "
            f"of this network: give {least / base.before + 0.005:.2f} or more, or formats of fewer bits",
        )
        choice = allocated(bytes_, errors, self.share * base.before - rest)
        decisions = {**base.decisions, **{name: self.formats[k] for name, k in choice.items()}}
        after = rest + sum(bytes_[name][k] for name, k in choice.items())
        return Plan(decisions, base.before, after, seconds)

    def apply(self, network: nn.Module, plan: Plan, probe: Probe, rng: Rng) -> nn.Module:
        return compressed_by(network, plan.decisions, probe)


def _spread(calls: Sequence[Call]) -> Sequence[Call]:
    return calls[:: max(1, len(calls) // CALLS)]


def allocated(
    costs: Mapping[str, Sequence[int]], errors: Mapping[str, Sequence[float]], budget: float, steps: int = STEPS
) -> dict[str, int]:
    """The option of every unit with the least sum of errors whose costs are within a budget.

    Costs are rounded up to a ``steps``-th of the budget.
    """
    unit = budget / steps
    best = torch.zeros(steps + 1, dtype=torch.float64)  # least error with at most so many steps
    chosen: list[tuple[str, torch.Tensor, list[int]]] = []
    for name, options in costs.items():
        need = [-int(-cost // unit) for cost in options]
        rows = torch.full((len(need), steps + 1), torch.inf, dtype=torch.float64)
        for k, (n, error) in enumerate(zip(need, errors[name], strict=True)):
            if n <= steps:
                rows[k, n:] = best[: steps + 1 - n] + error
        best, which = rows.min(0)
        chosen.append((name, which, need))
    left, found = steps, dict[str, int]()
    for name, which, need in reversed(chosen):
        found[name] = int(which[left])
        left -= need[found[name]]
    require(left >= 0, "no choice of options is within the budget; give a larger one")
    return found
