"""Shared by the claims about training: the ring, a small network, a fit, and exact distances.

Test points are scrambled Sobol points mapped by the inverse distribution function, not independent samples: the W2
distance between two sets of 512 independent samples of the ring is 0.7, that between two sets of these 0.11.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.quasirandom import SobolEngine

import beeline as bl
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.networks.mlp import MLP
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks.claims.verdict import Finding

LINE = bl.paths.Linear()
RING = GaussianMixture.ring()
CLASSES = GaussianMixture.ring(labelled=True, std=0.6)  # overlapping modes, so that classes are uncertain
UNTRAINED = "untrained network"
TESTED = 512  # size of a test set


def points(rng: bl.Rng, law: Any = RING, n: int = 10_000) -> bl.Batch:
    """A fixed training set of a distribution, with labels where it has some."""
    return law.batch(n, rng.fork("data"), dtype=torch.float32)


def network(rng: bl.Rng, size: int = 2, width: int = 64, prediction: Any = None, **more: Any) -> bl.Network:
    """A small residual network with fixed initial weights."""
    with rng.fork("network").ambient():
        return bl.Network(MLP(size, width=width, depth=3, **more), prediction=prediction)


def learn(
    net: Any,
    objective: Any,
    data: Any,
    rng: bl.Rng,
    steps: int = 800,
    batch_size: int = 256,
    peak: float = 3e-3,
    **more: Any,
) -> Any:
    """The network after ``steps`` training steps."""
    training = Training(steps=steps, batch_size=batch_size, **{"lr": WarmupCosine(peak, 50), "ema": None, **more})
    return fit(net, objective, data, training, rng=rng.fork("fit"), log=lambda entry: None).eval()


def sample(
    field: Any,
    x0: Tensor,
    steps: int,
    cond: Any = None,
    *,
    solver: Any = bl.solvers.EULER,
    path: Any = LINE,
    **more: Any,
) -> Tensor:
    """Samples from ``x0`` [B,*S] in ``steps`` uniform steps."""
    with torch.no_grad():
        return bl.Sampler(steps, solver=solver, **more)(bl.Flow(field, path), x0, cond)


def sobol(rng: bl.Rng, n: int, size: int) -> Tensor:
    """[n,size] scrambled Sobol points in the open unit cube, float64."""
    seed = int(rng.fork("sobol").integers(2**31 - 1, 1)[0])
    return SobolEngine(size, scramble=True, seed=seed).draw(n, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)


def noise(rng: bl.Rng, n: int = TESTED, size: int = 2) -> Tensor:
    """[n,size] standard normal points for the measurement."""
    return torch.special.ndtri(sobol(rng.fork("test"), n, size)).float()


def even(law: GaussianMixture, rng: bl.Rng, n: int = TESTED) -> tuple[Tensor, Tensor]:
    """[n,D] points of a mixture for the measurement, and their components [n]."""
    parts = law.parts()
    u = sobol(rng.fork("even"), n, parts.means.shape[1] + 1)
    k = torch.searchsorted(parts.weights.cumsum(0), u[:, 0].contiguous()).clamp(max=len(parts.weights) - 1)
    return (parts.means[k] + parts.variances[k].sqrt() * torch.special.ndtri(u[:, 1:])).float(), k


def w2(made: Tensor, real: Tensor) -> float:
    """The exact Wasserstein-2 distance between two samples of one size."""
    cost = torch.cdist(made.double(), real.double()).square()
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].mean().sqrt())


def rmse(made: Tensor, wanted: Tensor) -> float:
    """Root mean square distance of paired points."""
    return float((made - wanted).square().sum(1).mean().sqrt())


def exact_end(law: Any, x0: Tensor) -> Tensor:
    """End points of ``x0`` under the exact flow of a distribution."""
    return sample(law.field(), x0.double(), 60, solver=bl.solvers.RK4).to(x0.dtype)


def velocity_error(field: Any, law: Any, rng: bl.Rng, n: int = 4000, cond: Any = None) -> float:
    """Root mean square error of a field against the exact one, over states of the exact flow and uniform times."""
    batch = law.batch(n, rng.fork("states"), dtype=torch.float32)
    t = rng.fork("at").uniform(n, batch.x1) * 0.98
    x = bl.paths.Linear().point(rng.fork("from").normal(batch.x1), batch.x1, t).x
    cond = batch.cond if cond is None else cond
    with torch.no_grad():
        return rmse(field(x, t, cond), law.field()(x, t, cond))


def finding(
    compares: str, baseline: float, figure: float, control: float, trivial: str = UNTRAINED, better: str = "lower"
) -> Finding:
    """One row of the table of claims, for one seed."""
    return Finding(compares, baseline, figure, control, trivial, better)
