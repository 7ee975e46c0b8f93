"""The held-out loss and its baselines, against closed forms."""

import math

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.basic import Paired
from beeline.evaluation.heldout import EvenTimes, ExactPosterior, HeldOut, MeanField
from beeline.objectives.alignment import Dispersed, SmoothSteps
from beeline.objectives.guided import Contrastive, ModelGuidance
from beeline.objectives.matching import Drop, FlowMatching
from beeline.paths.affine import Linear
from beeline.times.samplers import LogitNormal


def data(n, seed=0):
    return 2.0 + 0.5 * Rng(seed).normal(torch.empty(n, 1, dtype=torch.float64))


def test_the_posterior_of_one_datum_and_of_two():
    x, t = Rng(0).normal(torch.empty(5, 1, dtype=torch.float64)), torch.full((5,), 0.4, dtype=torch.float64)
    one = ExactPosterior(Batch(torch.tensor([[3.0]], dtype=torch.float64)))
    assert torch.allclose(one(x, t), (3.0 - x) / 0.6, atol=1e-12)
    two = ExactPosterior(Batch(torch.tensor([[-1.0], [1.0]], dtype=torch.float64)))
    expected = torch.tanh(0.4 * x / 0.36)  # the posterior mean of a fair coin
    assert torch.allclose(two(x, t), (expected - x) / 0.6, atol=1e-12)


def test_conditions_select_the_data_they_are_equal_to():
    known = Batch(torch.tensor([[-1.0], [1.0]]), cond={"label": torch.tensor([0, 1])})
    x, t = torch.zeros(2, 1), torch.full((2,), 0.5)
    v = ExactPosterior(known)(x, t, {"label": torch.tensor([0, 1])})
    assert torch.allclose(v, torch.tensor([[-2.0], [2.0]]))


def test_the_posterior_is_the_least_possible_loss_on_its_own_data():
    x = data(40)
    batch = Batch(x)
    look = HeldOut(FlowMatching(), batch, train=batch, repeats=20, bins=5)
    least = look(ExactPosterior(batch))
    assert least.by_bin == least.posterior
    for other in (MeanField(x.mean(0)), lambda x, t, cond=None: ExactPosterior(batch)(x, t) + 0.5):
        assert all(a < b for a, b in zip(least.by_bin, look(other).by_bin, strict=True))


def test_the_mean_baseline_is_the_total_variance():
    x = data(1500)
    look = HeldOut(FlowMatching(), Batch(x), train=Batch(x), bins=2, batch_size=1500)
    found = look(MeanField(x.mean(0)))
    assert found.by_bin == found.mean
    assert all(math.isclose(v, 1.25, rel_tol=0.15) for v in found.by_bin)  # Var(x1 - x0) = 0.25 + 1
    assert found.posterior is not None and found.error < 0.1


def test_the_same_noise_and_times_at_every_call_and_for_every_recipe():
    batch = Batch(data(64), cond={"label": torch.arange(64)})
    field = lambda x, t, cond=None: -x  # noqa: E731
    a = HeldOut(FlowMatching(), batch)(field)
    assert a == HeldOut(FlowMatching(drop=Drop(1.0, 0), weight=lambda t: 5 * t), batch)(field)
    assert a != HeldOut(FlowMatching(), batch, rng=Rng(1))(field)
    assert a.mean is None and a.posterior is None
    assert HeldOut(FlowMatching(coupling=Paired()), Batch(data(8), x0=data(8, 1)), train=batch)(field).posterior is None


def test_a_network_is_measured_in_evaluation_mode_and_left_as_it_was():
    class Net(torch.nn.Module):
        def forward(self, x, t, cond=None):
            return -x if not self.training else x * math.nan

    net = Net().train()
    assert math.isfinite(HeldOut(FlowMatching(), Batch(data(8)))(net).value) and net.training


def test_even_times_fill_every_bin():
    t = EvenTimes()(50, torch.empty(0, dtype=torch.float64), Rng(0))
    assert torch.allclose(t.sort().values, (torch.arange(50) + 0.5).double() / 50)
    assert Linear().coefficients(t)[0].isfinite().all()


def test_an_empty_set_is_refused():
    with pytest.raises(BeelineError, match="held-out set is empty"):
        HeldOut(FlowMatching(), Batch(torch.ones(0, 2)))
    with pytest.raises(BeelineError, match="heldout.bins"):
        HeldOut(FlowMatching(), Batch(torch.ones(2, 2)), bins=0)


class Labelled(nn.Module):
    def forward(self, x, t, cond=None):
        return (1 - t[:, None]) * x + 0.1 * cond["label"][:, None]


WRAPS = [
    lambda inner: inner,
    lambda inner: Dispersed(inner, strength=3.0),
    lambda inner: SmoothSteps(inner),
    lambda inner: ModelGuidance(inner, null=3),
    lambda inner: Contrastive(inner, reference=Labelled()),
]


def test_wrapped_objectives_are_measured_by_the_same_definition():
    """Times, weight and drop of an objective inside another one do not change its held-out loss, nor do terms."""
    data = Batch(Rng(1).normal(torch.empty(64, 2)), cond={"label": torch.arange(64) % 3})
    net = Labelled()
    plain = FlowMatching(drop=Drop(0.0, 3))
    odd = FlowMatching(times=LogitNormal(-1.0, 0.3), weight=lambda t: 1 + 9 * t, drop=Drop(0.9, 3))
    for i, wrap in enumerate(WRAPS):
        a, b = (HeldOut(wrap(inner), data, rng=Rng(5), bins=4)(net) for inner in (plain, odd))
        assert a.by_bin == b.by_bin and a.value == b.value, i
        if i in (1, 2):
            assert a.value == HeldOut(plain, data, rng=Rng(5), bins=4)(net).value
