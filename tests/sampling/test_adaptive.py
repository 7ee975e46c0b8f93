"""Guidance that ends per sample, and guidance corrected from the middle of a step."""

from __future__ import annotations

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow
from beeline.sampling.guidance.adaptive import AdaptiveWeak
from beeline.sampling.guidance.composition.fusion import SaliencyFusion
from beeline.sampling.guidance.composition.mixture import Disjunction
from beeline.sampling.guidance.composition.spatial import GivenRegions, Regional
from beeline.sampling.guidance.guide import CFG, Extrapolate, Guide, Plain, Unconditional, Weak
from beeline.sampling.guidance.references.conditions import Without
from beeline.sampling.guidance.references.history import History
from beeline.sampling.guidance.references.perturbed_time import PerturbedTime
from beeline.sampling.guidance.references.substituted import Substituted
from beeline.sampling.guidance.rules.projections import Projected
from beeline.sampling.guidance.rules.steps import CFGPlusPlus
from beeline.sampling.guidance.stepwise.corrected import RectifiedCFGPlusPlus
from beeline.sampling.sampler import Sampler
from beeline.solvers.parallel_in_time import Picard
from beeline.solvers.runge_kutta import EULER, HEUN

X0 = Rng(0).normal(torch.empty(32, 8, dtype=torch.float64))
COND = torch.ones(32, dtype=torch.float64)
AT = torch.full((32,), 0.3, dtype=torch.float64)


class Gaussians:
    """Exact velocities of N(0, 2^2) for the condition 0 and of N(1.5, 1/2) for 1; counts its evaluations."""

    def __init__(self):
        self.rows = []

    def __call__(self, x, t, cond):
        self.rows.append(len(x))
        strong, t = cond[:, None] == 1, t[:, None]
        mean, variance = torch.where(strong, 1.5, 0.0), torch.where(strong, 0.5, 4.0)
        return mean + (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2) * (x - t * mean)


def sampled(guidance, solver=EULER, field=None, steps=12, x=X0):
    return Sampler(steps, solver=solver, guidance=guidance)(Flow(field or Gaussians()), x, COND[: len(x)])


@pytest.mark.parametrize("solver", [EULER, HEUN])
@pytest.mark.parametrize("together", [True, False])
def test_a_threshold_above_one_is_full_guidance(solver, together):
    guide = Guide(Unconditional(0), Extrapolate(2.0), together=together)
    field = Gaussians()
    made = sampled(AdaptiveWeak(guide, 1.1), solver, field)
    assert (made - sampled(guide, solver)).abs().max() < 1e-12
    sampler = Sampler(12, solver=solver, guidance=AdaptiveWeak(guide, 1.1))
    assert sum(field.rows) == 32 * sampler.evaluations


def test_a_threshold_of_minus_one_is_guidance_in_the_first_evaluation():
    field = Gaussians()
    made = sampled(AdaptiveWeak(CFG(2.0, 0), -1.0), field=field)
    first = sampled(CFG(2.0, 0, window=(0.0, 0.01)))
    assert (made - first).abs().max() < 1e-12 and sum(field.rows) == 32 * 13


def test_each_sample_ends_by_itself_and_saves_its_evaluations():
    """The same as a run of each sample alone, and as many weak evaluations as the cosines of these runs say."""
    field, guidance = Gaussians(), AdaptiveWeak(CFG(2.0, 0), 0.93)
    made = sampled(guidance, field=field)
    weak = 0
    for i in range(32):
        alone = Gaussians()
        assert (sampled(guidance, field=alone, x=X0[i : i + 1]) - made[i]).abs().max() < 1e-12
        weak += sum(alone.rows) - 12
    assert sum(field.rows) == 32 * 12 + weak
    assert 0.2 * 32 * 12 < weak < 0.8 * 32 * 12, "the samples differ"
    assert Sampler(12, solver=EULER, guidance=guidance).evaluations == 24, "an upper bound"


def test_windows_and_rules_with_memory_and_of_steps():
    late = Guide(Unconditional(0), Extrapolate(2.0), window=(0.3, 1.0))
    assert (sampled(AdaptiveWeak(late, 1.1)) - sampled(late)).abs().max() < 1e-12
    for rule in (Projected(2.0, momentum=-0.5), CFGPlusPlus()):
        guide = Guide(Unconditional(0), rule)
        assert (sampled(AdaptiveWeak(guide, 1.1)) - sampled(guide)).abs().max() < 1e-12
        assert sampled(AdaptiveWeak(guide, 0.93)).isfinite().all()


@pytest.mark.parametrize(
    "guide",
    [
        Guide(Unconditional(0), Projected(2.0, momentum=-0.5)),
        Guide(PerturbedTime(0.5), Extrapolate(2.0), window=(0.2, 1.0)),
    ],
    ids=["memory", "time"],
)
def test_samples_that_end_do_not_change_the_others(guide):
    """Rules keep the earlier differences of the others, and references their conditions."""
    guidance, field = AdaptiveWeak(guide, 0.93 if guide.window[0] == 0 else 0.999), Gaussians()
    made = sampled(guidance, field=field)
    assert len(set(field.rows)) > 2, "samples end at different times"
    for i in range(32):
        assert (sampled(guidance, x=X0[i : i + 1]) - made[i]).abs().max() < 1e-12


@pytest.mark.parametrize("together", [True, False])
def test_rectified_cfg_plus_plus_in_closed_form(together):
    guidance = RectifiedCFGPlusPlus(1.5, 2.0, Unconditional(0), window=(0.0, 0.6), together=together)
    field, counted = Gaussians(), Gaussians()
    x, h = X0, 0.25
    for t in (0.0, 0.25, 0.5, 0.75):
        strong = field(x, AT * 0 + t, COND)
        y, mid = x + h / 2 * strong, AT * 0 + t + h / 2
        change = 1.5 * (1 - t) ** 2 * (field(y, mid, COND) - field(y, mid, 0 * COND)) if t <= 0.6 else 0
        x = x + h * (strong + change)
    assert (sampled(guidance, field=counted, steps=4) - x).abs().max() < 1e-12
    assert sum(counted.rows) == 32 * 10 == 32 * Sampler(4, solver=EULER, guidance=guidance).evaluations


def test_rectified_cfg_plus_plus_without_a_scale_and_with_many_steps():
    none = RectifiedCFGPlusPlus(0.0, reference=Unconditional(0))
    assert torch.equal(sampled(none), sampled(Plain()))
    error = []
    for steps in (200, 400):
        many = sampled(RectifiedCFGPlusPlus(1.0, reference=Unconditional(0)), steps=steps)
        error.append(float((many - sampled(CFG(2.0, 0), steps=steps)).abs().max()))
    assert error[0] < 0.05 and error[1] == pytest.approx(error[0] / 2, rel=0.1), "the difference is of first order"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AdaptiveWeak(Plain()), "got Plain"),
        (lambda: sampled(AdaptiveWeak(CFG(2.0, 0)), Picard(8, 1e-6)), "states for a run"),
        (lambda: AdaptiveWeak(CFG(2.0, 0))(Gaussians(), COND)(X0, torch.zeros(32, 8)), "one for every frame"),
        (lambda: RectifiedCFGPlusPlus(1.0)(Gaussians(), COND), "without the times"),
        (lambda: RectifiedCFGPlusPlus(1.0, window=(0.5, 0.1)), "no interval"),
        (lambda: RectifiedCFGPlusPlus(-1.0), "scale=-1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_weak_fields_can_be_the_reference():
    weaker = RectifiedCFGPlusPlus(1.0, reference=Weak(lambda x, t, cond: 0 * x))
    assert sampled(weaker).isfinite().all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptiveWeak(Guide(History(), Extrapolate(2.0))),
        lambda: RectifiedCFGPlusPlus(1.0, reference=History()),
        lambda: Regional(2.0, GivenRegions(), History()),
        lambda: Disjunction((History(),), (1.0, 1.0)),
        lambda: SaliencyFusion(CFG(2.0), History()),
        lambda: Substituted(History()),
        lambda: Without(("text",), History()),
    ],
)
def test_references_that_recall_predictions_are_refused(make):
    with pytest.raises(BeelineError, match="recalls earlier predictions"):
        make()
