"""Scenes of 8 x 8 pixels with the exact velocity; watermarks of radius 2 in the noise, found again by inversion without
guidance. The area under the ROC curve is that of p-values of 128 marked and 128 other samples. Samples are drawn by 20
Heun steps, plain and guided with the scale 4; the text-to-image models of the paper and attacks on pictures are not
measured."""

from __future__ import annotations

import torch
from torch import Tensor

import beeline as bl
from beeline.couplings.watermark import TreeRing
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.guidance.guide import CFG
from beeline.solvers.runge_kutta import EULER, HEUN
from benchmarks.claims import scenes
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Tree-Ring watermarks of a flow"
CLAIM = "The errors of inversion limit how well watermarks are told from other noise, and guidance adds to them."
N, SCALE = 128, 4.0


def measure(rng: bl.Rng) -> list[Finding]:
    mark = TreeRing(rng.fork("key").seed % 2**31, radius=2)
    noise = rng.fork("noise").normal(torch.empty(2 * N, 1, scenes.SIDE, scenes.SIDE))
    noise = torch.cat([mark(noise[:N]), noise[N:]])
    cond = (torch.arange(2 * N) % 2).float()
    flow = bl.Flow(scenes.velocity, null=torch.zeros(()))

    def area(guidance: float, steps: int, solver: object) -> float:
        drawn = bl.Sampler(20, solver=HEUN, guidance=CFG(guidance) if guidance != 1 else bl.Sampler(1).guidance)
        x = drawn(flow, noise, cond)
        found = Backwards()(flow, x, cond, bl.Sampler(steps, solver=solver), rng.fork("invert"), 0.0).x
        return auc(mark.p_value(found))

    exact, coarse, guided = area(1, 20, HEUN), area(1, 1, EULER), area(SCALE, 20, HEUN)
    chance = auc(mark.p_value(noise[torch.randperm(2 * N, generator=torch.Generator().manual_seed(0))]))
    return [
        finding("area under the ROC curve: 20 Heun steps (figure) against one Euler step", coarse, exact, chance,
                "labels in another order", "higher"),
        finding("area under the ROC curve: plain samples (figure) against guided ones", guided, exact, chance,
                "labels in another order", "higher"),
    ]  # fmt: skip


def auc(p: Tensor) -> float:
    """The probability that one of the first half has a smaller p-value than one of the second."""
    marked, other = p[:N, None], p[None, N:]
    return float(((marked < other).double() + (marked == other).double() / 2).mean())
