"""A small transformer of the digits is trained for 80 steps while groups (rows before, bias and columns after a head or
hidden channel) are pulled to zero: after every step x~ of Adam a chosen group is x = x~ - pull x~ / |x~|, with pull =
|x_start| / 30, and zero for good where <x, x_before> < 0.5 |x_before|^2. The chosen three quarters of every layer have
the smallest weights. Then they are taken away, and nothing is trained after that."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.compressing.removal.units import Units, units_of
from beeline.networks.transformer.plans.subset import share_of
from benchmarks.claims.slimming import RATE, SHARE, STEPS, at_once, base, difference, loss
from benchmarks.claims.small_transformers import MATCHING, digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "OTOv2: zero-invariant groups and a half-space projection"
CLAIM = "A network that is trained once gives a smaller one of competitive accuracy without finetuning."
PULLED, EPS, BATCH = 30, 0.5, 64


def views(unit: Units) -> list[Tensor]:
    """The parts of the groups of a layer, each [count,...], which share the memory of the weights."""
    m: Any = unit.module
    columns = unit.last.weight.data.unflatten(1, (unit.count, -1)).transpose(0, 1)
    if unit.size == 1:
        return [m[0].weight.data, m[0].bias.data[:, None], columns]
    return [*(p.data.unflatten(0, (3, unit.count, -1)).transpose(0, 1) for p in (m.qkv.weight, m.qkv.bias)), columns]


def vectors(unit: Units) -> Tensor:
    """The groups of a layer as vectors [count,size]."""
    return torch.cat([part.flatten(1) for part in views(unit)], 1)


def projected(net: bl.Network, seed: int, half_space: bool, pull: float = 1.0) -> bl.Network:
    """The network after training with the pull."""
    made = copy.deepcopy(net).requires_grad_(True).train()
    adam = torch.optim.Adam(made.parameters(), RATE)
    units = list(units_of(made, "projected").values())
    chosen = [vectors(u).norm(dim=1).argsort()[: u.count - share_of(u.count, SHARE)] for u in units]
    pulls = [pull * vectors(u)[c].norm(dim=1) / PULLED for u, c in zip(units, chosen, strict=True)]
    gone = [torch.zeros(len(c), dtype=torch.bool) for c in chosen]
    data, rng = digits()[0].x1, bl.Rng(seed).fork("projected")
    for step in range(STEPS):
        before = [vectors(u)[c] for u, c in zip(units, chosen, strict=True)]
        rows = rng.fork("rows", step).permutation(len(data))[:BATCH]
        adam.zero_grad()
        MATCHING(made, bl.Batch(data[rows]), rng.fork(step)).value.backward()
        adam.step()
        for k, (u, c) in enumerate(zip(units, chosen, strict=True)):
            x = vectors(u)[c]
            size = x.norm(dim=1)
            factor = (1 - pulls[k] / size.clamp(min=1e-12)).clamp(min=0)
            inside = factor * (x * before[k]).sum(1) < EPS * before[k].square().sum(1)
            gone[k] |= inside if half_space else torch.zeros_like(inside)
            factor = torch.where(gone[k], 0, factor)
            for part in views(u):
                part[c] *= factor.view(-1, *[1] * (part.ndim - 1))
    return made.eval().requires_grad_(False)


def measure(rng: bl.Rng) -> list[Finding]:
    seed, net = rng.seed, base(rng.seed)
    ready, pulled, plain = (projected(net, seed, *how) for how in ((True, 1.0), (False, 1.0), (False, 0.0)))
    few, small = loss(at_once(plain), seed), loss(at_once(ready), seed)
    return [
        finding("loss with a quarter of the parts, nothing trained after: projected (figure) against plain training",
                few, small, loss(at_once(net), seed), "a quarter of the base"),
        finding("the same against 1.02 times the loss of the whole network after equal training",
                1.02 * loss(plain, seed), small, few, "plain training"),
        finding("the same: half-space (figure) against the pull alone", loss(at_once(pulled), seed), small, few,
                "plain training"),
        finding("change of velocities by the removal, against 1e-5", 1e-5, difference(at_once(ready), ready, seed),
                difference(at_once(plain), plain, seed), "plain training"),
    ]  # fmt: skip
