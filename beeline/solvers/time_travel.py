"""Repeated steps, with noise that leads back to their start."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import NoiseProcess, Solver
from beeline.core.ranges import Count, check_window, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Dynamics
from beeline.paths.affine import AffinePath, Linear
from beeline.solvers.diffusions import White
from beeline.solvers.runge_kutta import EULER
from beeline.solvers.sde import MemorylessInner, renoise


@dataclass(frozen=True)
class TimeTravel(MemorylessInner):
    """Time travel: every step is taken several times, with exact noising back to its start in between.

    x_s by the solver,  x_t <- (a_t/a_s) x_s + sqrt(b_t^2 - (a_t b_s/a_s)^2) z,  repeats - 1 times
    For the flow itself the noising adds no error.  Under guidance, repeats lead states that left the marginal
    distributions back to them.
    Assumes a Gaussian source, an independent coupling and the affine path of the flow.
    Source: Lugmayr et al. 2022, "RePaint" (arXiv 2201.09865); Yu et al. 2023, "FreeDoM" (arXiv 2303.09833).

    >>> import torch
    >>> step = TimeTravel(repeats=1)
    >>> step.step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    noise: NoiseProcess = field(default_factory=lambda: White(Rng(0)))
    repeats: Count = 2  # times that a step is taken; 1 is the inner solver
    window: tuple[float, float] = (0.0, 1.0)  # starts of the repeated steps; (0.3, 0.7) is usual for images
    solver: Solver = EULER  # a one-step method
    path: AffinePath = field(default_factory=Linear)  # the flow's

    def __post_init__(self) -> None:
        check_window("TimeTravel", self.window)
        self.check_inner(one_step=True)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        start, end = host_times(t), host_times(s)
        require(
            bool((end > start).all()),
            "TimeTravel got a step towards the source; it is defined towards the data only: invert with an ODE solver",
        )
        low, high = self.window
        inside = bool(((start >= low) & (start <= high)).all())
        for k in range(self.repeats if inside else 1):
            if k:
                x = renoise(self.path, x, s, t, self.noise, k)
            x = self.solver.step(f, x, t, s, None)[0]
        return x, None
