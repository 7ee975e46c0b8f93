"""Exact fields. Two Gaussians, of which p_c^2 / p_u is a Gaussian, and a mixture of two modes to the power two: errors
of the mean and of the variance in 200 steps, 16,000 samples or particles. Classifier-free guidance of scale two is the
baseline for the first, the same particles without their weights for the second."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.data.distributions.mixtures import Gaussian, GaussianMixture
from beeline.sampling.search.particles import FeynmanKac, Population
from beeline.solvers.diffusions import White
from beeline.solvers.sde import EulerMaruyama
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Feynman-Kac correctors"
CLAIM = "Particles with weights sample the guided or annealed distribution, which classifier-free guidance does not."
NUMBER, STEPS = 16_000, 200
WEAK, STRONG = Gaussian((0.0,), 2.0), Gaussian((1.5,), 1.0)
MODES = GaussianMixture([[-2.0], [1.5]], (0.3, 0.5), (0.3, 0.7))


def particles(powers: tuple[float, ...], flow: bl.Flow, rng: bl.Rng, **more: object) -> Population:
    """The weighted particles of one sample."""
    found: list[Population] = []
    search = FeynmanKac(STEPS, powers=powers, candidates=NUMBER, rows=NUMBER, rng=rng, **more)  # type: ignore[arg-type]
    search(flow, torch.zeros(1, 1, dtype=torch.float64), done=found.append)
    return found[0]


def off(mean: float, variance: float, wanted: tuple[float, float]) -> tuple[float, float]:
    """Errors of a mean and of a variance."""
    return abs(mean - wanted[0]), abs(variance - wanted[1])


def measure(rng: bl.Rng) -> list[Finding]:
    x0 = rng.fork("x0").normal(torch.empty(NUMBER, 1, dtype=torch.float64))
    reference, flow = bl.guidance.Weak(WEAK.field()), STRONG.flow()
    guide = bl.Guide(reference, bl.guidance.Extrapolate(2.0))
    solver = EulerMaruyama(White(rng.fork("noise")))
    mean, variance = (float(part) for part in particles((2.0, -1.0), flow, rng, references=(reference,)).moments())
    wanted = 3.0 / 1.75, 1 / 1.75
    plain = bl.Sampler(STEPS, solver=solver, guidance=guide)(flow, x0)
    free = WEAK.sample(NUMBER, rng.fork("weak"), dtype=torch.float64)
    errors = [off(m, v, wanted) for m, v in ((float(plain.mean()), float(plain.var())), (mean, variance),
              (float(free.mean()), float(free.var())))]  # fmt: skip
    found = particles((2.0,), MODES.flow(), rng.fork("anneal"), deviation=1.67)
    grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None]
    density = (2 * MODES.log_prob(grid)).softmax(0)
    middle = float(density @ grid[:, 0])
    spread = float(density @ (grid[:, 0] - middle).square())
    weighted = off(*(float(part) for part in found.moments()), (middle, spread))
    whole = MODES.sample(NUMBER, rng.fork("real"), dtype=torch.float64)
    raw = off(float(whole.mean()), float(whole.var()), (middle, spread))
    unweighted = particles((2.0,), MODES.flow(), rng.fork("anneal"), deviation=1.67, threshold=0.0).x
    bare = off(float(unweighted.mean()), float(unweighted.var()), (middle, spread))
    return [
        finding(f"error of the {name} of guidance: particles (figure) against classifier-free guidance", errors[0][k],
                errors[1][k], errors[2][k], "the unconditional model")
        for k, name in enumerate(("mean", "variance"))
    ] + [
        finding(f"error of the {name} of annealing: weighted particles (figure) against the same without weights",
                bare[k], weighted[k], raw[k], "no annealing")
        for k, name in enumerate(("mean", "variance"))
    ]  # fmt: skip
