"""Digits of 8 x 8 pixels, three blocks of eight experts with positive scores: the held-out loss after 120 steps with
and without the terms for locality and chunks of four tokens, and the held-out share of experts that are awake for a
token and for a chunk.  Half of the experts are awake at first.  The paper has 40 experts and a language model."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.networks.transformer.experts import Experts
from beeline.networks.transformer.layout import collected_notes
from beeline.networks.transformer.routers import Awake, ReLURouter, TopK
from benchmarks.claims.fed import PLAIN, held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "BlockFFN: experts with positive scores"
CLAIM = "More than 80 percent of the experts are asleep for a token, and 70 percent for a chunk, at an equal loss."
SEEDS = 3
TERMS = bl.objectives.Noted(PLAIN, {"locality": 0.02, "chunk": 0.5})


def measure(rng: bl.Rng) -> list[Finding]:
    def made(feed: Any) -> Any:
        net = transformer(rng, feed=feed)
        for part in net.modules():
            if isinstance(part, Awake):  # half of the experts are awake at first: 120 steps are few for a change of 1
                with rng.fork("gate").ambient(), torch.no_grad():
                    part.gate.bias.zero_()
                    part.gate.weight.normal_(std=0.2)
        return net

    awake = Experts(8, ReLURouter(chunk=4), share=4)
    first, free, paid = made(awake), trained(made(awake), rng), trained(made(awake), rng, TERMS)
    chosen = trained(made(Experts(8, TopK(2), share=4)), rng)
    share = [shares(net, rng) for net in (free, paid)]
    loss = [held_loss(net, rng) for net in (chosen, paid, first)]
    return [
        finding("share of experts that a token wakes: with terms (figure) against without", share[0][0], share[1][0],
                share[0][0], "without"),
        finding("share of experts that a chunk wakes: with terms (figure) against without", share[0][1], share[1][1],
                share[0][1], "without"),
        finding("held-out loss: positive scores with terms (figure) against two of eight experts", *loss),
    ]  # fmt: skip


def shares(net: Any, rng: bl.Rng) -> tuple[float, float]:
    """The mean shares of experts that are awake for a token and for a chunk."""
    with collected_notes() as seen:
        held_loss(net, rng)
    found = [[float(v) for k, v in seen[0].items() if k.endswith(name)] for name in (".awake", ".awake_chunk")]
    return sum(found[0]) / len(found[0]), sum(found[1]) / len(found[1])
