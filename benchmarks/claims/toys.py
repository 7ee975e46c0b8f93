"""What the claims of the learning slots share: the ring, a small network, a fit, and exact distances."""

from __future__ import annotations

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import beeline as bl
from beeline.data.laws import GaussianMixture
from beeline.learn.rate import WarmupCosine
from beeline.learn.trainer import Training, fit
from beeline.nets.small import MLP

LINE = bl.paths.Linear()
RING = GaussianMixture.ring()
CLASSES = GaussianMixture.ring(labelled=True, std=0.6)  # modes that overlap, so that a class is not certain


def points(rng: bl.Rng, law: Any = RING, n: int = 10_000) -> bl.Batch:
    """A fixed training set of a law, with labels where it has some."""
    return law.batch(n, rng.fork("data"), dtype=torch.float32)


def network(rng: bl.Rng, size: int = 2, width: int = 64, prediction: Any = None, **more: Any) -> bl.Network:
    """A small residual network with fixed initial weights."""
    with rng.fork("network").ambient():
        return bl.Network(MLP(size, width=width, depth=3, **more), prediction=prediction)


def learn(
    net: Any, objective: Any, data: Any, rng: bl.Rng, steps: int = 1000, lot: int = 256, peak: float = 3e-3
) -> Any:
    """The network after ``steps`` steps."""
    training = Training(steps=steps, lot=lot, rate=WarmupCosine(peak, 50), ema=None)
    return fit(net, objective, data, training, rng=rng.fork("fit"), log=lambda entry: None).eval()


def draw(
    field: Any,
    x0: Tensor,
    steps: int,
    cond: Any = None,
    *,
    solver: Any = bl.solvers.EULER,
    path: Any = LINE,
    **more: Any,
) -> Tensor:
    """Data from ``x0`` [B,*S] in ``steps`` even steps."""
    with torch.no_grad():
        return bl.Sampler(steps, solver=solver, **more)(bl.Flow(field, path), x0, cond)


def noise(rng: bl.Rng, n: int = 1000, size: int = 2) -> Tensor:
    """[n,size] source points for the measurement."""
    return rng.fork("test").normal(torch.empty(n, size))


def w2(made: Tensor, real: Tensor) -> float:
    """The exact Wasserstein-2 distance between two samples of one size."""
    cost = torch.cdist(made.double(), real.double()).square()
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].mean().sqrt())


def rmse(made: Tensor, wanted: Tensor) -> float:
    """Root mean square distance of paired points."""
    return float((made - wanted).square().sum(1).mean().sqrt())


def exact_end(law: Any, x0: Tensor) -> Tensor:
    """Where the exact flow of a law takes ``x0``."""
    return draw(law.field(), x0.double(), 200, solver=bl.solvers.RK4).to(x0.dtype)


def velocity_error(field: Any, law: Any, rng: bl.Rng, n: int = 4000, cond: Any = None) -> float:
    """Root mean square error of a field against the exact one, over the law's own states and even times."""
    batch = law.batch(n, rng.fork("states"), dtype=torch.float32)
    t = rng.fork("at").uniform(n, batch.x1) * 0.98
    x = bl.paths.Linear().point(rng.fork("from").normal(batch.x1), batch.x1, t).x
    cond = batch.cond if cond is None else cond
    with torch.no_grad():
        return rmse(field(x, t, cond), law.field()(x, t, cond))


def finding(compares: str, baseline: float, figure: float, better: str = "lower") -> dict[str, Any]:
    """One row of the table of claims."""
    return {"compares": compares, "baseline": baseline, "figure": figure, "better": better}
