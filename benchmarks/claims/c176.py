"""A LoRA of rank 4 that moves a flow of the ring to a new style, trained on 200 points; spreads are the largest whose
loss on 1,000 other points is at most one percent higher. The uncertainty of a velocity is its variance over 16 draws,
its error the distance to that of a LoRA which is trained on 10,000 points; correlation of ranks over states near and
far from the data."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

import beeline as bl
from beeline.networks.adapters.delta import LoRA, changed_layers
from beeline.networks.adapters.posterior import drawn, largest_spread
from benchmarks.claims.deltas import changed, restyled, tune
from benchmarks.claims.toys import LINE, points
from benchmarks.claims.verdict import Finding

METHOD = "Training-free Bayesian LoRA"
CLAIM = "The largest isotropic noise that a loss tolerates makes a trained LoRA say where it is uncertain."
TOLERANCE, DRAWS = 0.01, 16


def measure(rng: bl.Rng) -> list[Finding]:
    seed, x = rng.seed, restyled(points(rng).x1)
    few = tune(changed(LoRA(4), seed), seed, bl.Batch(x[:200]), steps=300)
    many = tune(changed(LoRA(4), seed), seed, bl.Batch(x), steps=300)
    held = bl.Batch(x[-1000:])

    @torch.no_grad()
    def loss(net: Any) -> float:
        return float(bl.objectives.FlowMatching()(net, held, rng.fork("loss")).value)

    spread = largest_spread(few, loss, rng.fork("spread"), TOLERANCE, draws=16)
    nets = [drawn(few, spread, rng.fork("draws", k)) for k in range(DRAWS)]
    cost = sum(map(loss, nets)) / DRAWS / loss(few) - 1
    n = 2000
    t = rng.fork("t").uniform(n, x)
    wide = torch.cat([x[-n // 2 :], 3 * rng.fork("far").normal(x[: n // 2])])
    state = LINE.point(rng.fork("x0").normal(wide), wide, t).x
    with torch.no_grad():
        error = (few(state, t) - many(state, t)).square().sum(1)
        found = torch.stack([net(state, t) for net in nets]).var(0).sum(1)
        noise = torch.stack([plain(few, rng.fork("plain", k))(state, t) for k in range(DRAWS)]).var(0).sum(1)

    def agree(a: Tensor) -> float:
        return float(spearmanr(a, error).statistic)

    random = agree(rng.fork("order").normal(error))
    return [
        Finding("correlation of variance and error, against 0.3", 0.3, agree(found), random, "random order", "higher"),
        Finding("correlation of variance and error, against noise of one size on both factors", agree(noise),
                agree(found), random, "random order", "higher"),
        Finding("distance of the cost of other draws from the tolerance, against its size", TOLERANCE,
                abs(cost - TOLERANCE), abs(sum(map(loss, [drawn(few, 4 * spread, rng.fork(k)) for k in range(4)])) / 4
                / loss(few) - 1 - TOLERANCE), "four times the spread"),
    ]  # fmt: skip


def plain(net: Any, rng: bl.Rng) -> Any:
    """A copy with noise of one size relative to each factor."""
    made = drawn(net, 0.0, rng)
    for name, layer in changed_layers(made).items():
        for end, p in layer.changes[-1].numbers.items():  # type: ignore[union-attr,operator]
            p.data.add_(0.1 * p.detach().std() * rng.fork(name, end).normal(p.detach()))
    return made
