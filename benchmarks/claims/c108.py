"""W2 distances after training of all weights and with sparse projections; entries of a planted change that are
found."""

from __future__ import annotations

import copy
from typing import Any

import torch

import beeline as bl
from beeline.training.optim.sparse import SparseProjection
from benchmarks.claims.deltas import base, distance, restyled
from benchmarks.claims.toys import learn, network, points
from benchmarks.claims.verdict import Finding

METHOD = "SeleKT: dense steps with sparse projections"
CLAIM = "Keeps the abilities of the base while the new task is learned."
SHARE = 0.05


def measure(rng: bl.Rng) -> list[Finding]:
    seed, data = rng.seed, bl.Batch(restyled(points(rng).x1))

    def tune(keep: float | None) -> Any:
        more = {} if keep is None else {"optimizer": SparseProjection(keep=keep, every=50)}
        net = copy.deepcopy(base(seed)).requires_grad_(True)
        return learn(net, bl.objectives.FlowMatching(), data, rng.fork("tune"), steps=200, peak=3e-3, **more)

    full, sparse, raw = tune(None), tune(SHARE), base(seed)
    none = distance(network(rng.fork("none")), seed, old=True)
    return [
        Finding(
            f"W2 to the old data: {SHARE:.0%} of the changes against all",
            distance(full, seed, old=True),
            distance(sparse, seed, old=True),
            none,
            "untrained network",
        ),
        Finding(
            f"W2 to the new data: {SHARE:.0%} of the changes against all, 25% worse",
            1.25 * distance(full, seed),
            distance(sparse, seed),
            distance(raw, seed),
            "not adapted",
        ),
        Finding(
            "share of the entries of a planted change that are found, against 90%",
            0.9,
            planted(rng, SHARE),
            SHARE,
            "entries at random",
            "higher",
        ),
    ]


def planted(rng: bl.Rng, share: float) -> float:
    """The share of the changed entries of a linear map that a projected training finds."""
    start = rng.fork("start").normal(torch.empty(24, 16)) / 4
    places = rng.fork("places").permutation(start.numel())[: round(share * start.numel())]
    target = start.flatten().clone()
    target[places] += rng.fork("by").normal(torch.empty(len(places))).sign()
    w = torch.nn.Parameter(start.clone())
    stepper = SparseProjection(keep=share, every=50).build([w], 1e-2)
    for step in range(200):
        x = rng.fork("x", step).normal(torch.empty(128, 16))
        w.grad = torch.autograd.grad((x @ (w - target.view_as(w)).mT).square().mean(), w)[0]
        stepper.step()
    found = (w.detach() != start).flatten()
    return float(found[places].float().mean())
