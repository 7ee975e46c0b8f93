"""A small table: a category of five levels (probabilities 1/2 to 0.03) as -1 and 1, and a number that depends on it.
Velocity prediction on the straight path against noise prediction on the variance-preserving path, 40 evaluations of
Heun's method and of DPM-Solver++ (2M); the networks are equal, and diffusion trains as long or three times as long.
The error is the total variation of the category plus the W1 distance of the number. The last finding uses RecTable's
source (uniform for categories) and logit-normal times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from benchmarks.claims.toys import LINE, finding, learn, network, sample
from benchmarks.claims.verdict import Finding

METHOD = "RecTable: rectified flow for tables"
CLAIM = "Competitive quality on tables at clearly shorter training time than diffusion."
SEEDS = 4
SHARES = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03])
SIZE, SAMPLES = 6, 20_000


@dataclass(frozen=True)
class ByKind:
    """Gaussian noise for the number, uniform noise for the levels."""

    def sample(self, like: Tensor, rng: bl.Rng) -> Tensor:
        even = 2 * rng.fork("even").uniform(like[:, 1:].numel(), like).reshape(len(like), -1) - 1
        return torch.cat([rng.normal(like[:, :1]), even], 1)


def rows(rng: bl.Rng, n: int) -> Tensor:
    """[n,6] encoded rows: the number in units of its spread, then the levels."""
    level = torch.searchsorted(SHARES.cumsum(0), rng.fork("level").uniform(n, torch.empty(0))).clamp(max=4)
    number = (level - 1.0 + 0.3 * rng.fork("number").normal(torch.empty(n))) / 1.15
    return torch.cat([number[:, None], 2.0 * torch.nn.functional.one_hot(level, 5) - 1], 1)


def wrong(made: Tensor, real: Tensor) -> float:
    """Total variation of the category, and the W1 distance of the number within all rows."""
    share, wanted = (torch.bincount(x[:, 1:].argmax(1), minlength=5) / len(x) for x in (made, real))
    apart = (made[:, 0].sort().values - real[:, 0].sort().values).abs().mean()
    return float((share - wanted).abs().sum() / 2 + apart)


def measure(rng: bl.Rng) -> list[Finding]:
    data, real = bl.Batch(rows(rng.fork("data"), 10_000)), rows(rng.fork("real"), SAMPLES)
    vp, matching = bl.paths.VariancePreserving(), bl.objectives.FlowMatching
    gauss: Any = bl.sources.Gaussian()
    x0 = gauss.sample(real, rng.fork("x0"))

    def flow(source: Any = gauss, times: Any = bl.times.Uniform(), steps: int = 200) -> float:  # noqa: B008
        objective = matching(coupling=bl.couplings.Independent(source), times=times)
        net = learn(network(rng, SIZE), objective, data, rng.fork("net"), steps=steps)
        start = source.sample(real, rng.fork("x0"))
        return wrong(sample(net, start, 20, solver=bl.solvers.HEUN, path=LINE), real)

    def diffusion(steps: int) -> float:
        net = bl.Network(network(rng, SIZE).backbone, vp, bl.predictions.Noise())
        net = learn(net, matching(vp, prediction=bl.predictions.Noise()), data, rng.fork("net"), steps=steps)
        return wrong(sample(net, x0, 40, path=vp, solver=bl.solvers.DPMSolver(2, vp)), real)

    plain, short, long = flow(), diffusion(200), diffusion(600)
    raw = wrong(sample(network(rng, SIZE), x0, 20), real)
    own = flow(ByKind(), bl.times.LogitNormal())
    return [
        finding("200 steps of training: flow (figure) against diffusion", short, plain, raw),
        finding("flow after 200 steps (figure) against diffusion after 600", long, plain, raw),
        finding("source by kind and logit-normal times (figure) against Gaussian and uniform", plain, own, raw),
    ]
