"""Guidance by several conditions and fields: identities, and exact answers on Gaussians and mixtures."""

from __future__ import annotations

import math

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow
from beeline.paths.affine import Cosine
from beeline.sampling.guidance.composition.linear import Conjunction, Nested
from beeline.sampling.guidance.composition.mixture import Disjunction
from beeline.sampling.guidance.guide import CFG, Extrapolate, Guide, Guides, Unconditional, Weak
from beeline.sampling.guidance.references.conditions import OtherCondition, Without
from beeline.sampling.guidance.references.negative import Negative
from beeline.sampling.sampler import Sampler
from beeline.solvers.diffusions import White
from beeline.solvers.parallel_in_time import Picard
from beeline.solvers.runge_kutta import EULER, HEUN, RK4
from beeline.solvers.sde import Langevin

X = Rng(0).normal(torch.empty(3, 4, dtype=torch.float64))
NULL = {"text": 7, "style": 8}


class Two(torch.nn.Module):
    """A field of two conditions that counts the rows of its evaluations."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def forward(self, x, t, cond=None):
        self.rows += len(x)
        text, style = (cond[name].to(x)[:, None] for name in ("text", "style"))
        return torch.sin(x * (1 + text)) + t[:, None] * style * text


def conditions():
    return {"text": torch.tensor([1, 2, 3]), "style": torch.tensor([4, 5, 6])}


def at(t):
    return torch.full((3,), t, dtype=torch.float64)


def under(t, **values):
    return Two()(X, at(t), {**conditions(), **{k: torch.full((3,), v) for k, v in values.items()}})


def test_a_reference_without_one_condition_nulls_that_one_alone():
    field, weak = Without(("text",), Unconditional(NULL))("field", conditions())
    assert field == "field" and weak["text"].tolist() == [7, 7, 7] and weak["style"].tolist() == [4, 5, 6]
    flow = Flow(Two(), null=NULL)
    made = Guide(Without(("style",)), Extrapolate(2.5)).for_flow(flow)(flow.field, conditions())
    assert torch.allclose(made(X, at(0.3)), 2.5 * under(0.3) - 1.5 * under(0.3, style=8), atol=1e-12)


def test_a_reference_without_one_condition_takes_it_from_the_negative_part():
    negative = {"text": torch.zeros(3), "style": torch.ones(3)}
    _, weak = Without(("text",), Negative())("field", {**conditions(), "negative": negative})
    assert weak["text"].sum() == 0 and weak["style"].tolist() == [4, 5, 6] and weak["negative"] is negative


def test_guides_give_every_condition_its_own_scale():
    both = Guides(
        (
            Guide(Without(("text",), Unconditional(NULL)), Extrapolate(3.0)),
            Guide(Without(("style",), Unconditional(NULL)), Extrapolate(1.5), window=(0.0, 0.4)),
        )
    )
    v, w = under(0.3), under(0.6)
    expected = v + 2 * (v - under(0.3, text=7)) + 0.5 * (v - under(0.3, style=8))
    assert torch.allclose(both(Two(), conditions())(X, at(0.3)), expected, atol=1e-12)
    assert torch.allclose(both(Two(), conditions())(X, at(0.6)), w + 2 * (w - under(0.6, text=7)), atol=1e-12)


LEVELS = (Unconditional(NULL), Without(("style",), Unconditional(NULL)))


@pytest.mark.parametrize("together", [True, False])
def test_nested_guidance_in_closed_form(together):
    made = Nested(LEVELS, (2.5, 3.5), windows=((0.0, 1.0), (0.0, 0.5)), together=together)(Two(), conditions())
    for t, b in ((0.2, 3.5), (0.7, 1.0)):
        v0, v1, v2 = under(t, **NULL), under(t, style=8), under(t)
        assert torch.allclose(made(X, at(t)), v0 + 2.5 * (v1 - v0) + b * (v2 - v1), atol=1e-12)
    mixed = torch.tensor([0.2, 0.7, 0.5], dtype=torch.float64)  # one time for every sample
    rows = torch.stack([made(X, at(float(t)))[i] for i, t in enumerate(mixed)])
    assert torch.allclose(made(X, mixed), rows, atol=1e-12)


def test_nested_guidance_with_scales_of_one_is_the_condition_itself():
    assert torch.equal(Nested(LEVELS, (1.0, 1.0))(Two(), conditions())(X, at(0.4)), under(0.4))
    one, cfg = Nested(LEVELS[:1], (3.1,)), CFG(3.1, NULL)
    a, b = (guidance(Two(), conditions())(X, at(0.4)) for guidance in (one, cfg))
    assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    "guidance",
    [
        Nested(LEVELS, (2.0, 2.0)),
        Nested(LEVELS, (2.0, 3.0), windows=((0.3, 1.0), (0.0, 1.0))),
        Conjunction((OtherCondition({"text": 5}),), (2.0, 0.0), Unconditional(NULL)),
        Conjunction((OtherCondition({"text": 5}),), (2.0, -1.0)),
        Conjunction((OtherCondition({"text": 5}), Without(("text",), Unconditional(NULL))), (2.0, 1.0, 1.0), LEVELS[0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("solver", [EULER, HEUN])
def test_evaluations_are_counted(guidance, solver):
    field = Two()
    sampler = Sampler(4, solver=solver, guidance=guidance)
    sampler(Flow(field), X, conditions())
    assert field.rows == 3 * sampler.evaluations


def test_conjunction_and_negation_in_closed_form():
    base, other = Unconditional(NULL), OtherCondition({"text": 5})
    made = Conjunction((other, OtherCondition({"style": 2})), (2.0, 1.5, -0.5), base)(Two(), conditions())
    v0 = under(0.3, **NULL)
    expected = v0 + 2 * (under(0.3) - v0) + 1.5 * (under(0.3, text=5) - v0) - 0.5 * (under(0.3, style=2) - v0)
    assert torch.allclose(made(X, at(0.3)), expected, atol=1e-12)
    alone = Conjunction((), (3.0,), base)(Two(), conditions())(X, at(0.3))
    assert torch.allclose(alone, CFG(3.0, NULL)(Two(), conditions())(X, at(0.3)), atol=1e-12)


def gaussian(mean, variance):
    """The exact velocity of N(mean, variance)."""

    def v(x, t, cond=None):
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        return mean + (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2) * (x - t * mean)

    return v


HALF = Conjunction((Weak(gaussian(0.0, 0.5)),), (1.0, 1.0), Weak(gaussian(0.0, 1.0)))  # N(0, 1/2)^2 / N(0, 1)


def test_the_ode_of_a_conjunction_has_the_stated_bias():
    """Deviation s^2 = 0.5 in place of that of the product, 1 / sqrt(2 / 0.5 - 1)."""
    end = Sampler(50, solver=RK4, guidance=HALF)(Flow(gaussian(0.0, 0.5)), X)
    assert (end - 0.5 * X).abs().max() < 1e-5


def test_langevin_steps_sample_the_product_of_gaussians():
    x0 = Rng(3).normal(torch.empty(40_000, 1))
    solver = Langevin(White(Rng(4)), EULER, repeats=4, size=0.1)
    end = Sampler(150, solver=solver, guidance=HALF)(Flow(gaussian(0.0, 0.5)), x0)
    assert float(end.std()) == pytest.approx(1 / math.sqrt(3), rel=0.02) and abs(float(end.mean())) < 0.01


MEANS, STDS, SHARES = [[-2.0, 0.5], [1.5, 1.0]], [0.5, 0.3], (0.3, 0.7)
PARTS = [bl.distributions.GaussianMixture([m], [s]).field() for m, s in zip(MEANS, STDS, strict=True)]


@pytest.mark.parametrize("solver, steps, error", [(EULER, 400, 2e-2), (HEUN, 100, 1e-2), (HEUN, 300, 1.2e-3)])
def test_the_flow_of_a_disjunction_is_that_of_the_mixture(solver, steps, error):
    """From the same noise; the shares of the components follow from the densities tracked along the run."""
    x0 = Rng(1).normal(torch.empty(200, 2, dtype=torch.float64))
    exact = bl.distributions.GaussianMixture(MEANS, STDS, SHARES).field()
    made = Sampler(steps, solver=solver, guidance=Disjunction((Weak(PARTS[1]),), SHARES))(Flow(PARTS[0]), x0)
    end = Sampler(steps, solver=solver)(Flow(exact), x0)
    assert float((made - end).square().mean().sqrt()) < error


def test_a_disjunction_of_one_is_itself_and_images_work():
    x = Rng(2).normal(torch.empty(5, 1, 2, 2, dtype=torch.float64))
    a = Sampler(5, guidance=Disjunction((), (1.0,)))(Flow(gaussian(1.0, 0.3)), x)
    assert torch.allclose(a, Sampler(5)(Flow(gaussian(1.0, 0.3)), x), atol=1e-12)
    b = Sampler(5, guidance=Disjunction((Weak(gaussian(1.0, 0.3)),), (1.0, 5.0)))(Flow(gaussian(1.0, 0.3)), x)
    assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Without(()), "no names"),
        (lambda: Without(("txt",))("field", conditions()), "'txt', which is no condition"),
        (lambda: Without(("text",))("field", None), "no condition"),
        (lambda: OtherCondition({"text": 1})("field", None), "cond=None"),
        (lambda: Nested(LEVELS, (1.0,)), "2 references"),
        (lambda: Nested(LEVELS, (1.0, math.nan)), "finite"),
        (lambda: Nested(LEVELS, (1.0, 2.0), windows=((0.0, 1.0), (0.5, 0.2))), "no interval"),
        (lambda: Conjunction((), (1.0, 2.0)), "for 0 references"),
        (lambda: Conjunction((LEVELS[0],), (1.0, 2.0)), "no base"),
        (lambda: Disjunction((), (-1.0,)), "positive weight"),
        (
            lambda: Sampler(4, solver=Picard(4, 1e-6), guidance=Disjunction((), (1.0,)))(Flow(gaussian(0.0, 1.0)), X),
            "parallel in time|start at t = 0",
        ),
        (
            lambda: Sampler(2, guidance=Disjunction((), (1.0,)))(Flow(gaussian(0.0, 1.0)), X, start=0.5),
            "does not start at t = 0",
        ),
        (lambda: Sampler(2, guidance=Disjunction((), (1.0,)))(Flow(PARTS[0], Cosine()), X), "a flow on Cosine"),
        (lambda: Sampler(2, guidance=Disjunction((), (1.0,)))(Flow(PARTS[0], independent=False), X), "independent"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BeelineError, match=message):
        make()
