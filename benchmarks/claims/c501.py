"""Random features in place of a trained first layer, beside the blocks: on a flow of the ring moved to another style,
and on a small transformer of digits moved to turned pictures, against bottlenecks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.branches.bottlenecks import Bottleneck
from beeline.networks.branches.branch import Added, Branch, Place, Site
from beeline.networks.branches.branched import branched
from beeline.networks.branches.places import Feeds
from beeline.networks.fp32 import zeroed
from benchmarks.claims.beside import against, turned
from benchmarks.claims.deltas import base, distance, numbers, tune
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "SNNK: layers as kernels by random features"
CLAIM = "Adapters with up to five times fewer trained numbers at equal accuracy."


class Features(Added):
    """Positive random features of the exponential kernel, and a linear layer of them."""

    w: Tensor

    def __init__(self, width: int, count: int):
        super().__init__()
        self.register_buffer("w", nn.init.normal_(torch.empty(width, count)))
        self.scale, self.out = nn.Parameter(torch.ones(())), zeroed(nn.Linear(count, width, bias=False))

    def added(self, layer: nn.Module, x: Any, y: Tensor, *told: Any) -> Tensor:
        u = self.scale * nn.functional.normalize(x, dim=-1)
        made: Tensor = self.out((u @ self.w - u.square().sum(-1, keepdim=True) / 2).exp())
        return made


@dataclass(frozen=True)
class Kernel(Branch):
    """y' = y + Theta phi(x), phi_j = exp(w_j . u - |u|^2 / 2) with fixed random w_j, u = s x / |x|."""

    count: int = 8

    @property
    def places(self) -> Sequence[Place]:
        return (Feeds(),)

    def build(self, site: Site) -> Features:
        return Features(site.width, self.count)


def measure(rng: bl.Rng) -> list[Finding]:
    found, plain = [], Bottleneck(4)
    for kernel, name in ((Kernel(9), "equal count"), (Kernel(2), "a fifth of the numbers")):
        (own, count), (rival, more) = ring(kernel, rng.seed), ring(plain, rng.seed)
        found.append(finding(f"W2 to the new style, ring, {name}: kernel ({count} numbers) against bottleneck ({more})",
                             rival, own, distance(base(rng.seed), rng.seed), "not adapted"))  # fmt: skip
    return [*found, against("kernel against bottleneck", rng.seed, Kernel(9), plain, turned)]


def ring(part: Branch, seed: int) -> tuple[float, int]:
    """The W2 distance in the new style of the ring, and the numbers that are trained."""
    with bl.Rng(seed).fork("start", repr(part)).ambient():
        net = branched(base(seed), part)
    count = numbers(net)
    return distance(tune(net, seed), seed), count
