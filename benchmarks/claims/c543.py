"""Albergo, Boffi and Vanden-Eijnden 2023: any noise level after training; noise corrects errors."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.core.interpolant import LatentSDE
from beeline.core.noises import Fading, White
from beeline.core.stochastic import EulerMaruyama
from beeline.data.laws import GaussianMixture
from benchmarks.claims.toys import RING, draw, finding, learn, network, noise, points, w2

METHOD = "Stochastic interpolants: SDE with a learned denoiser"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, path = points(rng), bl.paths.Interpolant(latent=bl.paths.Parabola(2.0))
    v = learn(network(rng), bl.objectives.FlowMatching(path), data, rng.fork("v"), steps=1200)
    eta = learn(network(rng), bl.objectives.LatentNoise(path), data, rng.fork("eta"), steps=1200)
    x0, real = noise(rng), RING.sample(1000, rng.fork("real")).float()
    errors = {}
    for level in (0.0, 0.3, 1.0):
        solver = LatentSDE(path, eta, level, rng.fork("walk", level))
        errors[level] = w2(draw(v, x0, 200, solver=solver, path=path), real)
    text = "W2 to the ring of 200 steps with noise level {} (figure) against the ODE of the same model"
    learned = [finding(text.format(level), errors[0.0], errors[level]) for level in (0.3, 1.0)]
    return [
        *learned,
        finding("worst error of the variance over g^2 = 0, 2, 8 (1-t), exact velocity; against 3%", *kept(rng)),
    ]


def kept(rng: bl.Rng) -> tuple[float, float]:
    """(3 percent of the variance of 0.3 N(-2, 0.3^2) + 0.7 N(1.5, 0.5^2), the worst error of 20 000 samples)."""
    law = GaussianMixture(((-2.0,), (1.5,)), (0.3, 0.5), (0.3, 0.7))
    x0, exact = rng.fork("kept").normal(torch.empty(20_000, 1)), float(law.moments()[1])
    walks = [EulerMaruyama(White(rng), Fading(c)) for c in (0.0, 1.0, 4.0)]
    made = [float(bl.integrate(law.field(), x0, torch.linspace(0, 1, 129), walk).var()) for walk in walks]
    return 0.03 * exact, max(abs(v - exact) for v in made)
