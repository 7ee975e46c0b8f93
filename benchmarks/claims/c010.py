"""A small transformer with rotary positions, trained on digits of 8 x 8 pixels and sampled at 16 x 16: the sliced
Wasserstein distance of halved samples to held-out digits. Guides are samples of 8 x 8, enlarged by cubic
interpolation; the control is given guides of the opposite sign."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.enlarging import Bicubic
from beeline.sampling.guidance.projected import ProjectedFlow
from benchmarks.claims.sizes import LARGE, STEPS, distance, fields, halved, native, start
from benchmarks.claims.toys import finding, sample
from benchmarks.claims.verdict import Finding

METHOD = "I-Max: projected flow"
CLAIM = "Directing low frequencies to a sample of the trained resolution gives better samples above it."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    net, _ = fields(rng.seed)
    x0, guidance = start(rng, LARGE), ProjectedFlow()
    guide = Bicubic()(native(net, rng), (LARGE, LARGE))
    made = [sample(net, x0, STEPS), *(sample(net, x0, STEPS, {"guide": y}, guidance=guidance) for y in (guide, -guide))]
    return [finding("halved samples to digits: projected flow (figure) against none",
                    *(distance(halved(x), rng) for x in made), "guides of the opposite sign")]  # fmt: skip
