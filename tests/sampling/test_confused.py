"""Guidance away from the class that a classifier confuses with the wanted one."""

from __future__ import annotations

import pytest
import torch

from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.flow import Flow
from beeline.sampling.guidance.confused import ConfusedClass
from beeline.sampling.sampler import Sampler
from beeline.solvers.parallel_in_time import Picard
from beeline.solvers.runge_kutta import EULER

RING = GaussianMixture.ring(labelled=True, std=0.6)
FIELD = RING.field()


def logits(x1):
    assert not torch.is_grad_enabled()  # the classifier is not differentiated
    means = torch.tensor(RING.means, dtype=x1.dtype)
    return -torch.cdist(x1, means).square() / (2 * 0.6**2)


def points(n=16):
    return Rng(0).normal(torch.empty(n, 2, dtype=torch.float64)), torch.arange(n) % 8


def test_the_step_is_the_formula():
    x, label = points()
    x, t = 2 * x, torch.full((16,), 0.5, dtype=torch.float64)
    made = ConfusedClass(logits, gain=3.0)(FIELD, {"label": label})(x, t)
    v = FIELD(x, t, {"label": label})
    with torch.no_grad():
        p = logits(x + 0.5 * v).softmax(1)
    for i in range(16):
        other = max((k for k in range(8) if k != label[i]), key=lambda k: float(p[i, k]))
        weak = FIELD(x[i : i + 1], t[:1], {"label": torch.tensor([other])})[0]
        weight = 1 + 3.0 * (1 - p[i, label[i]])
        assert torch.allclose(made[i], weak + weight * (v[i] - weak), atol=1e-6)


def test_the_other_class_is_never_the_wanted_one():
    x, label = points(800)
    assert bool((ConfusedClass(logits).confusion(4 * x, label)[1] != label).all())


def test_frames_have_the_weight_of_their_sample():
    """As many frames as samples, each with a time of its own."""
    field = lambda x, t, cond: cond["label"][:, None, None].to(x) + 0 * x  # noqa: E731
    guidance = ConfusedClass(lambda x1: x1[:, 0] * torch.tensor([3.0, 1.0]), window=(0.2, 0.9))
    x = torch.tensor([[[1.0, 2.0]] * 2, [[0.5, 4.0]] * 2])
    label = {"label": torch.tensor([0, 1])}
    made = guidance(field, label)(x, torch.tensor([[0.5, 1.0], [0.5, 0.0]]))
    same = guidance(field, label)(x, torch.tensor([0.5, 0.5]))
    assert torch.equal(made[:, 0], same[:, 0]) and torch.equal(made[:, 1], field(x, None, label)[:, 1])


def test_samples_that_are_surely_right_are_not_guided():
    x, label = points()
    sure = ConfusedClass(lambda x1: 1e4 * torch.nn.functional.one_hot(label, 8).double(), gain=5.0)
    flow = Flow(FIELD)
    assert torch.equal(Sampler(4, guidance=sure)(flow, x, {"label": label}), Sampler(4)(flow, x, {"label": label}))


def test_evaluations_are_those_of_the_field_and_a_bare_condition_is_the_same():
    count = 0

    def field(x, t, cond=None):
        nonlocal count
        count += 1
        return FIELD(x, t, cond if isinstance(cond, dict) else {"label": cond})

    x, label = points()
    sampler = Sampler(5, solver=EULER, guidance=ConfusedClass(logits, window=(0.3, 0.7)))
    named = sampler(Flow(field), x, {"label": label})
    assert count == sampler.evaluations == 5 + 2  # guided at 0.4 and 0.6
    assert torch.equal(named, sampler(Flow(field), x, label))


@pytest.mark.parametrize(
    ("guidance", "cond", "message"),
    [
        (ConfusedClass(logits), None, "found no classes"),
        (ConfusedClass(logits, label="kind"), {"label": torch.arange(16) % 8}, "found no classes under"),
        (ConfusedClass(lambda x1: x1[:, 0]), {"label": torch.arange(16) % 8}, "logits of two or more classes"),
        (ConfusedClass(lambda x1: x1), {"label": torch.arange(16) % 3}, "label outside 0 .. 1, the classes of the"),
    ],
)
def test_wrong_conditions_and_classifiers_are_refused(guidance, cond, message):
    with pytest.raises(ValueError, match=message):
        Sampler(4, guidance=guidance)(Flow(lambda x, t, cond=None: 0 * x), points()[0], cond)


def test_solvers_that_are_parallel_in_time_are_refused():
    x, label = points()
    with pytest.raises(ValueError, match="got 64 states for 16 labels"):
        Sampler(4, solver=Picard(4, 1e-6), guidance=ConfusedClass(logits))(Flow(FIELD), x, {"label": label})


def test_a_window_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match="no interval of times"):
        ConfusedClass(logits, window=(-0.1, 0.5))
