"""Eight modes on a ring, drawn in 4 steps of the exact flow as the frozen generator: a sample is described by
probabilities of the modes that vary smoothly between them. Share of 2000 samples that are of the wanted mode."""

from __future__ import annotations

import torch
from torch import Tensor

import beeline as bl
from beeline.distillation.controls.translator import refined, translated
from benchmarks.claims.toys import RING, finding
from benchmarks.claims.verdict import Finding

METHOD = "TR0N: a translator from descriptions to the noise of a frozen generator"
CLAIM = "A frozen generator becomes conditional without data, by a translator and Langevin steps."
MEANS = RING.parts().means.float()
COUNT, SHARP, STRENGTH = 2000, 0.1, 200.0


def generate(x0: Tensor) -> Tensor:
    """Four steps of the exact flow by the midpoint rule, with gradients."""
    x, v, h = x0.double(), RING.field(), 1 / 4
    for k in range(4):
        t = torch.full((len(x),), k * h, dtype=x.dtype)
        x = x + h * v(x + h / 2 * v(x, t), t + h / 2)
    return x.to(x0.dtype)


def describe(x: Tensor) -> Tensor:
    return torch.softmax(-SHARP * torch.cdist(x, MEANS).square(), 1)


def measure(rng: bl.Rng) -> list[Finding]:
    labels = rng.fork("labels").integers(len(MEANS), COUNT)
    wanted = describe(MEANS)[labels]

    def share(x0: Tensor) -> float:
        return float((torch.cdist(generate(x0), MEANS).argmin(1) == labels).float().mean())

    x0 = rng.fork("noise").normal(torch.empty(20_000, 2))
    plain = rng.fork("start").normal(torch.empty(COUNT, 2))
    one, four = (translated(generate, describe, x0, rng.fork("fit"), components=k, noise=0.1) for k in (1, 4))
    single, mixed = (net.sample(wanted, rng.fork("drawn")) for net in (one, four))
    swapped = four.sample(wanted[rng.fork("swapped").permutation(COUNT)], rng.fork("drawn"))

    def energy(z: Tensor) -> Tensor:
        return STRENGTH * (describe(generate(z)) - wanted).square().sum(1)

    led = refined(single, energy, rng.fork("led"), steps=30, size=0.02)
    unled = refined(single, lambda z: 0 * energy(z), rng.fork("led"), steps=30, size=0.02)
    return [
        finding("samples of the wanted mode: translator of 4 components (figure) against twice that of noise",
                2 * share(plain), share(mixed), share(swapped), "descriptions of other samples", "higher"),
        finding("samples of the wanted mode: 4 components (figure) against one",
                share(single), share(mixed), share(swapped), "descriptions of other samples", "higher"),
        finding("samples of the wanted mode: one component and Langevin steps (figure) against one component",
                share(single), share(led), share(unled), "Langevin steps without energy", "higher"),
    ]  # fmt: skip
