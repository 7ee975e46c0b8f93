"""Digits of 8 x 8 pixels, three blocks with a feed of 128 or 16 channels or none, trained for 240 steps with random
choices: the held-out loss of the plans.  Plans are chosen by 256 training digits.  The oracle chooses for every held-
out digit by its own loss and is a bound, no method."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.transformer.groups import Duo, choose, plans
from benchmarks.claims.fed import PLAIN, digits, held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Duo-LLM: small, big or no feeds"
CLAIM = "One big layer in the right place beats big layers everywhere, and a choice for each datum beats one for all."
SEEDS = 3


def losses(net: Any, batch: bl.Batch, rng: bl.Rng) -> Tensor:
    """[plans,B] the loss of every datum under every plan, with common noise and times."""
    found = []
    with torch.no_grad():
        for plan in plans(3):
            choose(net, plan)
            found.append(PLAIN(net, batch, rng.fork("test")).per_sample)
    return torch.stack(found)


def measure(rng: bl.Rng) -> list[Finding]:
    net = trained(transformer(rng, feed=Duo(8)), rng, steps=240)
    train, held = digits()
    first = held_loss(transformer(rng, feed=Duo(8)), rng)
    every, seen = list(plans(3)), bl.Batch(train.x1[:256])
    chosen, test = losses(net, seen, rng.fork("choose")).mean(1), losses(net, held, rng)
    rows = test.mean(1)

    def best(allowed: list[int]) -> int:
        return min(allowed, key=lambda i: float(chosen[i]))

    one = [i for i, plan in enumerate(every) if plan.count(2) == 1]
    budget = [i for i, plan in enumerate(every) if plan.count(2) <= 1]
    big, small = every.index((2, 2, 2)), every.index((1, 1, 1))
    return [
        finding("one big feed, the best place (figure) against big feeds everywhere", float(rows[big]),
                float(rows[best(one)]), first),
        finding("one big feed: the best place (figure) against the mean place", float(rows[one].mean()),
                float(rows[best(one)]), float(rows[small]), "no big feed"),
        finding("at most one big feed: the oracle (figure) against one plan for all", float(rows[best(budget)]),
                float(test[budget].min(0).values.mean()), float(rows[best(budget)]), "one plan for all"),
    ]  # fmt: skip
