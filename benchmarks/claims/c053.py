"""Digits of 8 x 8 pixels, three blocks, trained for 120 steps, then 60 steps more with as many of four groups of hidden
channels as a token needs, at most half of them on average, against the first two groups for every token.  A figure
counts where the share of groups on held-out data is at most 0.55.  The numbers are equally likely at first.  Channels
are ordered by their norms; the paper distils the groups."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.networks.growing.experts import grouped
from beeline.networks.transformer.groups import Number, Prefix, TopGroups
from beeline.networks.transformer.layout import collected_notes
from benchmarks.claims.fed import PLAIN, held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Adaptive computation modules"
CLAIM = "A number of groups for each token costs less without a worse model, over a wide range of budgets."
SEEDS = 3
TERMS = bl.objectives.Noted(PLAIN, {"budget": 2.0, "alike": 0.05})


def measure(rng: bl.Rng) -> list[Finding]:
    base = trained(transformer(rng), rng)

    def tuned(router: Any, objective: Any = PLAIN, steps: int = 60) -> Any:
        made = bl.Network(grouped(base.backbone, 4, router))
        for part in made.modules():
            if isinstance(part, Number):  # any number is as likely at first: 60 steps are few for a preference
                with rng.fork("gate").ambient(), torch.no_grad():
                    part.gate.bias.zero_()
                    part.gate.weight.normal_(std=0.2)
        return trained(made, rng.fork("tune"), objective, steps) if steps else made

    net = tuned(Prefix(0.5), TERMS)
    with collected_notes() as seen:
        loss = held_loss(net, rng)
    kept = [float(v) for k, v in seen[0].items() if k.endswith(".kept")]
    figure = loss if sum(kept) / len(kept) <= 0.55 else float("inf")
    fixed, whole = (held_loss(tuned(TopGroups(share, 1.0)), rng) for share in (0.5, 1.0))
    cut = held_loss(tuned(TopGroups(0.5, 1.0), steps=0), rng)
    return [
        finding("half on average (figure) against the first half for all tokens", fixed, figure, cut,
                "cut without more training"),
        finding("half on average (figure) against all channels", whole, figure, cut, "cut without more training"),
    ]  # fmt: skip
