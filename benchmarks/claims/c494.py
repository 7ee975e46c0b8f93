"""Held-out loss of digits of 8 x 8 pixels after equal training, 100 steps: one block of four experts that is visited
four times (an embedding for each visit, weight 0.01 for the balance), a network of four blocks, and one of one block.
The block of experts has 0.45 times the weights of the four blocks."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.experts import Experts
from beeline.networks.transformer.plans.plan import Shared
from beeline.objectives.alignment import Noted
from benchmarks.claims.small_transformers import MATCHING, heldout, plain, same, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "WideNet: one block of experts, visited several times"
CLAIM = "One block of experts that is visited again and again beats a network of separate blocks with more weights."


def measure(rng: bl.Rng) -> list[Finding]:
    rng = same(rng)
    deep = plain(rng.seed)
    wide = transformer(rng, depth=1, plan=Shared(4), feed=Experts(4))
    count = [sum(p.numel() for p in net.backbone.block.parameters()) for net in (wide, deep)]
    assert count[0] < 0.7 * count[1]
    wide = trained(wide, rng, Noted(MATCHING, {"balance": 0.01}))
    shared = trained(transformer(rng, depth=1, plan=Shared(4)), rng)
    single = plain(rng.seed, 1)
    first, losses = heldout(transformer(rng), rng), [heldout(net, rng) for net in (wide, deep, shared, single)]
    return [
        finding("one block of experts, four visits (figure) against four blocks", losses[1], losses[0], first),
        finding("one block of experts (figure) against one dense block, four visits each", losses[2], losses[0], first),
        finding("one dense block, four visits (figure) against one visit", losses[3], losses[2], first),
    ]
