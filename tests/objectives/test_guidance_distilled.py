"""Distillation of guidance: its optimum for Gaussians, its zero for the exact student, and refusals."""

from __future__ import annotations

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.data.distributions.mixtures import Gaussian
from beeline.objectives.guided import GuidanceDistilled
from beeline.sampling.guidance.temperature import Temperature

STRONG, WEAK = Gaussian((1.5,), 1.0).field(), Gaussian((0.0,), 2.0).field()


def teacher(x, t, cond):
    """A conditional and an unconditional Gaussian, by label."""
    return torch.where(cond["label"][:, None] == 0, STRONG(x, t), WEAK(x, t))


FLOW = bl.Flow(teacher, null={"label": 1})
BATCH = bl.Batch(1.5 + bl.Rng(0).normal(torch.empty(64, 1)), cond={"label": torch.zeros(64, dtype=torch.long)})


def test_the_exact_student_has_no_loss_and_another_one_has():
    def student(x, t, cond, shift=0.0):
        scale = 1 / cond["beta"]
        return WEAK(x, t) + scale * (STRONG(x, t) - WEAK(x, t)) + shift

    objective = GuidanceDistilled(FLOW, scales=(1.0, 5.0))
    assert float(objective(student, BATCH, bl.Rng(1)).value) < 1e-10
    assert float(objective(lambda *a: student(*a, shift=0.1), BATCH, bl.Rng(1)).value) == pytest.approx(0.01, rel=1e-3)
    seen = []
    objective(lambda x, t, cond: seen.append(1 / cond["beta"]) or x, BATCH, bl.Rng(1))
    assert 1 <= float(seen[0].min()) < 2 and 4 < float(seen[0].max()) <= 5


def test_a_linear_student_of_one_scale_is_guidance_of_that_scale():
    """At a fixed time the guided velocity is linear in x: least squares finds it."""
    objective = GuidanceDistilled(FLOW, bl.objectives.FlowMatching(times=bl.times.At(0.4)), scales=(2.0, 2.0))
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    batch = bl.Batch(BATCH.x1.double(), cond=BATCH.cond)

    def loss():
        return objective(lambda x, t, cond: weights[0] + weights[1] * x, batch, bl.Rng(2)).value

    optimizer = torch.optim.LBFGS([weights], max_iter=50)

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    x, t = torch.tensor([[-1.0], [2.0]], dtype=torch.float64), torch.full((2,), 0.4, dtype=torch.float64)
    guided = bl.CFG(2.0, {"label": 1})(teacher, {"label": torch.zeros(2, dtype=torch.long)})(x, t)
    assert torch.allclose((weights[0] + weights[1] * x).detach(), guided, atol=1e-3)


def test_its_student_is_sampled_with_the_temperature():
    spec = GuidanceDistilled(FLOW).spec
    assert spec.conditions == {"beta": {"size": 1}} and isinstance(spec.guidance, Temperature)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GuidanceDistilled(FLOW, scales=(0.5, 2.0)), "from 1 to 10"),
        (lambda: GuidanceDistilled(FLOW)(teacher, bl.Batch(BATCH.x1), bl.Rng(0)), "adds the condition 'beta'"),
        (lambda: GuidanceDistilled(bl.Flow(teacher))(teacher, BATCH, bl.Rng(0)), "no null condition"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()
