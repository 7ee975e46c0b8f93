"""Controllers of linear inverse problems that are cheaper than the covariance of the network, and biased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.host_times import host_times
from beeline.core.modes import wide
from beeline.core.protocols.flows import NoiseProcess
from beeline.core.protocols.steering import Controller, Run
from beeline.core.ranges import Count, Inside, Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Dynamics, expand_time
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath, Linear
from beeline.sampling.steering.controller import OfRun, affine_path
from beeline.sampling.steering.inverse.problem import (
    LinearSolver,
    Problem,
    normal_pull,
    normal_variance,
    predicted,
    product,
    scaled,
    weights,
)
from beeline.sampling.steering.inverse.residuals import pulled
from beeline.solvers.diffusions import White


@dataclass(frozen=True)
class Pull(LinearSolver):
    """Pulls the predicted datum to a measurement, without derivatives of the network.

    v' = v + (1 / (1 - t)) (D_y - D),  D_y = D + r^2 A' (r^2 A A' + noise^2)^-1 (y - A D),
    r^2 = deviation^2 (1 - t)^2 / (t^2 deviation^2 + (1 - t)^2),  on the straight path
    Exact for independent Gaussian data of the given deviation.  For others it is biased: what was not measured follows
    the measurement only through later predictions of the network, too little.
    Assumes an affine path and a Gaussian source.
    Source: Wang, Yu and Zhang 2022, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model"
    (arXiv 2212.00490), for measurements with noise.

    >>> from beeline.sampling.steering.energies.measured import Measured
    >>> from beeline.sampling.steering.operators.masks import Mask
    >>> Pull(Measured(Mask((1, 0)), (0.5, 0.0))).deviation
    1.0
    """

    deviation: Positive = 1.0  # standard deviation of the data, in their units
    iterations: Count = 10  # of conjugate residuals without the network, for operators whose rows are not orthogonal

    def dynamics(self, f: Dynamics, path: AffinePath, problem: Problem) -> Dynamics:
        def steered(x: Tensor, t: Tensor) -> Tensor:
            v = f(x, t)
            change, back = self.pull(path, problem, path.data(x, v, t), t)
            return v + scaled(change, x) * back.to(x)

        return steered

    def pull(self, path: AffinePath, problem: Problem, data: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The factor and the direction of the change of the velocity."""
        change, a, b = weights(path, t)
        over = normal_variance(a, b, self.deviation)
        return change * b * over, normal_pull(
            problem(data), wide(data), b**2 * over, self.measured.noise, self.iterations
        )


@dataclass(frozen=True)
class PseudoInverse(LinearSolver):
    """Guides to a measurement through the network, with a variance of the predicted datum that depends on time alone.

    v' = v + ((1 - t) / t) (dD/dx)' A' (r^2 A A' + noise^2)^-1 (y - A D),  r^2 as in Pull,  on the straight path
    It takes one backward pass; below ``least`` it is Pull, which takes none.
    Exact for independent Gaussian data of the given deviation.  For others it is biased: r^2 is not the covariance of
    the datum, so that correlated numbers follow the measurement too much or too little.
    Assumes an affine path, a Gaussian source and an independent coupling.
    Source: Song et al. 2023, "Pseudoinverse-Guided Diffusion Models for Inverse Problems"; Pokle et al. 2023,
    "Training-free Linear Image Inverses via Flows" (arXiv 2310.04432).

    >>> from beeline.sampling.steering.energies.measured import Measured
    >>> from beeline.sampling.steering.operators.axes import BlockMean
    >>> PseudoInverse(Measured(BlockMean(2), torch.zeros(1, 4, 4))).deviation
    1.0
    """

    deviation: Positive = 1.0  # standard deviation of the data, in their units
    iterations: Count = 10  # of conjugate residuals without the network, for operators whose rows are not orthogonal
    least: Inside = 0.05  # least time of a backward pass

    def dynamics(self, f: Dynamics, path: AffinePath, problem: Problem) -> Dynamics:
        early = Pull(self.measured, self.deviation, self.iterations)
        without = early.dynamics(f, path, problem)

        def steered(x: Tensor, t: Tensor) -> Tensor:
            below = host_times(t) < self.least
            if bool(below.all()):
                return without(x, t)
            state, v, data = predicted(f, path, x, t, "PseudoInverse")
            factor, back = early.pull(path, problem, data.detach(), t)
            change, a, b = weights(path, t)
            late = scaled(change * b / a, x) * product(data, state, back).to(x)
            if not bool(below.any()):
                return v + late
            return v + torch.where(expand_time(t < self.least, x), scaled(factor, x) * back.to(x), late)

        return steered


@dataclass(frozen=True)
class Replacement(LinearSolver):
    """Overwrites the measured part of the state after each step by the measurement with noise.

    x' = x + A^+ (a(t) y + b(t) A z - A x),  z ~ N(0, I),  A^+ the pseudoinverse
    It costs nothing and is biased: the rest of the datum sees the measurement only as a noisy state, so that it follows
    it too little.  For a Gaussian with correlation 0.8 the mean given y is about 0.34 y in place of 0.8 y.
    Assumes an affine path and a Gaussian source.
    Source: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations"
    (arXiv 2011.13456), the imputation of its appendix.

    >>> from beeline.sampling.steering.energies.measured import Measured
    >>> from beeline.sampling.steering.operators.masks import Mask
    >>> Replacement(Measured(Mask((1, 0)), (0.5, 0.0))).correct(torch.zeros(1, 2), torch.ones(1))
    tensor([[0.5000, 0.0000]])
    """

    process: NoiseProcess = field(default_factory=lambda: White(Rng(0)))
    iterations: Count = 10  # of conjugate residuals, for operators whose rows are not orthogonal

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        return replace(self, process=self.process.with_seeds(seeds, *names))

    def for_rows(self, start: int, end: int) -> Any:
        return replace(self, measured=self.measured.for_rows(start, end), process=self.process.for_rows(start, end))

    def for_run(self, run: Run) -> Controller:
        path, problem = affine_path(run.flow, "Replacement"), self._problem()
        return OfRun(correct=lambda x, t: self._replaced(x, t, path, problem))

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics:
        return f

    def correct(self, x: Tensor, t: Tensor) -> Tensor:
        return self._replaced(x, t, Linear(), self._problem())

    def _replaced(self, x: Tensor, t: Tensor, path: AffinePath, problem: Problem) -> Tensor:
        operator, y = problem(x)
        z = operator.apply(wide(self.process(t, t, x, "measured")))
        _, a, b = weights(path, t)

        def push(p: Tensor) -> tuple[Tensor, Tensor]:
            back = operator.adjoint(p)
            return back, operator.apply(back)

        gap = scaled(a, z) * y + scaled(b, z) * z - operator.apply(wide(x))
        return x + pulled(push, gap, 0.0, 1 if operator.orthogonal else self.iterations).to(x)
