"""W2 distance to the new style of a flow that was finetuned on one half of the ring's modes, to which the change that
another finetuning learned is added, whole and of low rank, against the finetuned flow without it."""

from __future__ import annotations

import copy

import torch

import beeline as bl
from beeline.networks.adapters.merges import Sum, merged_networks
from beeline.networks.adapters.starts import extract
from benchmarks.claims.deltas import base, distance, tune, tuned_on
from benchmarks.claims.verdict import Finding

METHOD = "RE-Adapt: the change of a finetuning is added after another one"
CLAIM = "A skill is extracted without training and added again after finetuning on a new domain."


def measure(rng: bl.Rng) -> list[Finding]:
    seed, net = rng.seed, base(rng.seed)
    styled = tune(copy.deepcopy(net).requires_grad_(True), seed)  # the skill: the new style
    domain, other = tuned_on(seed, (0, 1, 2, 3)), tuned_on(seed, (0,))
    low = extract(styled, net, rank=2).network.merged()
    with torch.no_grad():
        full, small, wrong = (
            distance(merged_networks(net, [domain, added], Sum()), seed) for added in (styled, low, other)
        )
    without = distance(domain, seed)
    return [
        Finding("W2 to the style: finetuned on half of the ring, with the change added (figure) against without",
                without, full, wrong, "the change of another finetuning"),
        Finding("W2 to the style: with the change of rank 2 against without", without, small,
                wrong, "the change of another finetuning"),
    ]  # fmt: skip
