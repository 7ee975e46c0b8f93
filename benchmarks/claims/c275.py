"""Digits of 8 x 8 pixels, four blocks: the held-out loss after 120 steps with a modulation of low rank (a quarter of
the width) beside one for all blocks, and the share of parameters."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.blocks import AdaLNZero
from beeline.networks.transformer.modulations import AdaLNLoRA, AdaLNSingle
from benchmarks.claims.fed import count, held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "AdaLN-LoRA of FiTv2"
CLAIM = "A modulation of low rank has fewer parameters and a loss that is not worse."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    kinds = (AdaLNZero(), AdaLNLoRA(), AdaLNSingle())
    nets = [transformer(rng, depth=4, modulation=kind) for kind in kinds]
    size, first = [float(count(net)) for net in nets], held_loss(nets[0], rng)
    full, low, table = (held_loss(trained(net, rng), rng) for net in nets)
    return [
        finding("parameters: low rank (figure) against full", size[0], size[1], size[0], "full"),
        finding("held-out loss: low rank (figure) against full", full, low, first),
        finding("held-out loss: low rank (figure) against one table a block", table, low, first),
    ]
