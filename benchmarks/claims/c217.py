"""A given network as a code: relative error of the inner layers of a small flow of the ring as the nearest numbers in a
random subspace, against factors of low rank. A network of width 64 whose numbers all come from a trained code of 300
numbers, trained on the ring, against small networks of at most as many numbers, of one to three hidden
layers and the better one of two rates."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

import beeline as bl
from beeline.networks.compressing.factors import Factors
from benchmarks.claims.storing import ring, weight_error
from benchmarks.claims.toys import RING, finding, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "D'OH: all weights from a seed and a short code"
CLAIM = "The length of the code alone sets the size, without a search for an architecture."
STEPS, LENGTH = 500, 300
SIZES = ((42, 1), (13, 2), (10, 3))  # widths and hidden layers of networks of at most LENGTH numbers
RATES = (3e-3, 1e-2)  # of the small networks, of which the better one counts


class FromCode(nn.Module):
    """A network whose parameters are scale P z with fixed random P, and one code z for all of them."""

    def __init__(self, net: nn.Module, length: int, rng: bl.Rng):
        super().__init__()
        self.code = nn.Parameter(rng.fork("code").normal(torch.empty(length)) / length**0.5)
        self.net = [net]  # whose parameters are not those of this one
        self.maps = {
            name: (float(p.detach().std()) if p.ndim > 1 else 0.1)
            * rng.fork(name).normal(torch.empty(p.numel(), length)).view(*p.shape, length)
            for name, p in net.named_parameters()
        }

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        made: Tensor = functional_call(self.net[0], {name: p @ self.code for name, p in self.maps.items()}, (x, t))
        return made


class Small(nn.Module):
    """A network of the ring of few numbers."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        sizes = [4, *[width] * depth, 2]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = torch.cat([x / 3, t[:, None], t[:, None].square()], 1)
        for layer in self.layers[:-1]:
            h = torch.nn.functional.silu(layer(h))
        made: Tensor = self.layers[-1](h)
        return made


def built(rng: bl.Rng, width: int, depth: int) -> Small:
    with rng.fork("network").ambient():
        return Small(width, depth)


def fitted(net: nn.Module, rng: bl.Rng, rate: float = 3e-3) -> float:
    """The error of velocities after training by flow matching."""
    optimizer = torch.optim.Adam(net.parameters(), rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    data = RING.batch(10_000, rng.fork("data"), dtype=torch.float32).x1
    for step in range(STEPS):
        draw = rng.fork("step", step)
        x1 = data[draw.fork("rows").integers(len(data), 256)]
        x0, t = draw.fork("x0").normal(torch.empty(256, 2)), draw.fork("t").uniform(256, x1)
        optimizer.zero_grad()
        (net((1 - t[:, None]) * x0 + t[:, None] * x1, t) - (x1 - x0)).square().mean().backward()
        optimizer.step()
        falling.step()
    return velocity_error(lambda x, t, cond: net(x, t), RING, rng.fork("test"))


def nearest(w: Tensor, share: float, rng: bl.Rng) -> float:
    """The relative error of a weight as the nearest point of a random subspace."""
    basis = rng.fork("basis").normal(torch.empty(w.numel(), round(share * w.numel())))
    found = torch.linalg.lstsq(basis, w.flatten()[:, None]).solution
    return float((basis @ found - w.flatten()[:, None]).norm() / w.norm())


def measure(rng: bl.Rng) -> list[Finding]:
    given = dict(ring(rng.seed).named_parameters())["block.1.out.weight"].detach()[:32, :32].contiguous()
    large = FromCode(built(rng, 64, 3), LENGTH, rng)
    untrained = velocity_error(lambda x, t, cond: large(x, t), RING, rng.fork("test"))
    made = fitted(large, rng)
    small = [min(fitted(built(rng, *size), rng, rate) for rate in RATES) for size in SIZES]
    found = nearest(given, 0.25, rng)
    return [
        finding("a given weight: a code of a quarter of its numbers (figure) against factors", weight_error(
                Factors(0.25, False), given), found, nearest(given, 0.05, rng), "a code of a twentieth"),
        finding("velocities of the ring: width 64 from a code (figure) against the best small network", min(small),
                made, untrained),
        finding("the same: against the worst small network", max(small), made, untrained),
    ]  # fmt: skip
