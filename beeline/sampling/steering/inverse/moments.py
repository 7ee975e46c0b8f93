"""The posterior of a linear inverse problem by the mean and the covariance of the predicted datum."""

from __future__ import annotations

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times, map_times
from beeline.core.modes import wide
from beeline.core.ranges import Count, Inside, dataclass
from beeline.core.types import Dynamics
from beeline.paths.affine import AffinePath
from beeline.sampling.steering.inverse.problem import LinearSolver, Problem, predicted, product, scaled, weights
from beeline.sampling.steering.inverse.residuals import pulled


@dataclass(frozen=True)
class MomentMatching(LinearSolver):
    """Samples the posterior of a linear inverse problem, with the covariance of the predicted datum from the network.

    v' = v + (1 / (1 - t)) (D_y - D),  D_y = D + C A' (A C A' + noise^2)^-1 (y - A D),
    C = Cov[x1 | x_t] = ((1 - t)^2 / t) dD/dx,  on the straight path
    The system is solved by conjugate residuals, each iteration with one product with dD/dx, a backward pass; the
    prediction is evaluated once for all of them.  Where t is below ``least``, C is that of ``least``, which takes a
    second evaluation and differs by the order of least^2 for a Gaussian.
    Exact for Gaussian data and enough iterations (one for each value of M).  For others p(x1 | x_t) is replaced by a
    Gaussian of the same mean and covariance, and the covariance is held constant in the gradient: modes that explain
    the measurement equally well get other weights than in the posterior.
    Assumes an affine path, a Gaussian source and an independent coupling.
    Source: Boys et al. 2023, "Tweedie Moment Projected Diffusions" (arXiv 2310.06721); Rozet et al. 2024, "Learning
    Diffusion Priors from Observations by Expectation Maximization" (arXiv 2405.13712), the solution by iterations.

    >>> from beeline.sampling.steering.energies.measured import Measured
    >>> from beeline.sampling.steering.operators.masks import Mask
    >>> MomentMatching(Measured(Mask((1, 0)), (0.5, 0.0), noise=0.1)).iterations
    5
    """

    iterations: Count = 5  # of conjugate residuals, a backward pass each; 1 to 8
    least: Inside = 0.05  # least time of the covariance; for networks in 16 bits 0.05 or more

    def calls(self, t: float) -> int:
        return 2 if t < self.least else 1

    def dynamics(self, f: Dynamics, path: AffinePath, problem: Problem) -> Dynamics:
        def steered(x: Tensor, t: Tensor) -> Tensor:
            require(
                t.ndim < 2,
                "MomentMatching got a time for every frame; the covariance of a datum has one time: use Pull(), or "
                "sample without frames of their own times",
            )
            operator, y = problem(x)
            early = bool((host_times(t) < self.least).any())
            then = map_times(lambda t: t.clamp(min=self.least), t) if early else t
            state, v, data = predicted(f, path, x, then, "MomentMatching")
            now = f(x, t).detach() if early else v
            at = wide(path.data(x, now, t) if early else data.detach())
            change, _, b = weights(path, t)
            _, a_then, b_then = weights(path, then)
            spread = b_then**2 / a_then

            def push(p: Tensor) -> tuple[Tensor, Tensor]:
                step = product(data, state, operator.adjoint(p))
                return step, scaled(spread, p) * operator.apply(step)

            total = pulled(push, y - operator.apply(at), self.measured.noise**2, self.iterations)
            ratio = torch.where(then > t, b_then / b, 1)  # b vanishes at t = 1 only
            return now + scaled(change * b_then / a_then * ratio, x) * total.to(x)

        return steered
