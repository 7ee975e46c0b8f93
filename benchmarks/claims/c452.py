"""Digits of 8 x 8 pixels: a network of four blocks after 100 steps, tuned for 100 more with a budget of half of the
products (weight 2 of its note, logits of the gates start at 0.5), against equal tuning without. The share is counted
from the gates of held-out states; products are not saved in time, because masked weights are multiplied. The tuning
has no second pass of the full network."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.networks.transformer.layout import collected_notes
from beeline.networks.transformer.plans.dynamic import DynamicWidth
from beeline.networks.transformer.plans.elastic import SubNetwork
from beeline.networks.transformer.plans.replanned import replanned
from beeline.objectives.alignment import Noted
from benchmarks.claims.small_transformers import MATCHING, digits, heldout, plain, same, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "DyDiT++: dynamic width and tokens"
CLAIM = "Half of the products of a transformer can be left out, by time and token, with little loss of quality."


def measure(rng: bl.Rng) -> list[Finding]:
    rng = same(rng)
    net = plain(rng.seed)
    dynamic = replanned(net, DynamicWidth(target=0.5, start=0.5), rng.fork("gates"))
    half = heldout(SubNetwork(net, width=0.5), rng)
    own = transformer(rng)
    own.load_state_dict(net.state_dict())
    tuned = trained(own, rng.fork("tuning"))
    copied = replanned(transformer(rng), DynamicWidth(target=0.5, start=0.5), rng.fork("gates"))
    copied.load_state_dict(dynamic.state_dict())
    gated = trained(copied, rng.fork("tuning"), Noted(MATCHING, {"budget": 2.0}))
    x = digits()[1].x1
    with collected_notes() as seen, torch.no_grad():
        gated(rng.fork("states").normal(x), rng.fork("times").uniform(len(x), x))
    used = [float(value) for name, value in seen[0].items() if name.endswith("used")]
    share, first = sum(used) / len(used), heldout(transformer(rng), rng)
    full, figure = heldout(tuned, rng), heldout(gated, rng)
    return [
        finding("share of the products (figure) against all", 1.0, share, 1.0, "all of them"),
        finding("with the gates (figure) against all products, at most 5% worse", 1.05 * full, figure, first),
        finding(
            "with the gates (figure) against the first half of heads and channels, untuned",
            half,
            figure,
            first,
        ),
    ]
