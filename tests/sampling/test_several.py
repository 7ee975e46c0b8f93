"""Several kinds of guidance at once."""

from __future__ import annotations

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow
from beeline.sampling.guidance.guide import CFG, Extrapolate, Guide, Guides, Weak
from beeline.sampling.guidance.references.perturbed_time import PerturbedTime
from beeline.sampling.guidance.rules.projections import Projected
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER


class Labelled(torch.nn.Module):
    """A field of labels that counts the rows of its evaluations."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x, t, cond=None):
        self.rows.append(len(x))
        label = cond["label"].to(x)[:, None]
        return torch.sin(x * (1 + label)) + t[:, None] * label


def weaker(x, t, cond=None):
    return 0.3 * x + cond["label"].to(x)[:, None]


GUIDES = (
    CFG(3.0, null=0),
    Guide(Weak(weaker), Projected(2.0), window=(0.5, 1.0)),
    Guide(PerturbedTime(0.3), Extrapolate(1.5), window=(0.0, 0.6)),
)
COND = {"label": torch.tensor([1, 2, 3])}


def velocity(guidance, t, field=None):
    x = Rng(0).normal(torch.empty(3, 4, dtype=torch.float64))
    return guidance(field or Labelled(), COND)(x, torch.full((3,), t, dtype=torch.float64))


@pytest.mark.parametrize("t", [0.0, 0.3, 0.55, 1.0])
def test_guides_add_the_changes_of_their_members(t):
    strong = velocity(CFG(1.0, null=0), t)
    alone = sum(velocity(guide, t) - strong for guide in GUIDES)
    assert torch.allclose(velocity(Guides(GUIDES), t), strong + alone, atol=1e-12)


def test_one_guide_is_itself_and_separate_calls_give_the_same():
    for t in (0.2, 0.7):
        assert torch.equal(velocity(Guides(GUIDES[:1]), t), velocity(GUIDES[0], t))
        assert torch.allclose(velocity(Guides(GUIDES, together=False), t), velocity(Guides(GUIDES), t), atol=1e-12)


def test_predictions_of_one_field_are_one_batch_and_counts_are_true():
    field = Labelled()
    guidance = Guides((CFG(3.0, null=0), CFG(2.0, null=4, window=(0.5, 1.0))))
    sampler = Sampler(4, solver=EULER, guidance=guidance)
    sampler(Flow(field), torch.zeros(3, 4), COND)
    assert field.rows == [6, 6, 9, 9]
    assert sampler.evaluations == sum(field.rows) // 3 == 10


def test_guides_of_no_members_are_refused():
    with pytest.raises(BeelineError, match="at least one Guide"):
        Guides(())
