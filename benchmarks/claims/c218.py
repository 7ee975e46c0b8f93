"""W2 distance to the ring of the average of two flows that were finetuned on halves of it, against one of them and
against a flow that was trained on the whole as long."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.networks.adapters.merges import Average, Sum, merged_networks
from benchmarks.claims.deltas import base, distance, tuned_on
from benchmarks.claims.toys import network
from benchmarks.claims.verdict import Finding

METHOD = "Diffusion Soup: averages of finetuned checkpoints"
CLAIM = "The average is better than a model trained on all data, and a shard is removed without training."


def measure(rng: bl.Rng) -> list[Finding]:
    seed, net = rng.seed, base(rng.seed)
    halves = [tuned_on(seed, chosen) for chosen in ((0, 1, 2, 3), (4, 5, 6, 7))]
    whole = tuned_on(seed, tuple(range(8)))
    with torch.no_grad():
        soup = merged_networks(net, halves, Average())
        part = distance(merged_networks(net, halves[:1], Sum(), [0.5]), seed, old=True)
    one, all_, both = (distance(f, seed, old=True) for f in (halves[0], whole, soup))
    raw = distance(network(rng), seed, old=True)
    return [
        Finding("W2 to the ring: average of two halves (figure) against one of them", one, both, part,
                "half the change of one"),
        Finding("W2 to the ring: average of two halves (figure) against training on all", all_, both, raw,
                "untrained network"),
    ]  # fmt: skip
