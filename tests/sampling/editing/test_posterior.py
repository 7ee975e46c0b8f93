"""Edits held by a measurement or an energy, against closed forms."""

import pytest
import torch

import beeline as bl
from beeline.core.declared import as_map
from beeline.core.errors import BeelineError
from beeline.sampling.anchored import Anchored
from beeline.sampling.editing.dynamics import noise
from beeline.sampling.editing.flow_edit import FlowEdit
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.editing.outcome import edited
from beeline.sampling.editing.posterior import Personalised, PostEdit, product
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.editing.resampled import InvertAndSample
from beeline.sampling.steering.energies.squared import Near
from beeline.solvers.runge_kutta import EULER, RK4
from benchmarks.editing_parts.exact import Exact

EXACT = Exact()


def given(n=64, seed=0):
    batch = EXACT.data(n, bl.Rng(seed))
    old = batch.cond["label"]
    return batch.x1, old, (old + 1) % EXACT.labels


def test_the_product_is_where_langevin_steps_lead():
    n, r, m = 4000, 0.8, 0.4
    data, x = torch.tensor([1.0, -2.0]).expand(n, 2), torch.tensor([0.0, 1.0]).expand(n, 2)
    measured = torch.tensor([1.0, 0.0])
    mean, deviation = product(data, x, measured, torch.tensor(r), m)
    d, h = data.clone(), 0.02 * m**2
    for i in range(1000):
        slope = (d - data) / r**2 + measured * (d - x) / m**2
        d = d - h * slope + (2 * h) ** 0.5 * bl.Rng(0).fork(i).normal(d)
    assert (d.mean(0) - mean[0]).abs().max() < 0.05 and (d.std(0) / deviation - 1).abs().max() < 0.05
    wanted = (data / r**2 + measured * x / m**2) / (1 / r**2 + measured / m**2)
    assert torch.allclose(mean, wanted, atol=1e-6)


@pytest.mark.parametrize("random", [False, True])
def test_the_ends_of_the_measurement(random):
    x, old, new = given()
    run = (EXACT.flow, x, old, new, bl.Sampler(5), bl.Rng(0))
    assert (PostEdit(keep=1.0, noise=1e-6, random=random)(*run) - x).abs().max() < 1e-4
    if not random:
        free = PostEdit(noise=float("inf"))(*run)
        assert torch.equal(free, PostEdit(keep=0.0)(*run))
        assert float(EXACT.likelihood(free, new).mean()) > 0.95
        again = PostEdit()(EXACT.flow, x[:3], old[:3], new[:3], bl.Sampler(5), bl.Rng(0))
        assert (again - PostEdit()(*run)[:3]).abs().max() < 1e-5  # rows do not depend on each other


def test_it_jumps_with_flow_maps_and_keeps_regions():
    x, old, new = given()
    v = EXACT.flow.field
    jumps = bl.Flow(as_map(lambda x, t, cond=None, s=None: v(x, t, cond)))
    made = PostEdit()(jumps, x, old, new, bl.Sampler(5), bl.Rng(0))
    assert (made - PostEdit()(EXACT.flow, x, old, new, bl.Sampler(5), bl.Rng(0))).abs().max() < 1e-4
    region = GivenRegion((0.0, 1.0))
    outcome = edited(PostEdit(keep=0.0), EXACT.flow, x, old, new, bl.Sampler(8), bl.Rng(0), region=region)
    assert torch.equal(outcome.x[:, 0], x[:, 0]) and float(outcome.change.mean()) > 0.3
    with pytest.raises(BeelineError, match="flow map"):
        FlowEdit()(jumps, x, old, new, bl.Sampler(4), bl.Rng(0))
    with pytest.raises(BeelineError, match="flow map"):
        InvertAndSample()(jumps, x, old, new, bl.Sampler(4), bl.Rng(0))


def straight():
    """A flow of straight trajectories: every datum is its noise moved by the condition."""
    return bl.Flow(lambda x, t, cond: cond[:, None] + 0 * x)


def test_personalised_data_are_those_of_the_anchored_sampler_and_of_the_fixed_point():
    x, cond = bl.Rng(0).normal(torch.empty(16, 2)), torch.ones(16)
    run = (straight(), x, 0 * cond, cond, bl.Sampler(2, solver=EULER), bl.Rng(1))
    edit = Personalised(weight=2.0, strength=0.5, rate=0.2, iterations=200)
    made, reference = edit(*run), noise(bl.Rng(1), x) + 1
    assert (made - (reference + 0.5 * 2 * x) / (1 + 0.5 * 2)).abs().max() < 1e-3  # x1 = reference - strength grad
    direct = Anchored(2, solver=EULER, energy=Near(x, 2.0**-0.5), strength=0.5, rate=0.2, iterations=200)
    assert torch.equal(made, direct(straight(), noise(bl.Rng(1), x), cond))
    kept = edited(edit, *run, region=GivenRegion((1.0, 0.0)))
    assert torch.equal(kept.x[:, 1], x[:, 1]) and float(kept.change.min()) > 0
    mine = Personalised(inversion=Backwards(), iterations=1, rate=1e-6)
    assert (mine(*run) - (x + 1)).abs().max() < 1e-4


def test_features_say_what_stays():
    x, cond = bl.Rng(0).normal(torch.empty(16, 2)), torch.ones(16)

    class First:
        """A feature: the sign of the first number alone."""

        def pooled(self, x):
            return torch.stack([torch.tanh(x[:, 0]), 0.1 + 0 * x[:, 0]], 1)

    run = (straight(), x, 0 * cond, cond, bl.Sampler(2, solver=EULER), bl.Rng(1))
    made, plain = Personalised(First(), weight=5.0, iterations=60)(*run), noise(bl.Rng(1), x) + 1
    assert (made[:, 1] - plain[:, 1]).abs().max() < 1e-5
    agree = lambda y: float((y[:, 0].sign() == x[:, 0].sign()).float().mean())  # noqa: E731
    assert agree(made) > agree(plain) + 0.2


def test_post_edit_of_gaussians_is_nearer_than_a_new_sample():
    """Gaussian data: fewer measured numbers leave more freedom."""
    x, old, new = given(256)
    distances = []
    for keep in (0.0, 0.5, 1.0):
        made = PostEdit(keep=keep)(EXACT.flow, x, old, new, bl.Sampler(8, solver=RK4), bl.Rng(0))
        distances.append(float((made - x).norm(dim=1).mean()))
    assert distances == sorted(distances, reverse=True)
