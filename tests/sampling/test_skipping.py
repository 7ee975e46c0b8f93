"""Guidance with estimated weak predictions: full guidance where nothing is skipped, exact on Gaussians, counted."""

from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.distillation.fit_skipping import fit_skipping
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.guidance.skipping import SkippedWeak
from beeline.solvers.parallel_in_time import Picard
from beeline.solvers.runge_kutta import EULER, HEUN

X0 = bl.Rng(0).normal(torch.empty(64, 1, dtype=torch.float64))
LABEL = torch.ones(64, dtype=torch.float64)


class Gaussians:
    """Exact velocities of N(0, 2^2) for the label 0 and of N(1.5, 1) for the label 1; counts its evaluations."""

    def __init__(self):
        self.rows = 0

    def __call__(self, x, t, cond):
        self.rows += len(x)
        strong, t = cond[:, None] == 1, t[:, None]
        mean, variance = torch.where(strong, 1.5, 0.0), torch.where(strong, 1.0, 4.0)
        slope = (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2)
        return mean + slope * (x - t * mean)


def sampled(guidance, solver=EULER, field=None, steps=8):
    return bl.Sampler(steps, solver=solver, guidance=guidance)(bl.Flow(field or Gaussians()), X0, LABEL)


@pytest.mark.parametrize("solver", [EULER, HEUN])
def test_nothing_skipped_is_full_guidance(solver):
    assert torch.equal(sampled(SkippedWeak(bl.CFG(2.0, 0)), solver), sampled(bl.CFG(2.0, 0), solver))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("solver", [EULER, HEUN])
def test_evaluations_are_counted(solver, together):
    for window in ((0.0, 1.0), (0.2, 0.6)):
        guide = replace(bl.CFG(2.0, 0, window), together=together)
        field, guidance = Gaussians(), SkippedWeak(guide, times=(0.5, 0.75))
        sampled(guidance, solver, field)
        assert field.rows == len(X0) * bl.Sampler(8, solver=solver, guidance=guidance).evaluations
        assert field.rows < len(X0) * bl.Sampler(8, solver=solver, guidance=guide).evaluations


def test_the_linear_form_is_exact_on_gaussians():
    """All predictions are affine in the last state in which both were computed, so that three weights suffice."""
    flow, full = bl.Flow(Gaussians()), bl.Sampler(8, solver=EULER, guidance=bl.CFG(2.0, 0))
    for every, evaluations in ((2, 12), (4, 10)):
        found = fit_skipping(flow, full, X0[:16], LABEL[:16], aligned=2.0, every=every)
        assert found.evaluations == evaluations
        assert (found(flow, X0, LABEL) - full(flow, X0, LABEL)).abs().max() < 1e-5
        held = replace(full, guidance=replace(found.guidance, weights=((1.0, -1.0, 1.0),)))
        assert (held(flow, X0, LABEL) - full(flow, X0, LABEL)).abs().max() > 1e-2


def test_held_and_omitted_predictions_in_closed_form():
    """Two steps of 0.5: at t = 0 both velocities are mean - x, at t = 0.5 the strong one is 1.5."""
    v_strong, v_weak = 1.5 - X0, -X0
    half = X0 + 0.5 * (v_weak + 2 * (v_strong - v_weak))
    strong = torch.full_like(X0, 1.5)  # of N(1.5, 1) at t = 0.5, where the slope is 0
    for weights, weak in (((0.0, 0.0, 1.0), v_weak), ((1.0, -1.0, 1.0), strong - 1.5), ((1.0, 0.0, 0.0), strong)):
        found = sampled(SkippedWeak(bl.CFG(2.0, 0), (0.5,), (weights,)), steps=2)
        assert (found - half - 0.5 * (weak + 2 * (strong - weak))).abs().max() < 1e-12


def test_a_fit_omits_guidance_once_predictions_agree():
    """In 16 dimensions the velocities of both agree in direction late; -1 leaves the first evaluation."""
    x0 = bl.Rng(1).normal(torch.empty(64, 16, dtype=torch.float64))
    flow, full = bl.Flow(Gaussians()), bl.Sampler(20, solver=EULER, guidance=bl.CFG(2.0, 0))
    found = fit_skipping(flow, full, x0, LABEL, aligned=0.9, every=1)
    assert found.evaluations < full.evaluations and set(found.guidance.weights) == {(1.0, 0.0, 0.0)}
    first = min(found.guidance.times)
    assert found.guidance.times == tuple(t for t in full.times()[:-1].tolist() if t >= first - 1e-9)
    assert fit_skipping(flow, full, x0, LABEL, aligned=-1.0).evaluations == 21
    assert fit_skipping(flow, full, x0, LABEL, aligned=2.0, every=1).evaluations == full.evaluations


def test_skipping_is_stored_with_a_sampler():
    from beeline.config.build import build, describe

    sampler = bl.Sampler(8, guidance=SkippedWeak(bl.CFG(2.0, 0), (0.5,), ((0.3, 0.2, 0.1),)))
    assert build(describe(sampler)) == sampler


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SkippedWeak(Plain()), "got Plain"),
        (lambda: SkippedWeak(bl.CFG(2.0, 0), (0.0,)), "times above 0"),
        (lambda: SkippedWeak(bl.CFG(2.0, 0), (0.5,), ((1.0, 0.0, 0.0),) * 2), "2 weights for 1 times"),
        (lambda: fit_skipping(bl.Flow(Gaussians()), bl.Sampler(4), X0, LABEL), "the guidance Plain"),
        (lambda: sampled(SkippedWeak(bl.CFG(2.0, 0), (0.5,)), Picard(8, 1e-6)), "samples at times from"),
        (
            lambda: bl.Sampler(2, guidance=SkippedWeak(bl.CFG(2.0, 0), (0.5,)))(
                bl.Flow(Gaussians()), X0, LABEL, start=0.5
            ),
            "the first time with guidance",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_a_fit_evaluates_networks_without_dropout_and_leaves_their_mode():
    with bl.Rng(0).ambient():
        net = bl.networks.Network(bl.networks.MLP(1, width=16, conditions={"label": {"classes": 1}}, dropout=0.5))
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
    flow, full = bl.Flow(net.train()), bl.Sampler(8, solver=EULER, guidance=bl.CFG(2.0, 1))
    cond = {"label": torch.zeros(16, dtype=torch.int64)}
    a, b = (fit_skipping(flow, full, X0[:16].float(), cond, aligned=2.0) for _ in range(2))
    assert a == b and net.training
