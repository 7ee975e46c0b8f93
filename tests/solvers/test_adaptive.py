"""Embedded pairs: their order conditions, errors that follow the tolerance, counts, dense output, refusals."""

import numpy as np
import pytest
import torch

from beeline.solvers.adaptive import BOGACKI_SHAMPINE, DORMAND_PRINCE, TSITOURAS, Adaptive, Embedded
from beeline.solvers.integrate import IntegrationError, integrate
from beeline.solvers.runge_kutta import RK4

X = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
WHOLE = torch.tensor([0.0, 1.0], dtype=torch.float64)


class Counted:
    def __init__(self) -> None:
        self.calls, self.times = 0, (2.0, -1.0)

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.times = min(self.times[0], float(t.min())), max(self.times[1], float(t.max()))
        return -2 * t[:, None] * x**2


@pytest.mark.parametrize("table", [BOGACKI_SHAMPINE, DORMAND_PRINCE, TSITOURAS])
def test_order_conditions(table: Embedded) -> None:
    n = len(table.error)
    a = np.zeros((n, n))
    for i, row in enumerate(table.a):
        a[i + 1, : len(row)] = row
    c, b = a.sum(1), np.append(table.a[-1], 0.0)
    for weights, order in ((b, table.order), (b - np.array(table.error), table.error_order)):
        for p in range(1, order + 1):  # bushy trees
            assert abs(weights @ c ** (p - 1) - 1 / p) < 1e-13
        if order >= 3:
            assert abs(weights @ a @ c - 1 / 6) < 1e-13
        if order >= 4:
            assert abs(weights @ (c * (a @ c)) - 1 / 8) < 1e-13 and abs(weights @ a @ a @ c - 1 / 24) < 1e-13
        assert abs(weights @ c**order - 1 / (order + 1)) > 1e-5


@pytest.mark.parametrize("table", [BOGACKI_SHAMPINE, DORMAND_PRINCE, TSITOURAS])
@pytest.mark.parametrize("mode", [{}, {"per_sample": False}, {"per_sample": False, "dense": True}])
def test_error_follows_the_tolerance(table: Embedded, mode: dict) -> None:
    errors = []
    for tolerance in (1e-4, 1e-7):
        f, memories, worst = Counted(), [], []
        times = torch.linspace(0, 1, 31, dtype=torch.float64) if "dense" in mode else WHOLE
        watch = lambda x, t, worst=worst: worst.append(float((x - 1 / (1 / X + t[0] ** 2)).abs().max()))  # noqa: E731
        integrate(f, X, times, Adaptive(tolerance, tolerance, table, **mode), done=memories.append, watch=watch)
        assert memories[0].evaluations == f.calls and 0 <= f.times[0] and f.times[1] <= 1
        assert memories[0].accepted >= 2 and max(worst) < 50 * tolerance
        errors.append(max(worst))
    assert errors[1] < errors[0] / 20


def test_rejections_are_counted() -> None:
    memories: list = []
    jump = lambda x, t: torch.where(t[:, None] > 0.5, 50 * torch.cos(50 * t[:, None]), 0.01) + 0 * x  # noqa: E731
    integrate(jump, X, WHOLE, Adaptive(1e-6, 1e-6, per_sample=False), done=memories.append)
    assert memories[0].rejected >= 2
    assert memories[0].evaluations == 2 + 6 * (memories[0].accepted + memories[0].rejected)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    solver = Adaptive(1e-5, 1e-5)
    together = integrate(Counted(), X, WHOLE, solver)
    alone = torch.cat([integrate(Counted(), X[i : i + 1], WHOLE, solver) for i in range(3)])
    assert torch.equal(together, alone)


def test_backwards_through_corrections_and_per_frame_times() -> None:
    there = integrate(Counted(), X, WHOLE, Adaptive(1e-9, 1e-9))
    assert torch.allclose(integrate(Counted(), there, WHOLE.flip(0), Adaptive(1e-9, 1e-9)), X, atol=1e-7)
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    after = lambda x, t: x + 0.25  # noqa: E731
    for mode in ({}, {"per_sample": False, "dense": True}):
        got = integrate(Counted(), X, times, Adaptive(1e-9, 1e-9, **mode), after=after)
        half = 1 / (1 / X + 0.25) + 0.25
        assert torch.allclose(got, 1 / (1 / half + 0.75) + 0.25, atol=1e-7)
    f = lambda x, t: -2 * t * x**2  # noqa: E731
    frames = torch.tensor([[[0.0, 0.0]] * 2, [[1.0, 0.5]] * 2], dtype=torch.float64)
    got = integrate(f, torch.ones(2, 2, dtype=torch.float64), frames, Adaptive(1e-9, 1e-9))
    assert torch.allclose(got[0], torch.tensor([0.5, 0.8], dtype=torch.float64), atol=1e-7)


def test_gradients_are_those_of_the_accepted_steps() -> None:
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(integrate(Counted(), x, WHOLE, Adaptive(1e-8, 1e-8)).sum(), x)
    assert torch.allclose(slope, 1 / (1 + X) ** 2, atol=1e-6)
    assert float(integrate(Counted(), X, torch.linspace(0, 1, 9).double(), RK4)[0]) == pytest.approx(1 / 3, abs=1e-4)


def test_refusals() -> None:
    for bad in ({"rtol": 0.0}, {"atol": 0.0}, {"rtol": -1.0}):
        with pytest.raises(ValueError, match="set tolerances above 0"):
            Adaptive(**bad)
    with pytest.raises(ValueError, match="no step could be accepted"):
        Adaptive(max_evaluations=0)
    with pytest.raises(ValueError, match="set per_sample=False"):
        Adaptive(dense=True)
    with pytest.raises(ValueError, match="no embedded pair"):
        Embedded(2, ((1.0,),), (0.5, 0.5), 1)
    with pytest.raises(IntegrationError, match=r"max_evaluations=50 allows no further step") as caught:
        integrate(Counted(), X, WHOLE, Adaptive(1e-10, 1e-10, max_evaluations=50))
    assert 0 < caught.value.t < 1
    assert abs(float(caught.value.x[0]) - 1 / (2 + caught.value.t**2)) < 1e-6  # the partial path
    with pytest.raises(IntegrationError, match="max_evaluations=30"):
        mode = {"per_sample": False, "dense": True}
        integrate(Counted(), X, torch.linspace(0, 1, 5).double(), Adaptive(1e-10, 1e-10, max_evaluations=30, **mode))
    with pytest.raises(IntegrationError, match="the field returned NaN or infinite values at t = 0.5"):
        broken = lambda x, t: torch.where(t[:, None] >= 0.5, torch.nan, 1.0) + 0 * x  # noqa: E731
        integrate(broken, X, WHOLE, Adaptive())
