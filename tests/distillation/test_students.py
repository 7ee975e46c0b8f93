"""Reflow and one-step distillation: fixed points, determinism, and the ring."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.sources import Uniform
from beeline.distillation.pairs import inverted_pairs, reflow_pairs
from beeline.distillation.students import OneStep, Reflow, error_space
from beeline.fields.flow import Data, Flow, Network, Noise, Velocity
from beeline.networks.tabular import TabularMLP
from beeline.objectives.losses.basic import Huber, squared
from beeline.objectives.losses.distances import Perceptual
from beeline.paths.affine import Cosine, Linear, Polynomial, VariancePreserving
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER, RK4
from beeline.times.samplers import At, LogitNormal
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import WarmupConstantCooldown


class Straight(nn.Module):
    """x1 = 3 x0 + shift: straight trajectories, so v depends on x0 only."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
        self.shift = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x, t, cond=None):
        t = t[:, None]
        shift = self.shift if cond is None else self.shift * cond["side"][:, None]
        start = (x - t * shift) / (1 + t * (self.scale - 1))
        return (self.scale - 1) * start + shift


LIKE = torch.empty(0, 2, dtype=torch.float64)


@pytest.mark.parametrize("method", [Reflow(Sampler(1, solver=EULER), reverse=0.5), OneStep(Sampler(3))])
def test_an_exact_straight_teacher_is_a_fixed_point(method):
    teacher = Flow(Straight())
    student = method.networks(teacher)
    side = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(20)
    batch = Batch(Rng(1).normal(LIKE.new_empty(40, 2)), cond={"side": side})
    pairs = method.data(teacher, batch, Rng(0))
    assert torch.allclose(pairs.x1, 3 * pairs.x0 + 2 * pairs.cond["side"][:, None], atol=1e-12)
    loss = method.objective(teacher)(student["student"], pairs, Rng(5))
    assert loss.value < 1e-24
    loss.value.backward()
    assert all(p.grad.abs() < 1e-10 for p in student["student"].parameters())
    flow, sampler = method.student(teacher, student)
    assert not flow.independent and flow.field is not teacher.field
    with pytest.raises(BeelineError, match="independent"):
        flow.score(LIKE.new_ones(1, 2), LIKE.new_full((1,), 0.5))
    assert sampler.evaluations in (1, 4)


class Kept(nn.Module):
    """The exact noise or velocity of the pairs x1 = 3 x0 + 2, with an error ``off`` of the output."""

    def __init__(self, path, off=0.0, noise=False):
        super().__init__()
        self.path, self.off, self.noise = path, nn.Parameter(torch.tensor(off, dtype=torch.float64)), noise

    def forward(self, x, t, cond=None):
        a, b, da, db = (c[:, None] for c in self.path.coefficients(t))
        x0 = (x - 2 * a) / (3 * a + b)
        return (x0 if self.noise else da * (3 * x0 + 2) + db * x0) + self.off


@pytest.mark.parametrize("path", [Linear(), Cosine()])
def test_students_of_curved_paths_are_sampled_exactly_where_both_ends_are_constant(path):
    x0 = Rng(0).normal(LIKE.new_empty(20, 2))
    pairs = Batch(3 * x0 + 2, x0)
    for method in (Reflow(), OneStep()):
        teacher = Flow(Kept(path), path)
        flow, sampler = method.student(teacher, method.networks(teacher))
        assert torch.allclose(sampler(flow, x0), pairs.x1, atol=1e-9)
        assert method.objective(teacher)(teacher.field, pairs, Rng(0)).value < 1e-20
    # one step: the error of the end point, times 1 - t on the straight path and likewise elsewhere
    teacher = Flow(Kept(path, 0.1), path)
    flow, sampler = OneStep().student(teacher, OneStep().networks(teacher))
    reached = (sampler(flow, x0) - pairs.x1).square().mean()
    assert torch.allclose(OneStep().objective(teacher)(flow.field, pairs, Rng(0)).value, reached, rtol=1e-6)


@pytest.mark.parametrize("path", [Linear(), Cosine(), VariancePreserving()])
def test_errors_of_reflow_are_measured_in_the_space_of_the_teacher(path):
    """A network that predicts noise is regressed on the noise of the pair on its path, or on the datum."""
    teacher = Flow(Network(Kept(path, 0.1, noise=True), path, Noise()), path)
    x0 = Rng(0).normal(LIKE.new_empty(50, 2))
    pairs, times = Batch(3 * x0 + 2, x0), LogitNormal(0.0, 0.5)
    method = Reflow(times=times)
    assert method.objective(teacher).path == path
    loss = method.objective(teacher)(teacher.field, pairs, Rng(0))
    assert torch.allclose(loss.per_sample, torch.full((50,), 0.01, dtype=torch.float64))
    data = replace(method, space=Data(), distance=Huber(1e-3, each=True)).objective(teacher)
    loss = data(teacher.field, pairs, Rng(0))
    a, b, _, _ = path.coefficients(loss.t)
    known = ((0.1 * b / a).square() + 1e-6).sqrt() - 1e-3  # an error of the noise as one of the datum
    assert torch.allclose(loss.per_sample, known)
    curved = Flow(Network(Kept(Cosine()), Cosine()), Cosine())
    assert error_space(curved) == Data() and error_space(Flow(Network(Kept(Linear())))) == Velocity()
    assert error_space(Flow(Straight())) == Velocity()
    slow = Flow(Network(Kept(Polynomial(2)), Polynomial(2)), Polynomial(2))
    assert Reflow().student(slow, {"student": slow.field})[1].solver == EULER
    with pytest.raises(BeelineError, match="does not depend on the datum"):
        OneStep().objective(slow)


def test_one_step_with_a_perceptual_distance_compares_data():
    x0 = Rng(0).normal(LIKE.new_empty(20, 2))
    pairs, teacher = Batch(3 * x0 + 2, x0), Flow(Kept(Linear(), 0.1))
    for method in (OneStep(distance=Perceptual(lambda x: x**3, plain=0.0)),
                   Reflow(times=At(0.0), distance=Perceptual(lambda x: x**3, plain=0.0))):  # fmt: skip
        loss = method.objective(teacher)(teacher.field, pairs, Rng(0))
        assert torch.allclose(loss.per_sample, squared((pairs.x1 + 0.1) ** 3, pairs.x1**3))
    with pytest.raises(BeelineError, match="squared errors of numbers"):
        Reflow(distance=Huber()).objective(Flow(Network(TabularMLP([[1], [2]], width=16), prediction=Data())))


def test_pairs_depend_on_the_key_and_the_row_only():
    flow, sampler = Flow(Straight()), Sampler(2)
    a = reflow_pairs(flow, sampler, 10, Rng(0), like=LIKE, batch_size=10)
    b = reflow_pairs(flow, sampler, 10, Rng(0), like=LIKE, batch_size=3)
    assert torch.equal(a.x0, b.x0) and torch.allclose(a.x1, b.x1, atol=1e-14)
    assert torch.equal(reflow_pairs(flow, sampler, 4, Rng(0), like=LIKE).x0, a.x0[:4])
    assert not torch.equal(reflow_pairs(flow, sampler, 10, Rng(1), like=LIKE).x0, a.x0)
    cond = {"side": torch.ones(7, dtype=torch.float64)}
    assert len(reflow_pairs(flow, sampler, cond, Rng(0), like=LIKE).x1) == 7
    box = Flow(Straight(), source=Uniform())
    assert reflow_pairs(box, sampler, 5, Rng(0), like=LIKE, batch_size=2).x0.abs().max() <= 1


def test_inverted_pairs_have_the_data():
    x1 = Rng(3).normal(LIKE.new_empty(6, 2))
    pairs = inverted_pairs(Flow(Straight()), Sampler(200, solver=RK4), Batch(x1), batch_size=4)
    assert torch.equal(pairs.x1, x1) and torch.allclose(pairs.x0, (x1 - 2) / 3, atol=1e-8)


def test_what_cannot_be_distilled_is_refused():
    with pytest.raises(BeelineError, match="no shape of the data"):
        reflow_pairs(Flow(Straight()), Sampler(1), 3, Rng(0))
    with pytest.raises(BeelineError, match="0 pairs"):
        reflow_pairs(Flow(Straight()), Sampler(1), 0, Rng(0), like=LIKE)
    with pytest.raises(BeelineError, match="every pair has one of each"):
        cond = {"a": torch.ones(2), "b": torch.ones(3)}
        reflow_pairs(Flow(Straight()), Sampler(1), cond, Rng(0), like=LIKE)
    with pytest.raises(BeelineError, match="not a network"):
        Reflow().networks(Flow(lambda x, t: x))
    for method in (Reflow, OneStep):
        with pytest.raises(BeelineError, match="share of the pairs"):
            method(reverse=2.0)
        with pytest.raises(BeelineError, match="number of pairs"):
            method(count=0)


class Ring(nn.Module):
    """The exact velocity of eight Gaussians on a ring of radius 4, std 0.3."""

    def __init__(self):
        super().__init__()
        angle = torch.arange(8) * math.pi / 4
        self.means = 4 * torch.stack([angle.cos(), angle.sin()], 1)

    def forward(self, x, t, cond=None):
        t = t[:, None]
        var = (1 - t) ** 2 + t**2 * 0.09
        gap = x[:, None] - t[:, None] * self.means
        r = torch.softmax(-gap.square().sum(-1) / (2 * var), 1)
        c = (0.09 * t - (1 - t)) / var
        return (r[..., None] * (self.means + c[..., None] * gap)).sum(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))

    def forward(self, x, t, cond=None):
        waves = [f(t * math.pi * k / 2) for k in (1, 2) for f in (torch.sin, torch.cos)]
        return self.layers(torch.cat([x, torch.stack([t, t * t, *waves], 1)], 1))


@pytest.mark.parametrize("method", [Reflow(Sampler(40)), OneStep(Sampler(40))])
def test_the_ring_becomes_straight_and_one_step_follows(method):
    teacher = Flow(Ring())
    batch = Batch(torch.zeros(2000, 2))
    pairs = method.data(teacher, batch, Rng(0))
    with Rng(0).ambient():
        net = Net()
    training = Training(steps=500, batch_size=256, lr=WarmupConstantCooldown(5e-3, 20, 0.5), ema=EMA(20))
    made = fit(net, method.objective(teacher), pairs, training, rng=Rng(1), log=lambda e: None)
    student, sampler = method.student(teacher, {"student": made})
    fresh = reflow_pairs(teacher, Sampler(100, solver=RK4), 500, Rng(7), like=batch.x1)
    one = Sampler(1, solver=EULER)
    rmse = lambda x: float((x - fresh.x1).square().sum(1).mean().sqrt())  # noqa: E731
    before, after = rmse(one(teacher, fresh.x0)), rmse(one(student, fresh.x0))
    assert before > 3.5 and after < 0.5 * before  # 4.02 for the exact field
    if isinstance(method, Reflow):
        bend = lambda flow: bending(flow, fresh.x0)  # noqa: E731
        assert bend(student) < 0.2 * bend(teacher)


def bending(flow, x0):
    """Mean squared deviation of the velocity from the chord of its own path."""
    states = []
    end = Sampler(20)(flow, x0, watch=lambda x, t: states.append((x, t)))
    with torch.no_grad():
        return float(torch.stack([(flow.field(x, t) - (end - x0)).square().sum(1).mean() for x, t in states]).mean())


def test_annealing_is_refused_where_mixtures_change_the_distribution_of_the_source():
    teacher, pairs = Flow(Straight(), source=Uniform()), Batch(torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(BeelineError, match="only if that is Gaussian"):
        Reflow(anneal=2).feed(teacher, pairs, Rng(0))
    assert Reflow().feed(teacher, pairs, Rng(0)) is pairs and OneStep().feed(teacher, pairs, Rng(0)) is pairs


def test_two_hops_of_a_straight_teacher_add_no_loss_and_an_error_is_counted_twice():
    teacher = Flow(Straight())
    x0 = Rng(0).normal(LIKE.new_empty(40, 2))
    pairs, off = Batch(3 * x0 + 2, x0), lambda x, t: Straight()(x, t) + 0.3
    plain, both = OneStep().objective(teacher), OneStep(hops=2.0).objective(teacher)
    assert float(both(teacher.field, pairs, Rng(1)).value) < 1e-24
    assert torch.allclose(both(off, pairs, Rng(1)).value, 3 * plain(off, pairs, Rng(1)).value)  # 0.09 (1 + 2)
    # a curved teacher, v = 2 x: from e over e (1 + 2 t) to e (1 + 2 t) (1 + 2 (1-t)), not the student's 3 e
    bent = OneStep(hops=1.0).objective(Flow(lambda x, t: 2 * x))
    term = bent(lambda x, t: 2 * x, pairs, Rng(1)).terms["two hops"]
    t = torch.linspace(0.2, 0.8, 4001, dtype=torch.float64)
    known = ((1 + 2 * t) * (3 - 2 * t) - 3).square().mean()
    made = torch.stack([bent(lambda x, t: 2 * x, Batch(pairs.x1.repeat(50, 1), x0.repeat(50, 1)), Rng(s)).terms[
        "two hops"] for s in range(8)])  # fmt: skip
    assert abs(float(made.mean() / known) - 1) < 0.06 and float(term) > 0
    with pytest.raises(BeelineError, match="straight path from Gaussian noise"):
        OneStep(hops=1.0).objective(Flow(Straight(), Cosine()))
