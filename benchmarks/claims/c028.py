"""A small transformer of digits moved to turned pictures: two small layers beside the feeds against all weights and
against LoRA; and a planted ReLU branch of width 8 against the best linear map."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.networks.adapters.delta import LoRA
from beeline.networks.branches.bottlenecks import Bottleneck
from beeline.networks.branches.branch import Funnel
from benchmarks.claims.beside import against, turned
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "AdaptFormer: a bottleneck beside the feed of every block"
CLAIM = "With under two percent more numbers it beats training of all weights."


def measure(rng: bl.Rng) -> list[Finding]:
    own = Bottleneck(4)
    return [
        against("bottleneck against all weights", rng.seed, own, None, turned),
        against("bottleneck against all weights", rng.seed, own, None, turned, few=True),
        against("bottleneck against LoRA", rng.seed, own, LoRA(1), turned, layers=((), ("mlp.0", "mlp.3"))),
        planted(rng),
    ]


def planted(rng: bl.Rng) -> Finding:
    """The relative error on a planted branch of width 8: one that is trained, and the best linear map."""
    x, more = (rng.fork("x", k).normal(torch.empty(2000, 32)) for k in (0, 1))
    with rng.fork("planted").ambient():
        true, made = Funnel(32, 8), Funnel(32, 8)
        torch.nn.init.normal_(true.up.weight)
    with torch.no_grad():
        y, wanted = true(x), true(more)
        ones = torch.ones(2000, 1)
        best = torch.linalg.lstsq(torch.cat([x, ones], 1), y).solution
        linear = torch.cat([more, ones], 1) @ best
    adam = torch.optim.Adam(made.parameters(), 1e-2)
    for step in range(1500):
        rows = rng.fork("rows", step).integers(2000, 256)
        error = (made(x[rows]) - y[rows]).square().mean()
        adam.zero_grad()
        error.backward()
        adam.step()
    with torch.no_grad():
        errors = [float(((found - wanted).square().sum() / (wanted - y.mean(0)).square().sum()).sqrt())
                  for found in (linear, made(more))]  # fmt: skip
    return finding("relative error on a planted branch: bottleneck against the best linear map", *errors, 1.0, "mean")
