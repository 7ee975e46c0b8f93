"""Digits of 8 x 8 pixels in four tokens, four blocks: a network that was trained for 150 steps teaches parts of
networks that start anew, by its velocities at states between noise and digits. Nine parts are in three classes of
size. One network for each class, 60 steps each, is compared with one network for all nine in 60 and in 180 steps (one
random part in every step), by the mean held-out loss; and with relations in addition: the softmax of the products of
queries, of keys and of values over the tokens, in the last block. Language models, and training after the choice of a
part, are not measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

import beeline as bl
from beeline.core.ranges import dataclass
from beeline.core.types import Batch, Loss
from beeline.fields.flow import evaluate_field
from beeline.networks.transformer.layout import WHOLE, asked, subnetwork
from beeline.networks.transformer.plans.elastic import transformer_in
from beeline.networks.transformer.plans.subset import Subset, share_of
from beeline.objectives.matching import FlowMatching
from beeline.objectives.subsets.draws import Listed
from beeline.objectives.subsets.elastic import Elastic
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks.claims.elastic import alone, first, loss, losses, mean, sized
from benchmarks.claims.small_transformers import digits, same
from benchmarks.claims.toys import finding, learn
from benchmarks.claims.verdict import Finding

METHOD = "AutoDistil: a supernet for every class of size, by relations of attention"
CLAIM = "Small networks that are parts of supernets by size, taught by relations of attention, lose little."
STEPS = 60  # of a class
CLASSES = (
    ((0.25, 0.25), (0.5, 0.25), (0.25, 0.5)),
    ((0.5, 0.5), (0.75, 0.5), (0.5, 0.75)),
    ((0.75, 0.75), (1.0, 0.75), (0.75, 1.0)),
)


@contextmanager
def projections(field: Any) -> Iterator[list[Tensor]]:
    """Queries, keys and values [3,B,N,C] of the last block that is used."""
    net, seen = transformer_in(field, "projections"), []
    part = asked().part
    block = net.visits[-1 if part.visits is None else part.visits[-1]][1]
    heads = share_of(block.mix.heads, part.width if isinstance(part, Subset) else 1.0)
    size = block.mix.qkv.out_features // (3 * block.mix.heads)

    def see(module: Any, given: Any, out: Tensor) -> None:
        seen.append(out.unflatten(-1, (3, -1))[..., : heads * size].movedim(-2, 0))

    handle = block.mix.qkv.register_forward_hook(see)
    try:
        yield seen
    finally:
        handle.remove()


def relations(z: Tensor) -> Tensor:
    """The logarithms of the relations [3,B,N,N] of projections."""
    return (z @ z.mT / z.shape[-1] ** 0.5).log_softmax(-1)


@dataclass(frozen=True)
class Taught(FlowMatching):
    """L(v, v_teacher) + weight sum over q, k, v KL(relations of the teacher | own relations)."""

    teacher: Any = None
    relation: float = 0.0

    def __call__(self, field: Any, batch: Batch, rng: bl.Rng) -> Loss:
        example = self.examples(batch, rng, field)
        inputs = example.x, example.t, None
        with torch.no_grad(), subnetwork(WHOLE), projections(self.teacher) as wanted:
            target = evaluate_field(self.teacher, *inputs)
        with projections(field) as own:
            v = evaluate_field(field, *inputs)
        loss = self.compare(v, example._replace(v=target))
        far = F.kl_div(relations(own[0]), relations(wanted[0]), log_target=True, reduction="sum") / len(v)
        return loss._replace(value=loss.value + self.relation * far)


def measure(rng: bl.Rng) -> list[Finding]:
    teacher = alone(rng.seed).requires_grad_(False)
    every = [pair for pairs in CLASSES for pair in pairs]
    parts = [sized(*pair) for pair in every]

    def taught(pairs: Any, steps: int, relation: float = 0.0) -> list[float]:
        objective = Elastic(Taught(teacher=teacher, relation=relation), Listed(pairs, 1))
        net = learn(first(rng.seed), objective, digits()[0], same(rng), steps, 64, lr=WarmupCosine(3e-3, steps // 6))
        return losses(net, [sized(*pair) for pair in pairs])

    one, related = (taught(tuple(every), 3 * STEPS, relation) for relation in (0.0, 0.1))
    three, short = [found for pairs in CLASSES for found in taught(pairs, STEPS)], taught(tuple(every), STEPS)
    start, small = mean(losses(first(rng.seed), parts)), every.index((0.75, 0.5))
    return [
        finding("mean of nine parts: three networks (figure) against one, as many steps for each network", mean(short),
                mean(three), start),
        finding("mean of nine parts: three networks (figure) against one, as many steps in all", mean(one), mean(three),
                start),
        finding("mean of nine parts: relations and velocities (figure) against velocities", mean(one), mean(related),
                start),
        finding("a part of 0.375 of the products (figure) against the teacher, at most 5% worse", 1.05 * loss(teacher),
                one[small], start),
    ]  # fmt: skip
