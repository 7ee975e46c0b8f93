"""Tuning a trained flow: exact teachers are fixed points, and each method trains from a teacher."""

import dataclasses
from dataclasses import replace

import pytest
import torch

from beeline.core.field import Data, Flow, Network, Noise
from beeline.core.integrate import integrate
from beeline.core.path import Cosine, Linear, Polynomial
from beeline.core.rng import Rng
from beeline.core.space import Geodesic, Sphere
from beeline.core.types import Batch, BeelineError
from beeline.data.laws import GaussianMixture
from beeline.learn.distill import own_space
from beeline.learn.objective import FlowMatching, Huber
from beeline.learn.segments import Windowed, through
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
    with pytest.raises(BeelineError, match="says where it goes"):
        PeRFlow().objective(Flow(None, Polynomial(2.0)))
    with pytest.raises(BeelineError, match="ends of an affine path alone"):
        Windowed(straight, objective=FlowMatching(Geodesic(Sphere())))


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=lambda p: type(p).__name__)
def test_a_teacher_with_constant_ends_is_a_fixed_point_of_windows_on_its_path(path):
    """x1 = 3 x0 + 2 along every trajectory; an error of 0.1 in the noise that the student predicts counts 0.01."""

    def start(x, t):
        a, b, da, db = (c[:, None] for c in path.coefficients(t))
        return (x - 2 * a) / (3 * a + b), da, db

    def exact(x, t):
        x0, da, db = start(x, t)
        return da * (3 * x0 + 2) + db * x0

    class Off(torch.nn.Module):
        def forward(self, x, t, cond=None):
            return start(x, t)[0] + 0.1

    off = Network(Off(), path, Noise())
    batch = Batch(Rng(0).normal(torch.empty(60, 2, dtype=torch.float64)))
    loss = PeRFlow(4, 24).objective(Flow(exact, path))
    assert float(loss(exact, batch, Rng(1)).value) < 1e-7
    loss = replace(loss, objective=replace(loss.objective, prediction=own_space(Flow(off, path))))
    assert torch.allclose(loss(off, batch, Rng(1)).per_sample, torch.full((60,), 0.01, dtype=torch.float64), rtol=1e-3)
    data = PeRFlow(4, 24, Data(), Huber(0.001, each=True)).objective(Flow(exact, path)).objective
    assert data.path == path and data.prediction == Data() and data.distance == Huber(0.001, each=True)


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=lambda p: type(p).__name__)
def test_exact_windows_make_few_steps_exact(path):
    # the student that follows its teacher in every window ends where the teacher ends, in one step a window
    law, k = GaussianMixture([[1.0, -0.5], [-1.0, 0.0]], 0.6), 4
    teacher = law.field(path)

    def exact(x, t):
        begin = (t * k).floor().clamp(max=k - 1) / k
        grid = torch.stack([begin + (1 / k) * u for u in torch.linspace(0, 1, 33, dtype=x.dtype)]).clamp(max=1)
        return path.point(*through(path, x, integrate(teacher, x, grid), begin, begin + 1 / k), t).v

    x0 = Rng(0).normal(torch.empty(30, 2, dtype=torch.float64))
    flow, sampler = PeRFlow(k).student(Flow(teacher, path), {"student": exact})
    assert sampler.steps == k and not flow.independent
    fine = integrate(teacher, x0, torch.linspace(0, 1, 32 * k + 1, dtype=torch.float64))
    assert torch.allclose(sampler(flow, x0), fine, atol=1e-9)


def test_contrast_starts_at_the_teacher_and_guidance_says_its_scale():
    flow = Flow(LAW.field())
    loss = ContrastTuned(push=1.0).objective(flow)(flow.field, labelled(50, Rng(0)), Rng(1))
    assert abs(float(loss.terms["attract"]) - 0.6931471805599453) < 1e-9
    assert GuidanceTuned(2.0, null=2).objective(flow).scale == 2.0
