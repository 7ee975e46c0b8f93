"""Digits of 8 x 8 pixels in four tokens: a large network of three blocks and a small one of two share the embedding,
the first block and the last layer. Both train on their own losses for 90 steps, then for 60 with their differences
from each other (weights 0.5 for the small one and 0.05 for the large one). Held-out losses are compared with those of
networks that were trained alone for 90 and 60 steps, and with the same training without differences. Translation is
not measured."""

from __future__ import annotations

import copy
from typing import Any

import beeline as bl
from beeline.core.ranges import dataclass
from beeline.core.types import Batch, Loss
from beeline.fields.flow import evaluate_field
from beeline.networks.transformer.plans.elastic import SubNetwork, extracted
from beeline.networks.transformer.plans.subset import Subset
from beeline.objectives.matching import FlowMatching
from beeline.objectives.subsets.elastic import weighted
from benchmarks.claims.elastic import first, loss
from benchmarks.claims.small_transformers import MATCHING, same, trained
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "One-stop training of several capacities"
CLAIM = "A small network that is trained with a large one is better than one that was trained alone."
SMALL, LARGE = Subset(visits=(0, 1)), Subset(visits=(0, 2, 3))
STAGES = (90, 60)  # steps


@dataclass(frozen=True)
class Mutual(FlowMatching):
    """L(v_s, v) + L(v_l, v) + m L(v_s, stop(v_l)) + m / 10 L(v_l, stop(v_s))."""

    mutual: float = 0.0

    def __call__(self, field: Any, batch: Batch, rng: bl.Rng) -> Loss:
        example = self.examples(batch, rng, field)
        small, large = (
            evaluate_field(SubNetwork(field, visits=part.visits), example.x, example.t, None) for part in (SMALL, LARGE)
        )
        near, far = (example._replace(v=v.detach()) for v in (large, small))
        return weighted(
            [(1.0, self.compare(small, example)), (1.0, self.compare(large, example)),
             (self.mutual, self.compare(small, near)), (self.mutual / 10, self.compare(large, far))]
        )  # fmt: skip


def staged(net: Any, rng: bl.Rng, *objectives: Any) -> Any:
    for k, (objective, steps) in enumerate(zip(objectives, STAGES, strict=True)):
        net = trained(net, same(rng).fork(k), objective, steps)
    return net


def measure(rng: bl.Rng) -> list[Finding]:
    net = trained(first(rng.seed), same(rng).fork(0), Mutual(), STAGES[0])
    both, apart = (trained(copy.deepcopy(net), same(rng).fork(1), Mutual(mutual=m), STAGES[1]) for m in (0.5, 0.0))
    small, large = (
        loss(staged(extracted(first(rng.seed), visits=part.visits), rng, MATCHING, MATCHING)) for part in (SMALL, LARGE)
    )
    start = loss(first(rng.seed))
    return [
        finding("small network: trained together (figure) against alone", small, loss(both, SMALL), start),
        finding("large network: trained together (figure) against alone, at most 5% worse", 1.05 * large,
                loss(both, LARGE), start),
        finding("small network: with differences (figure) against without", loss(apart, SMALL), loss(both, SMALL),
                start),
    ]  # fmt: skip
