"""Digits of 8 x 8 pixels with labels, of which a tenth is dropped, three blocks: the held-out loss with labels after
120 steps.  ProMoE has four experts of a quarter of the dense hidden channels with one active, one for dropped labels
and one for all tokens; the dense network and the softmax router have as many active channels."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.networks.transformer.experts import Experts
from beeline.networks.transformer.feeds import FeedForward
from beeline.networks.transformer.routers import Prototypes, TopK
from benchmarks.claims.fed import held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "ProMoE: routing by prototypes"
CLAIM = "Experts chosen by prototypes beat dense feeds and usual experts at equal active parameters."
SEEDS = 3
MATCHING = bl.objectives.FlowMatching(drop=bl.Drop(0.1, null={"label": 10}))
CONTRAST = bl.objectives.Noted(MATCHING, {"contrast": 1.0})


def measure(rng: bl.Rng) -> list[Finding]:
    def made(feed: Any, ratio: float) -> Any:
        return transformer(rng, conditions={"label": {"classes": 10}}, feed=feed, ratio=ratio)

    def loss(feed: Any, ratio: float, objective: Any = MATCHING) -> float:
        return held_loss(trained(made(feed, ratio), rng, objective, labels=True), rng, labels=True)

    first = held_loss(made(FeedForward(), 2.0), rng, labels=True)
    promoe = loss(Experts(5, Prototypes(1), share=4, shared=True), 4.0, CONTRAST)
    softmax = loss(Experts(5, TopK(1), share=4, shared=True), 4.0)
    return [
        finding("prototypes (figure) against a dense feed", loss(FeedForward(), 2.0), promoe, first),
        finding("prototypes (figure) against a softmax router", softmax, promoe, first),
    ]  # fmt: skip
