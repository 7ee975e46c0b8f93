"""Guidance that depends on the steps of a run: CFG++, and scales with a mean over the steps."""

from __future__ import annotations

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow
from beeline.paths.affine import Cosine
from beeline.sampling.guidance.block_skips import SkippedBlocks
from beeline.sampling.guidance.dependence import RunSteps
from beeline.sampling.guidance.guide import CFG, Extrapolate, Guide, Guides, Unconditional, guidance_for_flow
from beeline.sampling.guidance.rules.projections import Rescaled
from beeline.sampling.guidance.rules.scales import OverTime, PowerCosine, RaisedCosine, Rising
from beeline.sampling.guidance.rules.steps import CFGPlusPlus
from beeline.sampling.guidance.skipping import SkippedWeak
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.times.schedules import Shifted

X0 = Rng(0).normal(torch.empty(64, 2, dtype=torch.float64))
COND = torch.ones(64, dtype=torch.float64)


def field(x, t, cond):
    """The exact velocities of N(0, 2^2) for the condition 0 and of N(1.5, 1/2) for 1."""
    strong, t = cond[:, None] == 1, t[:, None]
    mean, variance = torch.where(strong, 1.5, 0.0), torch.where(strong, 0.5, 4.0)
    return mean + (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2) * (x - t * mean)


def guide(scale=0.6):
    return Guide(Unconditional(0), CFGPlusPlus(scale))


@pytest.mark.parametrize("start, end", [(0.0, 1.0), (0.2, 0.9), (1.0, 0.0), (0.8, 0.1)])
def test_cfg_plus_plus_mixes_guided_data_and_unguided_noise(start, end):
    """x_b = b D_l + (1 - b) E_u on a shifted schedule, and backwards x_a = a D_u + (1 - a) E_l."""
    sampler = Sampler(7, Shifted(3.0), EULER, guide())
    x, times = X0, sampler.times(start, end).double()
    for a, b in zip(times[:-1], times[1:], strict=True):
        t = a.expand(len(x))
        weak, strong = field(x, t, 0 * COND), field(x, t, COND)
        mixed = weak + 0.6 * (strong - weak)
        data, noise = (mixed, weak) if end > start else (weak, mixed)
        x = b * (x + (1 - a) * data) + (1 - b) * (x - a * noise)
    assert (sampler(Flow(field), X0, COND, start=start, end=end) - x).abs().max() < 1e-6


def test_the_scale_that_keeps_the_weight_is_plain_guidance():
    """One step: w = scale (1 - a) b / (b - a) with a = 0 and b = 1 is the scale itself."""
    one = Sampler(1, solver=EULER, guidance=guide(0.7))(Flow(field), X0, COND)
    assert (one - Sampler(1, solver=EULER, guidance=CFG(0.7, 0))(Flow(field), X0, COND)).abs().max() < 1e-12


def test_samples_collapse_with_many_steps():
    deviations = [
        float(Sampler(n, solver=EULER, guidance=guide())(Flow(field), X0, COND).std()) for n in (5, 20, 80, 320)
    ]
    assert deviations == sorted(deviations, reverse=True) and deviations[-1] < 1e-3 * deviations[0]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda g: Guides((g,)),
        lambda g: SkippedBlocks((), g),
        lambda g: SkippedWeak(g, ()),
        lambda g: SkippedBlocks((), SkippedWeak(g, ())),
    ],
)
def test_guidance_around_other_guidance_passes_the_times_on(wrap):
    a, b = (Sampler(6, solver=EULER, guidance=g)(Flow(field), X0, COND) for g in (guide(), wrap(guide())))
    assert torch.equal(a, b)


def test_rules_around_other_rules_pass_the_times_on():
    made = Guide(Unconditional(0), Rescaled(CFGPlusPlus(), share=0.0))
    a, b = (Sampler(6, solver=EULER, guidance=g)(Flow(field), X0, COND) for g in (guide(), made))
    assert (a - b).abs().max() < 1e-12


def test_other_solvers_use_the_weight_of_the_step_around():
    assert Sampler(6, solver=HEUN, guidance=guide())(Flow(field), X0, COND).isfinite().all()
    steps = RunSteps(torch.tensor([1.0, 0.6, 0.0]), "a test")
    start, end = steps.around(torch.tensor([1.0, 0.8, 0.6, 0.3, 0.0], dtype=torch.float32))
    assert torch.allclose(start, torch.tensor([1.0, 1.0, 0.6, 0.6, 0.6]))
    assert torch.allclose(end, torch.tensor([0.6, 0.6, 0.0, 0.0, 0.0]))


@pytest.mark.parametrize("shape", [Rising(), RaisedCosine(), PowerCosine(2.0)], ids=str)
def test_a_scale_over_steps_has_its_mean_over_the_steps(shape):
    times = Shifted(4.0)(9)
    rule = OverTime(3.0, shape, over_steps=True).for_times(times).for_run()
    one = torch.ones(9, 1, dtype=torch.float64)
    assert float(rule(one, 0 * one, one, times[:-1].double()).mean()) == pytest.approx(3.0, abs=1e-9)
    plain = OverTime(3.0, shape).for_times(times).for_run()
    assert abs(float(plain(one, 0 * one, one, times[:-1].double()).mean()) - 3) > 0.2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CFGPlusPlus(1.5), "scale=1.5"),
        (lambda: guide()(field, COND), "without the times of a run"),
        (lambda: Guide(Unconditional(0), OverTime(2.0, Rising(), over_steps=True))(field, COND), "without the times"),
        (lambda: OverTime(2.0, Rising(), over_steps=True).for_times(torch.tensor([0.0, 1.0])), "0 at all times"),
        (lambda: Sampler(2, guidance=guide())(Flow(field, Cosine()), X0, COND), "a flow on Cosine"),
        (lambda: guidance_for_flow(guide(), Flow(field), torch.rand(3, 4)), r"times of shape \(3, 4\)"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_guidance_without_steps_is_not_changed_by_times():
    made = Guide(Unconditional(0), Extrapolate(2.0))
    assert guidance_for_flow(made, Flow(field, null=0), torch.tensor([0.0, 1.0])).rule is made.rule
