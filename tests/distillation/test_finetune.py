"""Finetuning: exact teachers are fixed points, and each method trains from a teacher."""

import dataclasses
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.finetune import ContrastTuned, FeatureTuned, GuidanceTuned, PeRFlow
from beeline.distillation.fit_solver import Problem
from beeline.distillation.fit_steps import Bellman
from beeline.distillation.students import error_space
from beeline.fields.flow import Data, Flow, Network, Noise
from beeline.networks.mlp import MLP
from beeline.objectives.losses.basic import Huber
from beeline.objectives.matching import FlowMatching
from beeline.objectives.windows import Windowed, through
from beeline.paths.affine import Cosine, Linear, Polynomial
from beeline.sampling.guidance.guide import CFG, Plain
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import HEUN
from beeline.spaces.manifold import Geodesic, Sphere
from beeline.times.samplers import At
from beeline.times.schedules import Explicit
from beeline.training.config import Training
from beeline.training.fit import fit
from tests.objectives.exact import MIXTURE, labelled

METHODS = [
    PeRFlow(2, 2),
    PeRFlow(2, 1, guidance=CFG(2.0, 2), schedule=Explicit((0.0, 0.3, 1.0)), times=At(0.0)),
    ContrastTuned(),
    FeatureTuned("backbone.block.0"),
    GuidanceTuned(null=2),
]


def teacher():
    with Rng(0).ambient():
        return Flow(Network(MLP(2, width=16, depth=2, conditions={"label": {"classes": 2}})))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_each_trains_a_copy_and_leaves_the_teacher(method):
    flow = teacher()
    before = [w.clone() for w in flow.field.parameters()]
    batch = MIXTURE.batch(200, Rng(1), dtype=torch.float32)
    data = method.data(flow, batch, Rng(2))
    nets = method.networks(flow)
    made = fit(nets["student"], method.objective(flow), data, Training(steps=2, batch_size=16, ema=None), rng=Rng(3),
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
    with pytest.raises(BeelineError, match="depends on the datum"):
        PeRFlow().objective(Flow(None, Polynomial(2.0)))
    with pytest.raises(BeelineError, match="ends of an affine path only"):
        Windowed(straight, objective=FlowMatching(Geodesic(Sphere())))


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=lambda p: type(p).__name__)
def test_a_teacher_with_constant_ends_is_a_fixed_point_of_windows_on_its_path(path):
    """x1 = 3 x0 + 2 along every trajectory; an error of 0.1 in the predicted noise has the loss 0.01."""

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
    loss = replace(loss, objective=replace(loss.objective, prediction=error_space(Flow(off, path))))
    assert torch.allclose(loss(off, batch, Rng(1)).per_sample, torch.full((60,), 0.01, dtype=torch.float64), rtol=1e-3)
    data = PeRFlow(4, 24, Data(), Huber(0.001, each=True)).objective(Flow(exact, path)).objective
    assert data.path == path and data.prediction == Data() and data.distance == Huber(0.001, each=True)


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=lambda p: type(p).__name__)
def test_few_steps_of_exact_windows_are_exact(path):
    # a student that is exact in every window has the end points of the teacher, with one step per window
    mixture, k = GaussianMixture([[1.0, -0.5], [-1.0, 0.0]], 0.6), 4
    teacher = mixture.field(path)

    def exact(x, t):
        begin = (t * k).floor().clamp(max=k - 1) / k
        grid = torch.stack([begin + (1 / k) * u for u in torch.linspace(0, 1, 33, dtype=x.dtype)]).clamp(max=1)
        return path.point(*through(path, x, integrate(teacher, x, grid), begin, begin + 1 / k), t).v

    x0 = Rng(0).normal(torch.empty(30, 2, dtype=torch.float64))
    flow, sampler = PeRFlow(k).student(Flow(teacher, path), {"student": exact})
    assert sampler.steps == k and not flow.independent
    fine = integrate(teacher, x0, torch.linspace(0, 1, 32 * k + 1, dtype=torch.float64))
    assert torch.allclose(sampler(flow, x0), fine, atol=1e-9)


def test_contrast_starts_at_the_teacher_and_guidance_has_its_scale():
    flow = Flow(MIXTURE.field())
    loss = ContrastTuned(push=1.0).objective(flow)(flow.field, labelled(50, Rng(0)), Rng(1))
    assert abs(float(loss.terms["attract"]) - 0.6931471805599453) < 1e-9
    assert GuidanceTuned(2.0, null=2).objective(flow).scale == 2.0


def gaussian_bellman():
    """The exact field of a narrow Gaussian with curved trajectories, and its grid of three steps."""
    teacher = GaussianMixture([[1.0, -0.5]], 0.05).field()
    x0 = Rng(0).normal(torch.empty(64, 2, dtype=torch.float64))
    flow = Flow(teacher)
    x1 = integrate(teacher, x0, torch.linspace(0, 1, 201, dtype=torch.float64))
    grid, _ = Bellman(fine=20, checked=False)(Problem(flow, Plain(), x0, x1), 3, Rng(1))
    return flow, x0, grid


def test_the_steps_of_a_bellman_grid_are_straightened():
    flow, x0, grid = gaussian_bellman()
    teacher = flow.field
    edges = grid(3).tolist()
    assert edges != pytest.approx([0, 1 / 3, 2 / 3, 1])
    method = PeRFlow(3, 8, schedule=grid, times=At(0.0))
    objective = method.objective(flow)

    def student(x, t):  # the slope of the teacher over the window from t
        ends = torch.tensor([min(e for e in edges if e > float(v) + 1e-9) for v in t], dtype=x.dtype)
        times = torch.stack([t + (ends - t) * i / 8 for i in range(9)])
        return (integrate(teacher, x, times, HEUN) - x) / (ends - t)[:, None]

    batch = Batch(1 + 0.05 * Rng(2).normal(torch.empty(60, 2, dtype=torch.float64)))
    loss = objective(student, batch, Rng(3))
    assert float(loss.value) < 1e-20
    assert {round(v, 9) for v in loss.t.tolist()} == {round(v, 9) for v in edges[:-1]}
    made, sampler = method.student(flow, {"student": student})
    fine = [torch.linspace(a, b, 9, dtype=torch.float64)[:-1] for a, b in itertools.pairwise(edges)]
    wanted = integrate(teacher, x0, torch.cat([*fine, torch.ones(1)]), HEUN)
    assert torch.allclose(sampler(made, x0), wanted, atol=1e-9)
    assert sampler.evaluations == 3


def test_a_guided_teacher_gives_guided_window_ends():
    # a constant field per label: guided, the slope is null + scale (strong - null), with the null 5
    constant = Flow(lambda x, t, cond: cond[:, None].to(x.dtype).expand_as(x))
    batch = Batch(torch.zeros(8, 2, dtype=torch.float64), cond=torch.tensor([1, 2, 5, 3] * 2))
    wanted = torch.tensor([-7.0, -4.0, 5.0, -1.0] * 2, dtype=torch.float64)
    for guidance, teacher in ((CFG(3.0, 5), constant), (CFG(3.0), dataclasses.replace(constant, null=5))):
        example = PeRFlow(2, 2, guidance=guidance).objective(teacher).examples(batch, Rng(0))
        assert torch.allclose(example.v, wanted[:, None].expand(8, 2), atol=1e-12)


def test_windows_evaluate_the_teacher_without_dropout():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).double()
    teacher = Flow(Held(net))
    teacher.field.train()
    batch = Batch(Rng(0).normal(torch.empty(16, 2, dtype=torch.float64)))
    example = PeRFlow(2, 1).objective(teacher).examples(batch, Rng(1))
    teacher.field.eval()
    assert torch.equal(PeRFlow(2, 1).objective(teacher).examples(batch, Rng(1)).v, example.v)


class Held(nn.Module):
    """A network without time."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t, cond=None):
        return self.net(x)
