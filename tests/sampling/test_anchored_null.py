"""Guidance with a tuned null condition, in closed form."""

from __future__ import annotations

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow
from beeline.sampling.guidance.guide import CFG, Plain, Unconditional
from beeline.sampling.guidance.references.history import History
from beeline.sampling.guidance.stepwise.anchored import AnchoredNull
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER, HEUN

X0 = Rng(0).normal(torch.empty(6, 3, dtype=torch.float64))
COND = {"text": Rng(1).normal(torch.empty(6, 3, dtype=torch.float64))}
NULL = Unconditional({"text": [0.0, 0.0, 0.0]})


class Towards:
    """v = c - x, and the number of evaluated samples."""

    def __init__(self):
        self.rows = 0

    def __call__(self, x, t, cond):
        self.rows += len(x)
        return cond["text"] - x


def sampled(guidance, steps=4, solver=EULER, field=None):
    return Sampler(steps, solver=solver, guidance=guidance)(Flow(field or Towards()), X0, COND)


def test_without_rounds_it_is_plain_guidance():
    plain = sampled(CFG(3.0, {"text": [0.0, 0.0, 0.0]}))
    assert torch.allclose(sampled(AnchoredNull(3.0, 0, reference=NULL)), plain, atol=1e-12)


def test_one_step_in_closed_form():
    """The difference c - n shrinks by 1 - 2 rate (scale - 1)^2 / D in every round."""
    for rounds in (1, 5):
        n = COND["text"] * (1 - (1 - 2 * 0.05 * 4 / 3) ** rounds)
        expected = COND["text"] + 2 * (COND["text"] - n)
        found = sampled(AnchoredNull(3.0, rounds, 0.05, reference=NULL), steps=1)
        assert torch.allclose(found, expected, atol=1e-12)


def test_ends_come_nearer_to_those_without_guidance_with_the_rounds():
    plain = sampled(Plain(), 8)
    far = [
        float((sampled(AnchoredNull(3.0, rounds, 0.05, reference=NULL), 8) - plain).norm())
        for rounds in (0, 1, 3, 10, 100)
    ]
    assert far == sorted(far, reverse=True) and far[3] > 1e-4 and far[4] < 1e-9


def test_a_sample_with_a_small_error_keeps_its_null_and_samples_do_not_depend_on_their_batch():
    made = AnchoredNull(3.0, 4, 0.05, enough=1e9, reference=NULL)
    assert torch.allclose(sampled(made), sampled(CFG(3.0, {"text": [0.0, 0.0, 0.0]})), atol=1e-12)
    guidance = AnchoredNull(3.0, 4, 0.05, enough=0.5, reference=NULL)
    alone = [
        Sampler(4, solver=EULER, guidance=guidance)(Flow(Towards()), X0[i : i + 1], {"text": COND["text"][i : i + 1]})
        for i in range(6)
    ]
    assert torch.allclose(sampled(guidance), torch.cat(alone), atol=1e-12)


def test_evaluations_are_counted_and_networks_get_no_gradients():
    field = Towards()
    guidance = AnchoredNull(3.0, 5, reference=NULL)
    sampled(guidance, field=field)
    assert field.rows == 6 * Sampler(4, solver=EULER, guidance=guidance).evaluations == 6 * 4 * 8
    layer = torch.nn.Linear(3, 3).double()
    made = sampled(guidance, field=lambda x, t, cond: layer(cond["text"]) - x)
    assert layer.weight.grad is None and not made.requires_grad


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: sampled(AnchoredNull(3.0, reference=NULL), solver=HEUN), "use the solver EULER"),
        (lambda: AnchoredNull(3.0, reference=NULL)(Towards(), COND), "without the times"),
        (lambda: AnchoredNull(3.0, reference=History()), "recalls"),
        (lambda: AnchoredNull(0.5), "scale=0.5"),
        (
            lambda: Sampler(2, solver=EULER, guidance=AnchoredNull(2.0, reference=Unconditional(9)))(
                Flow(Towards()), X0, {"text": torch.zeros(6, dtype=torch.int64)}
            ),
            "whole numbers",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BeelineError, match=message):
        make()
