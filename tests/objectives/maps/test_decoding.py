"""Parallel decoding distillation: its exact minimum, the order of its error, and what a student may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import beeline as bl
from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.decoding import ParallelDecoding
from beeline.fields.flow import Flow, Network
from beeline.networks.maps.head_bank import HeadBank
from beeline.objectives.maps.decoding import DecodingMatching
from beeline.recipes import images
from beeline.runs.bundle import load
from beeline.runs.run import Distilled, train
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import EULER, MIDPOINT
from beeline.times.schedules import Shifted, Uniform
from beeline.training.config import Training

MEAN, SPREAD = 1.5, 0.4


def spread(t: Tensor) -> Tensor:
    return torch.sqrt((1 - t) ** 2 + (t * SPREAD) ** 2)


def jump(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The exact flow map to data N(MEAN, SPREAD^2), for states [B,1] and times [B]."""
    t, s = t[:, None], s[:, None]
    return s * MEAN + spread(s) / spread(t) * (x - t * MEAN)


def velocity(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    t = t[:, None]
    return MEAN + (t * SPREAD**2 - (1 - t)) / spread(t) ** 2 * (x - t * MEAN)


def heads(x: Tensor, t: Tensor, mixtures: Tensor, schedule: Any, step: Any) -> Tensor:
    """Mixtures of the velocities of the intervals after ``t``, of the states that ``step`` gives in turn."""
    grid = schedule(mixtures.shape[-1]).double()
    states = [x]
    for left, right in zip(grid[:-1], grid[1:], strict=True):
        left, right = (torch.maximum(time.expand(len(x)), t) for time in (left, right))
        states.append(step(states[-1], left, right))
    each = torch.stack([(b - a) / h for a, b, h in zip(states[:-1], states[1:], grid.diff(), strict=True)])
    return torch.einsum("mbk,kbd->mbd", mixtures.double(), each)


def loss(schedule: Any, step: Any, n: int = 256, **more: Any) -> float:
    field = lambda x, t, cond, mixtures: heads(x, t, mixtures, schedule, step)  # noqa: E731
    objective = DecodingMatching(Flow(velocity), schedule=schedule, **more)
    x1 = MEAN + SPREAD * Rng(2).normal(torch.empty(n, 1, dtype=torch.float64))
    return float(objective(field, Batch(x1), Rng(0)).value)


@pytest.mark.parametrize("schedule", [Uniform(), Shifted(3.0)])
@pytest.mark.parametrize("data_free", [False, True])
@pytest.mark.parametrize("most", [1, 4])
def test_the_steps_of_the_teacher_are_the_exact_minimum(schedule: Any, data_free: bool, most: int) -> None:
    for solver in (EULER, MIDPOINT):

        def step(x: Tensor, t: Tensor, s: Tensor, solver: Any = solver) -> Tensor:
            moved = x.clone()
            for i in (s > t).nonzero().flatten():  # an empty interval is before the block
                moved[i] = integrate(velocity, x[i : i + 1], torch.stack([t[i], s[i]]), solver)
            return moved

        more = {"intervals": 8, "most": most, "data_free": data_free, "solver": solver}
        assert loss(schedule, step, 16, **more) < 1e-12


@pytest.mark.parametrize(("solver", "order"), [(EULER, 1), (MIDPOINT, 2)])
def test_the_loss_of_the_exact_map_falls_with_the_order_of_the_solver(solver: Any, order: int) -> None:
    coarse, fine = (loss(Uniform(), jump, intervals=n, most=2, solver=solver) ** 0.5 for n in (32, 64))
    assert coarse > 1e-6
    assert coarse / fine > 0.95 * 2**order  # the leading error of MIDPOINT is zero for a Gaussian


def test_wrong_heads_have_a_loss_and_a_gradient() -> None:
    with Rng(0).ambient():
        net = HeadBank(Network(bl.networks.MLP(1, width=16)), 8)
    x1 = MEAN + SPREAD * Rng(2).normal(torch.empty(64, 1))
    found = DecodingMatching(Flow(velocity), intervals=8)(net, Batch(x1), Rng(0))
    assert found.value > 0.5 and found.per_sample.shape == (64,)
    found.value.backward()
    assert net.bank.bias.grad.abs().amin(0) > 0


def digits(tmp_path: Path) -> Path:
    small = {"training.steps": 2, "training.batch_size": 8, "network": {"is": "networks.DiT", "width": 16, "depth": 1}}
    train(config.change(images.digits(), small), tmp_path / "teacher", log=lambda entry: None)
    return tmp_path / "teacher"


def test_a_student_is_trained_saved_and_sampled_in_its_numbers_of_evaluations(tmp_path: Path) -> None:
    teacher = digits(tmp_path)
    method = ParallelDecoding(intervals=8).for_evaluations(2)
    assert method == ParallelDecoding(2, 2, 8)
    train(Distilled(str(teacher), method, Training(3, 8)), tmp_path / "student", log=lambda entry: None)
    student = load(tmp_path / "student")
    assert student.sampler.evaluations == 2 and isinstance(student.flow.field, HeadBank)
    made = student.sample(4, cond={"label": 3}, seed=1)
    assert torch.isfinite(torch.as_tensor(made.pixels)).all()
    assert torch.isfinite(student.draw(student.start(range(3)), {"label": torch.arange(3)})).all()
    with pytest.raises(BeelineError, match=r"trained for steps between \[0.0, 0.5, 1.0\]"):
        student.draw(
            student.start(range(3)), {"label": torch.arange(3)}, sampler=bl.Sampler(4, solver=student.sampler.solver)
        )


def test_evaluations_that_do_not_divide_the_grid_are_refused() -> None:
    with pytest.raises(BeelineError, match="5 evaluations for a grid of 32 intervals"):
        ParallelDecoding().for_evaluations(5)
    with pytest.raises(BeelineError, match="most=3, intervals=32"):
        ParallelDecoding(most=3)
    assert ParallelDecoding(most=4).for_evaluations(2).most == 4
