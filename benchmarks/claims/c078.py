"""Bottleneck adapters of width 8 with ReLU beside a frozen layer of width 16. Tasks of one family share eight planted
units, whose sizes differ by task; those of another family have other units. Three adapters are trained from different
starts on three tasks of the first family, one on the second. They are averaged with and without transport of their
hidden units to those of the first, and tuned on 48 points of a new task of the first family for 20 steps."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.adapters.alignment import Units, aligned
from beeline.networks.adapters.merges import Average, merged_networks
from benchmarks.claims.verdict import Finding

METHOD = "MerA: adapters merged before tuning on few data"
CLAIM = "Adapters whose hidden units are aligned before averaging are a better start, more so of the same kind of task."
WIDTH, HIDDEN, FEW = 16, 8, 48
UNITS = (Units("0", "2"),)


def adapter(rng: bl.Rng) -> nn.Sequential:
    with rng.ambient():
        return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))


def family(rng: bl.Rng) -> tuple[Tensor, Tensor]:
    return rng.fork("in").normal(torch.empty(WIDTH, HIDDEN)) / 4, rng.fork("out").normal(torch.empty(HIDDEN, WIDTH))


def task(units: tuple[Tensor, Tensor], rng: bl.Rng, n: int) -> tuple[Tensor, Tensor]:
    """Inputs and changes [n,WIDTH] of a task of a family, whose units have sizes of its own."""
    sizes = 1 + 0.5 * rng.fork("sizes").normal(torch.empty(HIDDEN))
    x = rng.fork("x", n).normal(torch.empty(n, WIDTH))
    return x, ((x @ units[0]).relu() * sizes) @ units[1]


def tuned(net: nn.Module, data: tuple[Tensor, Tensor], steps: int, rate: float = 1e-2) -> nn.Module:
    made, (x, y) = copy.deepcopy(net), data
    adam = torch.optim.Adam(made.parameters(), rate)
    for _ in range(steps):
        loss = (made(x) - y).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return made


def measure(rng: bl.Rng) -> list[Finding]:
    first, second = family(rng.fork("first")), family(rng.fork("second"))
    same = [tuned(adapter(rng.fork("a", k)), task(first, rng.fork("t", k), 1000), 800) for k in range(3)]
    other = tuned(adapter(rng.fork("a", 3)), task(second, rng.fork("t", 3), 1000), 800)
    few, test = (task(first, rng.fork("t", 9), n) for n in (FEW, 2000))
    zero: Any = adapter(rng.fork("zero"))

    @torch.no_grad()
    def mean(nets: list[nn.Module]) -> nn.Module:
        return merged_networks(zero, nets, Average())

    with torch.no_grad():
        order = [nets[0:1] + [aligned(net, nets[0], UNITS) for net in nets[1:]] for nets in (same, [*same[:2], other])]
    starts = {
        "plain": mean(same),
        "aligned": mean(order[0]),
        "mixed": mean(order[1]),
        "random": zero,
    }

    def error(net: nn.Module) -> float:
        made = tuned(net, few, 20)
        with torch.no_grad():
            return float((made(test[0]) - test[1]).norm() / test[1].norm())

    found = {name: error(net) for name, net in starts.items()}
    trivial = "random start"
    return [
        Finding("error after tuning: aligned average (figure) against plain average", found["plain"], found["aligned"],
                found["random"], trivial),
        Finding("error after tuning: same family (figure) against one of another family in it", found["mixed"],
                found["aligned"], found["random"], trivial),
        Finding("error after tuning: aligned average (figure) against the best single adapter",
                min(error(net) for net in same), found["aligned"], found["random"], trivial),
    ]  # fmt: skip
