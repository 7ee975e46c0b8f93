"""Directions on their sphere: their density, and a run whose samples stay on the sphere."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.cli.report.measuring import sampler_for
from beeline.config import build as config
from beeline.core.rng import Rng
from beeline.data.directions import Directions
from beeline.recipes.points import directions, points
from beeline.runs.run import train
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.spaces.manifold import Projected, Sphere, Tangent, Torus


def test_the_density_is_that_of_the_draws() -> None:
    distribution = Directions(kappa=3.0)
    even = Sphere().sample(torch.empty(200_000, 3, dtype=torch.float64), Rng(0))
    density = distribution.log_prob(even).exp()
    assert float(density.mean()) * 4 * math.pi == pytest.approx(1, abs=0.01)
    made = distribution.sample(200_000, Rng(1))
    assert torch.allclose(made.norm(dim=1), torch.ones(200_000, dtype=torch.float64))
    for moment in (lambda x: x[:, 0], lambda x: x[:, 1] ** 2, lambda x: x[:, 0] * x[:, 2]):
        weighed = float((moment(even) * density).mean() * 4 * math.pi)
        assert float(moment(made).mean()) == pytest.approx(weighed, abs=0.01)
    length = 1 / math.tanh(3.0) - 1 / 3.0  # of the mean around one mode
    one = Directions(((0.0, 0.0, 2.0),), kappa=3.0).sample(100_000, Rng(2)).mean(0)
    assert torch.allclose(one, torch.tensor([0.0, 0.0, length], dtype=torch.float64), atol=0.01)


def test_a_run_stays_on_the_sphere(tmp_path: Path) -> None:
    small = {"training.steps": 400, "data.n": 4000, "data.kept": 200, "network.width": 64, "network.depth": 2}
    run = config.change(directions(), small)
    bundle = train(run, tmp_path / "run", log=lambda entry: None)
    assert isinstance(bundle.flow.field, Tangent) and bundle.sampler.solver == Projected(HEUN, Sphere())
    assert sampler_for(2, bundle.sampler).solver == Projected(EULER, Sphere())
    made = torch.from_numpy(bundle.sample(1000).values)
    assert (made.norm(dim=1) - 1).abs().max() < 1e-5
    distribution = Directions()
    even = Sphere().sample(torch.empty(1000, 3, dtype=torch.float64), Rng(0))
    real, start = distribution.log_prob(distribution.sample(1000, Rng(3))).mean(), distribution.log_prob(even).mean()
    assert distribution.log_prob(made).mean() > real - 0.2 * (real - start)


def test_angles_of_a_file_stay_angles(tmp_path: Path) -> None:
    angles = np.random.default_rng(0).uniform(-math.pi, math.pi, (60, 2))
    np.save(tmp_path / "angles.npy", angles)
    changes = {
        "data.standardise": False,
        "objective.path": "Geodesic(Torus())",
        "objective.coupling": "Independent(UniformOnSpace(Torus()))",
        "training.steps": 3,
        "network.width": 8,
    }
    bundle = train(
        config.change(points(str(tmp_path / "angles.npy")), changes), tmp_path / "run", log=lambda entry: None
    )
    assert bundle.sampler.solver == Projected(HEUN, Torus())
    assert np.abs(bundle.sample(50).values).max() <= math.pi + 1e-6


def test_what_is_no_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="a mode is three numbers"):
        Directions(((0.0, 0.0, 0.0),))
    with pytest.raises(ValueError, match="kappa lies in"):
        Directions(kappa=0.0)
    with pytest.raises(ValueError, match="not on Sphere"):
        bl.paths.Geodesic().point(torch.ones(1, 3), torch.ones(1, 3), torch.ones(1))
