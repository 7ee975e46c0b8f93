"""Recipes for points."""

from __future__ import annotations

from beeline.couplings.basic import Independent
from beeline.data.directions import Directions
from beeline.data.distributions.mixtures import TwoMoons
from beeline.data.point_files import DistributionData, PointFile
from beeline.objectives.matching import FlowMatching
from beeline.runs.run import Run
from beeline.sampling.sampler import Sampler
from beeline.spaces.manifold import Geodesic, UniformOnSpace
from beeline.training.config import Training
from beeline.training.optim.learning_rate import WarmupConstantCooldown


def points(path: str = "points.csv") -> Run:
    """Points from a .csv or .npy file, each row one datum.

    >>> points("stars.csv").data.path
    'stars.csv'
    """
    return Run(
        data=PointFile(path),
        network={"is": "networks.MLP", "width": 128, "depth": 3},
        training=Training(steps=5000, batch_size=256, lr=WarmupConstantCooldown(peak=2e-3)),
        sampler=Sampler(20),
    )


def directions() -> Run:
    """Directions on the sphere: geodesic paths from the uniform distribution and tangent velocities.

    Source: Chen and Lipman 2024 (arXiv 2302.03660).

    >>> directions().objective.path
    Geodesic(space=Sphere(tolerance=0.0001))
    """
    return Run(
        data=Directions(),
        network={"is": "networks.MLP", "width": 128, "depth": 3},
        objective=FlowMatching(Geodesic(), Independent(UniformOnSpace())),
        training=Training(steps=3000, batch_size=256, lr=WarmupConstantCooldown(peak=2e-3, warmup=50)),
        sampler=Sampler(20),
    )


def two_moons() -> Run:
    """Two interleaved half circles in the plane, a small example of a curved density.

    Source: scikit-learn, make_moons.

    >>> two_moons().data.n
    20000
    """
    return Run(
        data=DistributionData(TwoMoons()),
        network={"is": "networks.MLP", "width": 128, "depth": 3},
        training=Training(steps=3000, batch_size=256, lr=WarmupConstantCooldown(peak=2e-3, warmup=50)),
        sampler=Sampler(20),
    )
