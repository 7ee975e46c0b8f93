"""The ring with overlapping classes, a small network with label dropout, Euler steps with guidance of scale 2. The
error is the distance of end points to those of 200 steps with full guidance from the same noise. Times and weights of
the estimates are fitted on other noise. "Per sample" omits the unconditional evaluation of every sample from the first
time on at which the cosine of both predictions is 0.991; its evaluations are counted."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.distillation.fit_skipping import fit_skipping
from beeline.sampling.guidance.adaptive import AdaptiveWeak
from benchmarks.claims.c142 import LABEL, trained
from benchmarks.claims.toys import finding, network, noise, rmse
from benchmarks.claims.verdict import Finding

METHOD = "Adaptive guidance"
CLAIM = "A quarter of the evaluations can be left out at the quality of full guidance; the linear form saves more."
STEPS = 20


class Counting(torch.nn.Module):
    """A field that counts the samples of its evaluations."""

    def __init__(self, field: torch.nn.Module):
        super().__init__()
        self.field, self.rows = field, 0

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        self.rows += len(x)
        return self.field(x, t, cond)


def measure(rng: bl.Rng) -> list[Finding]:
    flow = bl.Flow(trained(rng)[1])
    raw = bl.Flow(network(rng, conditions=LABEL))
    full = bl.Sampler(STEPS, solver=bl.solvers.EULER, guidance=bl.CFG(2.0, {"label": 8}))
    x0, fresh = noise(rng), noise(rng.fork("calibration"), 256)
    cond = {"label": torch.arange(len(x0)) % 8}
    few = {"label": torch.arange(len(fresh)) % 8}
    made = {
        "omitted": fit_skipping(flow, full, fresh, few, aligned=0.991, every=1),
        "linear": fit_skipping(flow, full, fresh, few, aligned=2.0, every=2),
    }
    exact = bl.Sampler(200, solver=bl.solvers.EULER, guidance=full.guidance)(flow, x0, cond)

    def error(sampler: bl.Sampler, of: bl.Flow = flow) -> float:
        return rmse(sampler(of, x0, cond), exact)

    found = []
    for name, sampler in made.items():
        equal = bl.Sampler(max(1, sampler.evaluations // 2), solver=bl.solvers.EULER, guidance=full.guidance)
        found += [
            finding(f"{name}: 20 steps (figure) against fewer steps of full guidance, equal evaluations", error(equal),
                    error(sampler), error(sampler, raw)),
            finding(f"{name}: 20 steps (figure) against 20 steps of full guidance, 5% worse", 1.05 * error(full),
                    error(sampler), error(sampler, raw)),
        ]  # fmt: skip
    counted = Counting(flow.field)
    single = bl.Sampler(STEPS, solver=bl.solvers.EULER, guidance=AdaptiveWeak(full.guidance, 0.991))
    figure = error(single, bl.Flow(counted))
    each = counted.rows / len(x0)
    equal = bl.Sampler(max(1, round(each / 2)), solver=bl.solvers.EULER, guidance=full.guidance)
    found += [
        finding("per sample: 20 steps (figure) against fewer steps of full guidance, equal evaluations", error(equal),
                figure, error(single, raw)),
        finding("per sample: share of evaluations saved (figure) against a quarter", 0.25, 1 - each / full.evaluations,
                0.0, "full guidance", better="higher"),
    ]  # fmt: skip
    share = [1 - sampler.evaluations / full.evaluations for sampler in made.values()]
    return [
        *found,
        finding("omitted: share of evaluations saved (figure) against a quarter", 0.25, share[0], 0.0,
                "full guidance", better="higher"),
    ]  # fmt: skip
