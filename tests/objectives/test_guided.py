"""Guidance in the target: each minimum is exactly the field of guidance."""

import pytest
import torch
from torch.nn import functional as F

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.objectives.guided import Anticipating, Contrastive, GuidanceFree, ModelGuidance
from beeline.objectives.matching import Drop, FlowMatching
from beeline.sampling.guidance.guide import CFG
from beeline.times.samplers import LogitNormal
from tests.objectives.exact import MIXTURE, Nudged, assert_minimum, labelled

NULL = 2  # the null label
BASE = FlowMatching(times=LogitNormal(0.0, 0.8), drop=Drop(0.2, NULL))
EXACT = MIXTURE.field()


def only(cond):
    return {"label": cond["label"]}


def parts(x, t, cond):
    void = {"label": torch.full_like(cond["label"], NULL)}
    return EXACT(x, t, cond), EXACT(x, t, void)


def test_guidance_free_is_guidance_of_one_over_beta():
    def guided(x, t, cond):
        strong, weak = parts(x, t, only(cond))
        return weak + (strong - weak) / cond["beta"].clamp(min=1e-3)

    assert_minimum(GuidanceFree(BASE), guided, labelled)
    # which equals sampling with guidance
    x, t = Rng(0).normal(torch.empty(6, 2, dtype=torch.float64)), torch.full((6,), 0.5, dtype=torch.float64)
    label = torch.tensor([0, 1, 0, 1, 0, 1])
    known = CFG(2.5, null={"label": NULL * torch.ones(6, dtype=torch.long)})(EXACT, {"label": label})(x, t)
    made = guided(x, t, {"label": label, "beta": torch.full((6, 1), 0.4, dtype=torch.float64)})
    assert torch.allclose(made, known, atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 1.5, 3.0])
def test_model_guidance_is_guidance_of_its_scale(scale):
    def guided(x, t, cond):
        strong, weak = parts(x, t, cond)
        return weak + scale * (strong - weak)

    assert_minimum(ModelGuidance(BASE, scale=scale), guided, labelled)


def test_model_guidance_at_scale_one_is_the_objective():
    batch = labelled(50, Rng(0))
    assert torch.equal(ModelGuidance(BASE, scale=1.0)(EXACT, batch, Rng(1)).value, BASE(EXACT, batch, Rng(1)).value)
    plain = BASE(EXACT, batch, Rng(1)).per_sample
    assert torch.allclose(Anticipating(BASE, share=0.0)(EXACT, batch, Rng(1)).per_sample, plain, atol=1e-12)


def test_the_guided_field_of_anticipating_is_exact():
    scale = 2.0

    def before(x, t, cond):
        strong, weak = parts(x, t, cond)
        return weak + (strong - weak) / scale

    assert_minimum(Anticipating(BASE, scale=scale), before, labelled)
    x, t = Rng(0).normal(torch.empty(6, 2, dtype=torch.float64)), torch.full((6,), 0.5, dtype=torch.float64)
    cond = {"label": torch.tensor([0, 1, 0, 1, 0, 1])}
    guided = CFG(scale, null={"label": torch.full((6,), NULL)})(before, cond)(x, t)
    assert torch.allclose(guided, EXACT(x, t, cond), atol=1e-10)


def test_contrastive_gradient_at_the_reference_is_the_known_one():
    # at the reference every ratio is zero, so the gradient is s/2 of the right error minus push s/2 of the wrong one
    objective = FlowMatching(times=LogitNormal(0.0, 0.8))
    contrast = Contrastive(objective, EXACT, strength=0.7, push=0.4)
    field, batch, rng = Nudged(EXACT), labelled(4000, Rng(0)), Rng(1)
    loss = contrast(field, batch, rng)
    assert abs(float(loss.terms["attract"]) - 0.6931471805599453) < 1e-9
    (got,) = torch.autograd.grad(loss.value, field.by)
    example = objective.examples(batch, rng)
    n = len(batch.x1)
    order = (torch.arange(n) + 1 + rng.fork("wrong").integers(n - 1, 1)) % n
    right, wrong = batch.cond["label"], batch.cond["label"][order]
    mine = F.mse_loss(field(example.x, example.t, {"label": right}), example.v, reduction="none").mean(1)
    other = F.mse_loss(field(example.x, example.t, {"label": wrong}), example.v, reduction="none").mean(1)
    known = 0.35 * mine.mean() - 0.4 * 0.35 * ((right != wrong) * other).mean()
    assert torch.allclose(got, torch.autograd.grad(known, field.by)[0], atol=1e-10)


def test_contrastive_moves_towards_the_guided_field():
    def towards(x, t, cond):
        strong, weak = parts(x, t, cond)
        return strong + by * (strong - weak)

    by = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = Contrastive(FlowMatching(times=LogitNormal()), EXACT, push=0.5)(towards, labelled(8000, Rng(0)), Rng(1))
    (slope,) = torch.autograd.grad(loss.value, by)
    assert float(slope) < -1e-3


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ModelGuidance(BASE, scale=0.5), "below 1"),
        (lambda: Anticipating(BASE, scale=0.0), "a scale is positive"),
        (lambda: GuidanceFree(BASE)(EXACT, Batch(torch.zeros(2, 2), cond=torch.ones(2)), Rng(0)), "without a name"),
        (lambda: GuidanceFree(BASE)(EXACT, Batch(torch.zeros(2, 2)), Rng(0)), "has none"),
        (lambda: ModelGuidance(FlowMatching())(EXACT, labelled(2, Rng(0)), Rng(0)), "no condition dropout"),
        (lambda: Contrastive(FlowMatching(), EXACT)(EXACT, Batch(torch.zeros(2, 2)), Rng(0)), "without conditions"),
        (lambda: Contrastive()(EXACT, labelled(2, Rng(0)), Rng(0)), "no reference"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(BeelineError, match=words):
        call()
