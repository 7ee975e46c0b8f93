"""Tuning a trained flow: exact teachers are fixed points, and each method trains from a teacher."""

import dataclasses

import pytest
import torch

from beeline.core.field import Flow, Network
from beeline.core.integrate import integrate
from beeline.core.path import Cosine
from beeline.core.rng import Rng
from beeline.core.types import BeelineError
from beeline.data.laws import GaussianMixture
from beeline.learn.trainer import Training, fit
from beeline.learn.tune import ContrastTuned, FeatureTuned, GuidanceTuned, PeRFlow
from beeline.nets.small import MLP
from tests.learn.exact import LAW, labelled

METHODS = [PeRFlow(2, 2), ContrastTuned(), FeatureTuned("backbone.block.0"), GuidanceTuned(null=2)]


def teacher():
    with Rng(0).ambient():
        return Flow(Network(MLP(2, width=16, depth=2, conditions={"label": {"classes": 2}})))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_each_trains_a_copy_and_leaves_the_teacher(method):
    flow = teacher()
    before = [w.clone() for w in flow.field.parameters()]
    batch = LAW.batch(200, Rng(1), dtype=torch.float32)
    data = method.data(flow, batch, Rng(2))
    nets = method.networks(flow)
    made = fit(nets["student"], method.objective(flow), data, Training(steps=2, lot=16, ema=None), rng=Rng(3),
               log=lambda entry: None)  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(before, flow.field.parameters(), strict=True))
    student, sampler = method.student(flow, {"student": made})
    x = sampler(student, torch.zeros(3, 2), {"label": torch.tensor([0, 1, 1])})
    assert x.shape == (3, 2) and bool(x.isfinite().all())


def test_a_straight_teacher_is_a_fixed_point_of_windows():
    straight = Flow(lambda x, t, cond=None: torch.full_like(x, 2.0))
    batch = dataclasses.replace(labelled(40, Rng(0)), cond=None)
    for k in (1, 3):
        objective = PeRFlow(k, 2).objective(straight)
        assert float(objective(straight.field, batch, Rng(1)).value) < 1e-20
    with pytest.raises(BeelineError, match="parts of the straight path"):
        PeRFlow().objective(Flow(None, Cosine()))


def test_exact_windows_make_few_steps_exact():
    # the student that follows its teacher in every window ends where the teacher ends, in one step a window
    law, k = GaussianMixture([[1.0, -0.5]], 0.6), 4
    teacher = law.field()
    edges = torch.linspace(0, 1, k + 1, dtype=torch.float64)

    def student(x, t):
        start = (t * k).floor().clamp(max=k - 1) / k
        grid = torch.stack([start + (1 / k) * u for u in torch.linspace(0, 1, 33, dtype=x.dtype)]).clamp(max=1)
        return (integrate(teacher, x, grid) - x) * k

    x0 = Rng(0).normal(torch.empty(30, 2, dtype=torch.float64))
    few = x0
    for start in edges[:-1]:
        few = few + student(few, torch.full((30,), float(start), dtype=torch.float64)) / k
    fine = integrate(teacher, x0, torch.linspace(0, 1, 32 * k + 1, dtype=torch.float64))
    assert torch.allclose(few, fine, atol=1e-9)


def test_contrast_starts_at_the_teacher_and_guidance_says_its_scale():
    flow = Flow(LAW.field())
    loss = ContrastTuned(push=1.0).objective(flow)(flow.field, labelled(50, Rng(0)), Rng(1))
    assert abs(float(loss.terms["attract"]) - 0.6931471805599453) < 1e-9
    assert GuidanceTuned(2.0, null=2).objective(flow).scale == 2.0
