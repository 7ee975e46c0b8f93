"""Velocities of a small transformer of the digits without the block that its output needs least (the smallest angle of
velocities without it), after 100 steps of training of its neighbours: with the weights of the block added to theirs by
coefficients of low rank that start at zero, W_n + (C A) W_removed + B D, against low-rank changes B D with as many
numbers and against training all weights of the neighbours.  And two feeds that read the same and write
where neither reads: one of them can take over both exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import beeline as bl
from beeline.networks.compressing.compressor import Probe
from beeline.networks.transformer.plans.elastic import extracted
from benchmarks.claims.storing import change_of, digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "FuseGPT: a block that is taken away is recycled into its neighbours"
CLAIM = (
    "Weights of a removed block, added to its neighbours with learned coefficients, bring back more than its deletion."
)
STEPS, RANK = 100, 4


class Recycled(nn.Module):
    """W + (C A) * W_removed + B D; both products are zero at first."""

    def __init__(self, removed: Tensor | None, weight: Tensor):
        super().__init__()
        self.removed = removed
        (out, size), ranks = weight.shape, (RANK, RANK) if removed is not None else (0, 2 * RANK)  # equal numbers
        self.a, self.d = (nn.Parameter(torch.randn(rank, size) / size**0.5) for rank in ranks)
        self.c, self.b = (nn.Parameter(torch.zeros(out, rank)) for rank in ranks)

    def forward(self, weight: Tensor) -> Tensor:
        made = weight + self.b @ self.d
        return made if self.removed is None else made + (self.c @ self.a) * self.removed


def least(net: nn.Module, probe: Probe) -> int:
    """The inner block without which velocities turn least."""

    def cosine(k: int) -> float:
        short = extracted(net, visits=[j for j in range(4) if j != k])
        with torch.no_grad():
            pairs = [(short(*c.inputs).flatten(), net(*c.inputs).flatten()) for c in probe.calls]
        a, b = (torch.cat(part) for part in zip(*pairs, strict=True))
        return float(nn.functional.cosine_similarity(a, b, dim=0))

    return max((1, 2), key=cosine)


def taught(net: nn.Module, probe: Probe, k: int, rng: bl.Rng, prepare: Callable[[str, nn.Linear], None]) -> nn.Module:
    """The network without block k, after training of what ``prepare`` makes trainable in its neighbours."""
    made: Any = copy.deepcopy(extracted(net, visits=[j for j in range(4) if j != k])).requires_grad_(False)
    with rng.fork("start").ambient():
        for j in (k - 1, k + 1):
            for name, layer in list(made.field.block[j].named_modules()):
                if isinstance(layer, nn.Linear):
                    prepare(name, layer)
    adam = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], 3e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
    for step in range(STEPS):
        call = probe.calls[int(rng.fork("call", step).integers(len(probe.calls), 1))]
        adam.zero_grad()
        (made(*call.inputs) - net(*call.inputs)).square().mean().backward()
        adam.step()
        rates.step()
    return made.requires_grad_(False)


def exact(rng: bl.Rng) -> tuple[float, float]:
    """h + D1 s(U h), then h + D2 s(U h), where U reads the first half and D1, D2 write the second: errors without the
    first feed, and with D1 added to D2."""
    up, first, second = (rng.fork(name).normal(torch.empty(8, 8)) for name in ("up", "first", "second"))
    h = rng.fork("h").normal(torch.empty(256, 16))

    def fed(h: Tensor, down: Tensor) -> Tensor:
        return torch.cat([h[:, :8], h[:, 8:] + nn.functional.gelu(h[:, :8] @ up.T) @ down.T], 1)

    wanted = fed(fed(h, first), second)
    size = float((wanted - h).norm())
    return tuple(float((fed(h, down) - wanted).norm()) / size for down in (second, first + second))


def measure(rng: bl.Rng) -> list[Finding]:
    net, probe, fresh = digits(rng.seed)
    k = least(net, probe)
    removed = dict(net.block[k].named_modules())

    def recycle(name: str, layer: nn.Linear) -> None:
        parametrize.register_parametrization(layer, "weight", Recycled(removed[name].weight, layer.weight))

    def low_rank(name: str, layer: nn.Linear) -> None:
        parametrize.register_parametrization(layer, "weight", Recycled(None, layer.weight))

    def whole(name: str, layer: nn.Linear) -> None:
        layer.requires_grad_(True)

    recycled, plain, all_weights = (
        change_of(taught(net, probe, k, rng, prepare), net, fresh) for prepare in (recycle, low_rank, whole)
    )
    cut = change_of(extracted(net, visits=[j for j in range(4) if j != k]), net, fresh)
    deleted, added = exact(rng)
    return [
        finding("recycled (figure) against low-rank changes alone", plain, recycled, cut, "no training"),
        finding("recycled (figure) against training all weights of the neighbours", all_weights, recycled, cut,
                "no training"),
        finding("two feeds that read the same: recycled (figure) against deleted", deleted, added, deleted, "deleted"),
    ]  # fmt: skip
