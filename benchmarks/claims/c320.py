"""Velocities of a small flow of the ring whose inner layers have 3 bits on average: trained with noise of the size of a
step and with learned numbers of bits, and rounded in the last fifth of the steps, against training through the rounding
from the first step on with 3 bits everywhere. Two layers of which one counts ten times as much: the difference of their
learned bits, and the difference with the least error."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

import beeline as bl
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.levels import ROW
from beeline.networks.compressing.quantize import Quantize
from benchmarks.claims.storing import ring, velocity_change
from benchmarks.claims.taught import STEPS, Computed, Taught
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "NIPQ: noise in place of rounding, and learned bits"
CLAIM = "It is better than training through the rounding at few bits."
WANTED, FASTER = 3, 30.0  # mean bits, and how much faster bits are learned than weights
LIMIT = 10.0  # how much bits beyond the wanted ones cost


class Noisy(Computed):
    """A weight with noise of the size of its rounding errors, or rounded, within a range that is learned."""

    def __init__(self, layer: nn.Linear, rng: bl.Rng, bits: float | None = None):
        super().__init__(layer)
        w = layer.weight.detach().clone()
        self.latent, self.rng, self.step = nn.Parameter(w), rng, 0
        self.range = nn.Parameter(torch.log(torch.expm1(w.abs().max())))
        self.logit = nn.Parameter(torch.zeros(()))  # 8 bits
        self.fixed = bits

    @property
    def bits(self) -> Tensor:
        return 2 + 12 * torch.sigmoid(FASTER * self.logit) if self.fixed is None else torch.tensor(float(self.fixed))

    def weight(self) -> Tensor:
        largest = F.softplus(self.range)
        w = torch.minimum(torch.maximum(self.latent, -largest), largest)
        size = largest / (2 ** (self.bits - 1) - 1)
        rest = (w / size).round().detach() - (w / size).detach()
        if self.fixed is not None:
            return size * (w / size + rest)
        self.step += 1
        order = self.rng.fork("noise", self.step).permutation(rest.numel())
        return w + size * rest.flatten()[order].view_as(rest)  # the errors of rounding, in another order


def noisy(rng: bl.Rng) -> tuple[Taught, float]:
    made = Taught(ring(rng.seed), lambda layer: Noisy(layer, rng), rng)

    def before(step: int) -> None:
        if step == round(0.8 * STEPS):
            for layer in made.layers:
                layer.fixed = round(float(layer.bits.detach()))

    def cost() -> Tensor:
        return LIMIT * (torch.stack([layer.bits for layer in made.layers]).mean() - WANTED).clamp(min=0).square()

    made.train(before=before, cost=cost)
    return made, sum(layer.fixed for layer in made.layers) / len(made.layers)


def planted(rng: bl.Rng, gains: tuple[float, float], mean: float = 5.0, steps: int = 600) -> tuple[float, float]:
    """The difference of the learned bits of two layers whose errors count by their gains, and the best one."""
    layers = []
    for k in range(2):
        layer = nn.Linear(32, 32)
        layer.weight.data = rng.fork("w", k).normal(torch.empty(32, 32))
        layers.append(Noisy(layer, rng.fork(k)))
    optimizer = torch.optim.Adam([layer.logit for layer in layers], 2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        errors = [(g * (m.weight() - m.latent.detach())).square().mean() for g, m in zip(gains, layers, strict=True)]
        over = torch.stack([layer.bits for layer in layers]).mean() - mean
        (torch.log(torch.stack(errors).sum()) + LIMIT * over.clamp(min=0).square()).backward()
        optimizer.step()
    more = torch.linspace(0, mean - 2.5, 2000)  # bits of the first layer beyond the mean
    sides = ((gains[0], layers[0], mean + more), (gains[1], layers[1], mean - more))
    losses = sum((g * F.softplus(m.range.detach()) / (2 ** (bits - 1) - 1)).square() for g, m, bits in sides)
    best = 2 * float(more[torch.as_tensor(losses).argmin()])
    return float((layers[0].bits - layers[1].bits).detach()), best


def measure(rng: bl.Rng) -> list[Finding]:
    made, bits = noisy(rng)
    through = Taught(ring(rng.seed), lambda layer: Noisy(layer, rng, WANTED), rng).train().error()
    plain = velocity_change(Quantize(Integers(WANTED, ROW), rest=None), ring(rng.seed), rng)
    (found, best), (alike, _) = (planted(rng, (gain, 1.0)) for gain in (10.0, 1.0))
    return [
        finding("velocities of the ring: noise and learned bits (figure) against training through the rounding",
                through, made.error(), plain, "no training"),
        finding("mean bits (figure) against 3.1", WANTED + 0.1, bits, 8.0, "bits at the start"),
        finding("bits of a layer that counts ten times as much: distance to the best (figure) against 0.5", 0.5,
                abs(found - best), abs(alike - best), "layers that count alike"),
    ]  # fmt: skip
