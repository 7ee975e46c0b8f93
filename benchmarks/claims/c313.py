"""Velocities of a small transformer of the digits without some hidden channels of its feeds, at 6 bits: what they did
given to the others by their incoming weights alone, against nothing, biases and least squares on inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.compressing.compressor import Moments, Probe
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.prune import repair
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.removal.scores import Magnitude
from beeline.networks.compressing.removal.units import units_of
from beeline.networks.transformer.feeds import Dense
from benchmarks.claims.storing import change_of, digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "UDFC: removed channels rebuilt from the others, from weights alone"
CLAIM = "Without data it is up to 20.5 points better than others, with 30 percent removed and 6 bits."
RIDGE = 1.0  # of the mean squared size of incoming weights

Mend = Callable[[nn.Linear, nn.Linear, Tensor, int, Moments], None]
"""(first layer, last layer, inputs of the last one with those that stay first, how many stay, moments) -> nothing."""


def nothing(first: nn.Linear, last: nn.Linear, order: Tensor, n: int, seen: Moments) -> None:
    """The others stay as they are."""


def recombined(first: nn.Linear, last: nn.Linear, order: Tensor, n: int, seen: Moments) -> None:
    """W2_k <- W2_k + sum_j a_jk W2_j,  a_j = argmin |f_j - sum_k a_jk f_k|^2 + ridge |a_j|^2,  f = (weights, bias)."""
    f = torch.cat([first.weight, first.bias[:, None]], 1).double()
    kept, gone = f[order[:n]], f[order[n:]]
    gram = kept @ kept.mT
    gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(n, dtype=gram.dtype)
    a = torch.linalg.solve(gram, kept @ gone.mT)  # [kept,gone]
    w = last.weight.double()
    last.weight[:, order[:n]] = (w[:, order[:n]] + w[:, order[n:]] @ a.mT).float()


def means(first: nn.Linear, last: nn.Linear, order: Tensor, n: int, seen: Moments) -> None:
    """The bias of the last layer takes the mean of what is removed."""
    last.bias.add_(last.weight[:, order[n:]].double() @ seen.mean[order[n:]])


def fitted(first: nn.Linear, last: nn.Linear, order: Tensor, n: int, seen: Moments) -> None:
    """Least squares on the inputs of the last layer."""
    last.weight.copy_(last.weight[:, order])
    repair(last, seen, order, n, True)
    last.weight[:, order] = last.weight.clone()


@torch.no_grad()
def removed(mend: Mend, share: float, flow: tuple[nn.Module, Probe, Probe], rng: bl.Rng) -> float:
    """The error of velocities with a share of the channels left, those that are read with the largest weights."""
    net, probe, fresh = flow
    made = copy.deepcopy(net)
    units = {name: unit for name, unit in units_of(made, "a claim").items() if isinstance(unit.module, Dense)}
    moments = probe.moments(made, {name: unit.last for name, unit in units.items()})
    scores = Magnitude()(made, probe, units, moments)
    for name, unit in units.items():
        order, n = scores[name].argsort(descending=True), round(share * unit.count)
        mend(unit.module[0], unit.last, order, n, moments[name])
        unit.last.weight[:, order[n:]] = 0
    six = Quantize(Integers(6))
    return change_of(six.apply(made, six.plan(made, probe), probe, rng), net, fresh)


def measure(rng: bl.Rng) -> list[Finding]:
    flow, found = digits(rng.seed), []
    for share in (0.7, 0.5):
        error = {mend: removed(mend, share, flow, rng) for mend in (nothing, recombined, means, fitted)}
        worse = removed(nothing, share - 0.3, flow, rng)
        found += [
            finding(f"{1 - share:.0%} removed, 6 bits: rebuilt (figure) against {name}", error[mend], error[recombined],
                    max(worse, error[nothing]), "nothing, and more removed")
            for name, mend in (("nothing", nothing), ("biases by means", means), ("least squares on inputs", fitted))
        ]  # fmt: skip
    return found
