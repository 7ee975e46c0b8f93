"""Held-out loss of digits of 8 x 8 pixels after equal training, 100 steps: networks of four blocks whose two middle
blocks see half of the grid along every axis (a quarter of the tokens), by cosine transforms, a quarter of the tokens
by a router, or merged tokens; and a network of two and a half blocks' cost, that is of three blocks. Loss near t = 0
is that between 0 and 0.2. The Long Range Arena is not measured."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.plans.depths import Depths
from beeline.networks.transformer.plans.reduction import Reduce
from beeline.networks.transformer.plans.spectral import SpectralShrink
from benchmarks.claims.small_transformers import heldout, plain, same, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Fourier transformer: a coarse grid by cosine transforms"
CLAIM = "Blocks that see the low frequencies of a sequence are better at lower cost."
MIDDLE = (1, 2)


def measure(rng: bl.Rng) -> list[Finding]:
    rng = same(rng)
    plans = {
        "spectral": SpectralShrink(0.5, MIDDLE),
        "depths": Depths(0.25, MIDDLE),
        "merged": Reduce(0.75, 1, 2, MIDDLE),
    }
    nets = {name: trained(transformer(rng, plan=plan), rng) for name, plan in plans.items()}
    nets["less"] = plain(rng.seed, 3)
    every = {name: heldout(net, rng) for name, net in nets.items()}
    early = {name: heldout(net, rng, 0.0, 0.2) for name, net in nets.items()}
    first = transformer(rng)
    all_times, near = heldout(first, rng), heldout(first, rng, 0.0, 0.2)
    return [
        finding(
            "low frequencies (figure) against a network of three blocks", every["less"], every["spectral"], all_times
        ),
        finding("low frequencies (figure) against tokens by a router", every["depths"], every["spectral"], all_times),
        finding("low frequencies (figure) against merged tokens", every["merged"], every["spectral"], all_times),
        finding(
            "near t = 0: low frequencies (figure) against tokens by a router", early["depths"], early["spectral"], near
        ),
    ]
