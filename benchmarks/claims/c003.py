"""A small transformer with rotary positions, trained on digits of 8 x 8 pixels and sampled at 16 x 16: the sliced
Wasserstein distance of halved samples to held-out digits, and the mean square of samples. Enlarging at t = 0.6 by
cubic interpolation; there is no guidance, so that its scale does not rise."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import beeline as bl
from beeline.sampling.enlarging import Enlarging
from benchmarks.claims.sizes import LARGE, STEPS, distance, fields, halved, native, start
from benchmarks.claims.toys import finding, sample
from benchmarks.claims.verdict import Finding

METHOD = "RectifiedHR: noise refresh"
CLAIM = "Enlarging the data estimate with fresh noise inside a run gives better samples above the trained resolution."
SEEDS = 3


def enlarged(net: Any, x0: Tensor) -> Tensor:
    return Enlarging(STEPS, solver=bl.solvers.EULER)(bl.Flow(net), x0)


def measure(rng: bl.Rng) -> list[Finding]:
    net, untrained = fields(rng.seed)
    x0 = start(rng, LARGE)
    made = sample(net, x0, STEPS), enlarged(net, x0), enlarged(untrained, x0)
    energy = float(native(net, rng).square().mean())
    lost = [abs(float(x.square().mean()) / energy - 1) for x in made]
    return [
        finding("halved samples to digits: enlarged at t = 0.6 (figure) against sampled at 16 x 16 throughout",
                *(distance(halved(x), rng) for x in made)),
        finding("relative difference of the mean square to samples of 8 x 8: enlarged (figure) against 16 x 16", *lost),
    ]  # fmt: skip
