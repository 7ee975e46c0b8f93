"""Linear forms of solvers and the presets: equality with the solver, exactness on straight flows."""

import pytest
import torch

from beeline.core.protocols.flows import Solver
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.paths.affine import Cosine
from beeline.solvers.fitted.linear import Fitted, linear_form
from beeline.solvers.fitted.presets import PRESETS
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import DEIS, AdamsBashforth, DPMSolver, UniPC
from beeline.solvers.runge_kutta import EULER, HEUN, MIDPOINT, RK4, MidpointReuse
from beeline.times.schedules import Shifted

X0 = Rng(3).normal(torch.empty(64, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    "solver",
    [
        EULER,
        MIDPOINT,
        MidpointReuse(),
        AdamsBashforth(3, ramp=True),
        DPMSolver(3),
        DEIS(2),
        UniPC(2),
        UniPC(3, Cosine()),
    ],
    ids=str,
)
def test_a_linear_form_has_the_same_end_points(solver: Solver) -> None:
    field, times = GaussianMixture.ring().field(), Shifted(1.6)(6).double()
    form = linear_form(solver, times)
    assert form is not None
    own = integrate(field, X0, torch.tensor(form.times, dtype=torch.float64), form)
    assert torch.allclose(own, integrate(field, X0, times, solver), atol=1e-10)


def test_solvers_without_a_linear_form() -> None:
    assert linear_form(HEUN, torch.linspace(0, 1, 4)) is None
    assert linear_form(RK4, torch.linspace(0, 1, 4)) is None


@pytest.mark.parametrize("steps", sorted(PRESETS))
def test_presets_are_exact_on_straight_trajectories(steps: int) -> None:
    """The velocity is constant along every trajectory and differs between them, as in a reflowed flow."""
    solver = Fitted(*PRESETS[steps])
    # x_t = (1 + 2 t) x0, whose velocity is 2 x0
    straight = lambda x, t: 2 * x / (1 + 2 * t[:, None])  # noqa: E731
    x1 = integrate(straight, X0, torch.tensor(solver.times, dtype=torch.float64), solver)
    assert torch.allclose(x1, 3 * X0, atol=1e-12)
