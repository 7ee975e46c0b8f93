"""Digits of 8 x 8 pixels in four tokens, four blocks; one of four widths of all feeds in every step, 150 steps.
Held-out losses are compared with those of four networks that were trained alone for as many steps each, and with
parts of a network that was trained whole. Widths that differ from block to block were never trained: their losses are
compared with the straight line between the two widths that they mix. Parts of a trained network are measured before
and after its channels are put in order. Language models are not measured."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.plans.subset import Subset
from beeline.objectives.subsets.draws import Nested
from beeline.objectives.subsets.elastic import Elastic
from benchmarks.claims.elastic import DEPTH, alone, elastic, first, loss, losses, mean, ordered
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "MatFormer: nested widths of feeds"
CLAIM = "Parts of one network are as good as networks trained alone, and widths can be mixed without training."
DRAWS = Nested()


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    net, plain = elastic(seed, Elastic(draws=DRAWS)), alone(seed)
    parts = [Subset(feeds=(f,)) for f in DRAWS.widths]
    own, whole = losses(net, parts), losses(plain, parts)
    full = [loss(alone(seed, part)) for part in parts]
    line, mixed, before = [], [], []
    for k, (narrow, wide) in enumerate(zip(DRAWS.widths, DRAWS.widths[1:], strict=False)):
        part = Subset(feeds=(narrow,) * (DEPTH // 2) + (wide,) * (DEPTH - DEPTH // 2))
        line.append((own[k] + own[k + 1]) / 2)
        mixed.append(loss(net, part))
        before.append(loss(plain, part))
    sorted_parts = losses(ordered(plain, rng), parts)
    unchanged = mean(losses(first(seed), parts))
    return [
        finding("mean of four widths: parts (figure) against networks trained alone as long, at most 5% worse",
                1.05 * mean(full), mean(own), mean(whole), "parts of a network trained whole"),
        finding("mixed widths (figure) against the line between trained widths, at most 5% worse", 1.05 * mean(line),
                mean(mixed), mean(before), "parts of a network trained whole"),
        finding("parts of a network trained whole: channels in order (figure) against as they are", mean(whole[:-1]),
                mean(sorted_parts[:-1]), unchanged),
    ]  # fmt: skip
