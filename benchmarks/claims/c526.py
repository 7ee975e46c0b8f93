"""Gaussian weights [256,512] in 2 and 4 bits: a range from the mean size of a row, against one to the largest number.
Velocities of a small flow of the ring with inner layers of 2 bits after 300 steps of training through the rounding: the
same levels in both ranges, and integers. Weights that are not near an edge between two levels stay in the last half of
the steps, against training on: velocities, and changes of codes in the last 60 steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.levels import ROW, Levels, StatsQ
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.recover import Recovered
from benchmarks.claims.storing import gauss, ring, velocity_change, weight_error
from benchmarks.claims.taught import STEPS, Computed, Taught
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "OFQ: scales from mean sizes, and weights that settle"
CLAIM = "Two bits gain 9.8 points over the best earlier training, as weights no longer oscillate."
NEAR = 0.005  # of a step: what is nearer to an edge stays trainable
FORM = StatsQ(2)


class Settling(Computed):
    """A weight that is rounded, with gradients as if it were not."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer)
        self.latent, self.held = nn.Parameter(layer.weight.detach().clone()), torch.zeros(layer.weight.shape).bool()

    def weight(self) -> Tensor:
        w = self.latent.detach()
        return self.latent + (FORM.decode(FORM.encode(w), *w.shape) - w)

    def codes(self) -> Tensor:
        return FORM.rounding(FORM, self.latent.detach(), None)[0].int()

    def settle(self) -> None:
        w, fitted = self.latent.detach(), FORM.rounding(FORM, self.latent.detach(), None)[1]
        groups, reach = FORM.grouped(w), 2 * NEAR * FORM.halves(fitted)[..., None]
        below, above = (FORM.nearest(groups + sign * reach, fitted) for sign in (-1, 1))
        self.held, self.at = (below == above).view_as(w), w.clone()

    def hold(self) -> None:
        if self.held.any():
            self.latent.data = torch.where(self.held, self.at, self.latent.data)


def settled(rng: bl.Rng, share: float) -> tuple[float, int]:
    """The error of velocities, and changes of codes in the last fifth, if weights settle for a share of the steps."""
    made, changes, known = Taught(ring(rng.seed), Settling, rng), 0, list[Tensor]()

    def before(step: int) -> None:
        if step == round((1 - share) * STEPS):
            for layer in made.layers:
                layer.settle()

    def after(step: int) -> None:
        nonlocal changes, known
        for layer in made.layers:
            layer.hold()
        now = [layer.codes() for layer in made.layers]
        if step > 0.8 * STEPS:
            changes += sum(int((a != b).sum()) for a, b in zip(now, known, strict=True))
        known = now

    return made.train(before=before, after=after).error(), changes


def measure(rng: bl.Rng) -> list[Finding]:
    w, net = gauss(rng), ring(rng.seed)
    found = [
        finding(f"Gaussian weights, {bits} bits: the mean size (figure) against the largest number",
                weight_error(Integers(bits, ROW), w), weight_error(StatsQ(bits), w), weight_error(StatsQ(1), w)
                if bits > 2 else 1.0, "one bit" if bits > 2 else "zeros")
        for bits in (2, 4)
    ]  # fmt: skip
    mean, largest, integers = (
        velocity_change(Recovered(Quantize(form, rest=None)), net, rng)
        for form in (FORM, Levels(FORM.tables, ROW), Integers(2))
    )
    plain = velocity_change(Quantize(Integers(2), rest=None), net, rng)
    (on, moved), (still, rest) = settled(rng, 0.0), settled(rng, 0.5)
    return [
        *found,
        finding("velocities of the ring, trained: four levels in the range of mean sizes (figure) against integers",
                integers, mean, plain, "no training"),
        finding("the same levels in the range of the largest number as the baseline", largest, mean, plain,
                "no training"),
        finding("the same: weights settle (figure) against training on", on, still, plain, "no training"),
        finding("changes of codes in the last 60 steps: weights settle (figure) against training on", moved, rest,
                moved, "training on"),
    ]  # fmt: skip
