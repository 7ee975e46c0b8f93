"""Handwritten digits of 8 x 8 pixels under a small transformer with one token a pixel, 10 Euler steps with guidance of
scale 2, half of the tokens merged in every attention: the distance of samples to those without merging, from the same
noise."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.data.image_files import Digits
from beeline.networks.dit import DiT
from beeline.sampling.guidance.merging import MergedTokens
from benchmarks.claims.toys import finding, learn, rmse, sample
from benchmarks.claims.verdict import Finding

METHOD = "Importance-based token merging"
CLAIM = "Destinations by the importance of guidance give much better samples than random ones, at the same cost."
NULL = {"label": 10}


def measure(rng: bl.Rng) -> list[Finding]:
    raw, _ = Digits().load()
    encoded = Digits().modality().fit(raw).encode(raw)
    data = bl.Batch(encoded.x1.float().reshape(-1, 1, 8, 8), cond={"label": encoded.cond["label"]})
    with rng.fork("network").ambient():
        net = bl.Network(DiT((1, 8, 8), patch=1, width=48, depth=3, heads=3, conditions={"label": {"classes": 10}}))
    objective = bl.objectives.FlowMatching(drop=bl.objectives.Drop(0.1, NULL))
    net = learn(net, objective, data, rng, steps=200, batch_size=64, peak=2e-3)
    x0 = rng.fork("test").normal(torch.empty(100, 1, 8, 8))
    cond = {"label": torch.arange(100) % 10}
    full = sample(net, x0, 10, cond, guidance=bl.CFG(2.0, NULL))

    def off(pool: float, merged: float = 0.5, destinations: float = 0.25) -> float:
        guidance = MergedTokens(bl.CFG(2.0, NULL), merged, destinations, pool, rng.fork("destinations"))
        return rmse(sample(net, x0, 10, cond, guidance=guidance).flatten(1), full.flatten(1))

    most = off(1.0, 0.97, 0.03)  # two groups
    few = rmse(sample(net, x0, 5, cond, guidance=bl.CFG(2.0, NULL)).flatten(1), full.flatten(1))
    trivial = "all tokens merged into two"
    return [
        finding("important destinations (figure) against random ones, 20% better", 0.8 * off(1.0), off(0.5), most,
                trivial),
        finding("important destinations (figure) against random ones", off(1.0), off(0.5), most, trivial),
        finding("half of the tokens merged (figure) against 5 steps without merging", few, off(0.5), most, trivial),
    ]  # fmt: skip
