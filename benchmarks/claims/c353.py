"""Digits of 8 x 8 pixels under the vector of their class, which a network makes out of the output of a new encoder:
random features of the class and of four numbers that say nothing. It is trained on 200 digits through the frozen flow.
Distance of 300 samples from those with the old encoder at the same noise, and share of the wanted class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.core.types import Batch, Loss
from benchmarks.claims.contexts import CLASSES, MATCHING, TABLE, Encoded, base, digits, drawn, encoder_of, labels, share
from benchmarks.claims.toys import learn, rmse
from benchmarks.claims.verdict import Finding

METHOD = "PEA-Diffusion: a bridge from a new encoder to a frozen flow"
CLAIM = "A small network before a frozen flow learns a new encoder of texts from the answers to the old one."
COUNT, FEW, STEPS, RANDOM = 300, 200, 200, 32


def new_encoder(label: Tensor, rng: bl.Rng) -> Tensor:
    """The output of the new encoder for texts of classes [B,32]."""
    said = torch.cat([torch.eye(CLASSES)[label], rng.fork("said").normal(torch.empty(len(label), 4))], 1)
    return (said @ bl.Rng(3).normal(torch.empty(CLASSES + 4, RANDOM))).relu()


def by_data(field: Any, batch: Batch, rng: bl.Rng) -> Loss:
    return MATCHING(field, batch, rng)


def by_answers(field: Any, batch: Batch, rng: bl.Rng) -> Loss:
    """Flow matching, and the distance from the velocity for the old condition."""
    assert isinstance(batch.cond, dict)
    t, x0 = rng.fork("t").uniform(len(batch.x1), batch.x1), rng.fork("x0").normal(batch.x1)
    x = torch.lerp(x0, batch.x1, t[:, None, None, None])
    with torch.no_grad():
        answer = field.field(x, t, {"context": batch.cond["old"]})
    each = (field(x, t, batch.cond) - answer).square().flatten(1).mean(1)
    data = MATCHING(field, batch, rng)
    return Loss(data.value + each.mean(), {"loss": each.detach().mean()}, each.detach(), t)


def by_conditions(field: Any, batch: Batch, rng: bl.Rng) -> Loss:
    """The distance of the condition from the old one, without the flow."""
    assert isinstance(batch.cond, dict)
    each = (field.encoder(batch.cond["given"]) - batch.cond["old"]).square().mean(1)
    return Loss(each.mean(), {"loss": each.detach().mean()}, each.detach(), torch.zeros_like(each.detach()))


def measure(rng: bl.Rng) -> list[Finding]:
    old, few = base(rng.seed), digits()[0].x1[:FEW]
    label = labels(digits()[0])[:FEW]
    data = bl.Batch(few, cond={"given": new_encoder(label, rng.fork("texts")), "old": TABLE[label]})
    wanted = torch.arange(COUNT) % CLASSES
    given = {"given": new_encoder(wanted, rng.fork("test texts"))}
    exact = drawn(old, {"context": TABLE[wanted]}, rng, COUNT)

    def bridge(objective: Callable[..., Loss] | None) -> Tensor:
        net: nn.Module = Encoded(old, encoder_of(rng, RANDOM))
        net = net if objective is None else learn(net, objective, data, rng, steps=STEPS)
        return drawn(net, given, rng, COUNT)

    none, alone, answers, conditions = map(bridge, (None, by_data, by_answers, by_conditions))
    distance = lambda x: rmse(x.flatten(1), exact.flatten(1))  # noqa: E731
    return [
        Finding("distance from samples with the old encoder: answers to it and data against data alone",
                distance(alone), distance(answers), distance(none), "untrained bridge"),
        Finding("share of the wanted class: answers and data against 95% of that with the old encoder",
                0.95 * share(exact, wanted), share(answers, wanted), share(none, wanted), "untrained bridge", "higher"),
        Finding("distance from samples with the old encoder: answers and data against regression of conditions",
                distance(conditions), distance(answers), distance(none), "untrained bridge"),
    ]  # fmt: skip
