"""The ring with a learned velocity and a learned denoiser, 100 steps: W2 distance to the ring. Noise without the score
correction changes the marginals."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.solvers.latent_sde import LatentSDE
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Stochastic interpolants: SDE with a learned denoiser"
CLAIM = "The same marginals for any level of noise after training; the SDE controls the error of a learned model."


class NoScore(torch.nn.Module):
    """A denoiser that knows nothing: no correction of the noise."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        return torch.zeros_like(x)


def measure(rng: bl.Rng) -> list[Finding]:
    data, path = points(rng), bl.paths.Interpolant(latent=bl.paths.Parabola(2.0))
    x0, (real, _) = noise(rng), even(RING, rng)
    v = learn(network(rng), bl.objectives.FlowMatching(path), data, rng.fork("v"), steps=700)
    eta = learn(network(rng), bl.objectives.LatentNoise(path), data, rng.fork("eta"), steps=700)

    def error(level: float, denoiser: Any) -> float:
        solver = LatentSDE(path, denoiser, level, rng.fork("walk", level))
        return w2(sample(v, x0, 100, solver=solver, path=path), real)

    ode, rows = error(0.0, eta), []
    for level in (0.3, 1.0):
        kept, lost, raw = error(level, eta), error(level, NoScore()), error(level, network(rng))
        rows += [
            finding(f"noise level {level}: with the learned score (figure) against noise alone", lost, kept, raw,
                    "untrained denoiser"),
            finding(f"noise level {level}: the SDE (figure) against the ODE of the same model", ode, kept, raw,
                    "untrained denoiser"),
        ]  # fmt: skip
    return rows
