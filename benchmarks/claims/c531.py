"""Error of the average of two networks that learned one field from different starts, with and without matching of their
hidden units by permutations, and that of a permuted copy."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.adapters.alignment import Units, aligned
from beeline.networks.adapters.merges import Average, merged_networks
from benchmarks.claims.toys import RING, points
from benchmarks.claims.verdict import Finding

METHOD = "Weight matching by permutations of hidden units"
CLAIM = "Matched networks are averaged with less loss."
UNITS = (Units("0", "2"), Units("2", "4"))
WIDTH, STEPS = 64, 400


def learned(rng: bl.Rng, x: Tensor, y: Tensor, width: int = WIDTH) -> nn.Sequential:
    with rng.ambient():
        net = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(STEPS):
        rows = rng.fork("rows", step).integers(len(x), 256)
        loss = (net(x[rows]) - y[rows]).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return net


def shuffled(net: nn.Module, rng: bl.Rng) -> nn.Module:
    """The same function with hidden units in another order."""
    made = copy.deepcopy(net)
    with torch.no_grad():
        for first, then in UNITS:
            order = rng.fork(first).permutation(WIDTH)
            a, b = made.get_submodule(first), made.get_submodule(then)
            a.weight.copy_(a.weight[order])
            a.bias.copy_(a.bias[order])
            b.weight.copy_(b.weight[:, order])
    return made


def measure(rng: bl.Rng) -> list[Finding]:
    batch = points(rng)
    t = rng.fork("t").uniform(len(batch.x1), batch.x1) * 0.95
    state = bl.paths.Linear().point(rng.fork("x0").normal(batch.x1), batch.x1, t)
    with torch.no_grad():
        x, y = torch.cat([state.x, t[:, None]], 1), RING.field()(state.x, t)
    first, second = (learned(rng.fork("net", k), x[:8000], y[:8000]) for k in range(2))
    copied = shuffled(first, rng)
    zero = copy.deepcopy(first)

    @torch.no_grad()
    def error(other: nn.Module) -> float:
        return float((merged_networks(zero, [first, other], Average())(x[8000:]) - y[8000:]).square().mean().sqrt())

    with torch.no_grad():
        matched, back = aligned(second, first, UNITS), aligned(copied, first, UNITS)
    return [
        Finding("error of the average of two networks: matched (figure) against plain", error(second), error(matched),
                error(shuffled(second, rng)), "shuffled units"),
        Finding("error of the average with a permuted copy: matched (figure) against plain", error(copied), error(back),
                error(shuffled(copied, rng)), "shuffled units"),
    ]  # fmt: skip
