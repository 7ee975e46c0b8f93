"""Digits of 8 x 8 pixels, three blocks, trained for 120 steps; then 80 steps more as a dense network, or as four
experts with three active, which are merged (a share of 0.75 of the first) with equal weights and after 20 steps on
these alone: the held-out losses."""

from __future__ import annotations

import beeline as bl
from beeline.networks.growing.experts import Merging, upcycle
from beeline.networks.transformer.routers import SharedTop
from benchmarks.claims.fed import PLAIN, held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "XFT: experts that are merged again"
CLAIM = "A network that is tuned as experts and merged is better than one that is tuned densely."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    base = trained(transformer(rng), rng)
    before = held_loss(base, rng)
    experts = bl.Network(upcycle(base.backbone, 4, SharedTop(3)))
    same = abs(held_loss(experts, rng) - before)
    dense = held_loss(trained(base, rng.fork("more"), steps=80), rng)
    term = bl.objectives.Noted(PLAIN, {"balance": 0.01})
    tuned = trained(experts, rng.fork("more"), term, steps=80)
    merging = Merging(tuned.backbone)
    equal = held_loss(bl.Network(merging.dense()), rng)
    learnt = held_loss(trained(bl.Network(merging), rng.fork("weights"), steps=20), rng)
    return [
        finding("merged (figure) against tuned densely", dense, equal, before, "before tuning"),
        finding("merged, weights learnt (figure) against equal ones", equal, learnt, before, "before tuning"),
        finding("experts before they are merged (figure) against tuned densely", dense, held_loss(tuned, rng),
                before + same, "copies before tuning"),
    ]  # fmt: skip
