"""Digits of 8 x 8 pixels, four blocks: the held-out loss after 120 steps with scales and gates that go from one vector
to another in time, and the share of parameters.  The cascade of resolutions of the paper is not part of it."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.blocks import AdaLNZero
from beeline.networks.transformer.modulations import TimeDependent
from benchmarks.claims.fed import count, held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "DiMR: time-dependent normalisation"
CLAIM = "Vectors that depend on time alone replace most of the modulation at no loss of quality."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    nets = [transformer(rng, depth=4, modulation=kind) for kind in (AdaLNZero(), TimeDependent())]
    size, first = [float(count(net)) for net in nets], held_loss(nets[0], rng)
    full, between = (held_loss(trained(net, rng), rng) for net in nets)
    return [
        finding("parameters: vectors in time (figure) against a layer for each block", *size, size[0], "a layer"),
        finding("held-out loss: vectors in time (figure) against a layer for each block", full, between, first),
    ]
