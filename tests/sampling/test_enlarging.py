"""Sampling at a small size first: exact statistics on Gaussians, energy, and networks of any size."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.couplings.sources import Uniform
from beeline.sampling.enlarging import Bicubic, Enlarging, energy_rectified
from beeline.sampling.guidance.references.noised_frames import NoisedFrames
from beeline.sampling.steering.descending import EnergyGuidance
from beeline.sampling.steering.energies.pictures import MeanColour
from beeline.sampling.steering.gradients.estimates import SeveralSteps
from beeline.solvers.diffusions import White

STD = 0.7
MANY = Enlarging(40, sizes=(1.0,), solver=bl.solvers.HEUN)


def gaussian(x, t, cond=None):
    """The exact velocity for data N(0, STD^2) of every pixel."""
    t = t[:, None, None, None]
    return x * (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2)


def constant(x, t, cond=None):
    """The exact velocity for data of value 2."""
    return (2.0 - x) / (1 - t[:, None, None, None]).clamp(min=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fresh_noise_on_a_gaussian_loses_the_variance_of_data_around_their_estimate(seed):
    x0 = bl.Rng(seed).fork("x0").normal(torch.empty(4000, 1, 2, 2))
    sampler = replace(MANY, noise=White(bl.Rng(seed)))
    seen = []
    x1 = sampler(bl.Flow(gaussian), x0, watch=lambda x, t: seen.append((float(t.flatten()[0]), x)))
    at = 0.6
    marginal = at**2 * STD**2 + (1 - at) ** 2
    left = STD**2 * (1 - at) ** 2 / marginal  # Var[x1 | x_t]
    before, after = (x for t, x in seen if abs(t - at) < 1e-5)
    for x, variance in (
        (before, marginal),
        (after, marginal - at**2 * left),
        (x1, STD**2 * (1 - at**2 * left / marginal)),
    ):
        assert abs(float(x.mean())) < 4 * math.sqrt(variance / x.numel())
        assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt(2 / x.numel()) + 0.01  # 0.01: of the solver
    # the mean of the refreshed state is t D, and the rest is noise that does not depend on the state
    t = torch.full((len(x0),), at)
    rest = after - at * (before + (1 - at) * gaussian(before, t))
    assert abs(float(rest.std()) / (1 - at) - 1) < 0.03
    assert abs(float((rest * before).mean())) < 4 * (1 - at) * math.sqrt(marginal / x0.numel())


def test_where_data_have_no_variance_the_marginal_distribution_is_kept():
    x0 = bl.Rng(3).normal(torch.empty(2000, 1, 4, 4))
    seen = []
    sampler = replace(MANY, sizes=(0.5,), solver=bl.solvers.EULER)
    x1 = sampler(bl.Flow(constant), x0, watch=lambda x, t: seen.append((float(t.flatten()[0]), x)))
    assert (x1 - 2).abs().max() < 1e-4
    sizes = [x.shape[-1] for _, x in seen]
    assert sizes == sorted(sizes) and set(sizes) == {2, 4}
    for t, x in seen[:-1]:
        assert abs(float(x.mean()) - 2 * t) < 0.02 and abs(float(x.std()) - (1 - t)) < 0.02


def test_without_noise_of_its_own_the_refresh_is_the_identity():
    class Known:
        """The noise that the state holds already."""

        def __call__(self, t, s, like, name="step"):
            return X0

        def with_seeds(self, seeds, *names):
            return self

        def for_rows(self, start, end):
            return self

    def straight(x, t, cond=None):
        return 1.0 - X0 + 0 * x  # every path leads to 1

    X0 = torch.randn(3, 1, 4, 4)
    flow = bl.Flow(straight)
    assert torch.allclose(replace(MANY, steps=5, noise=Known())(flow, X0), bl.Sampler(5)(flow, X0), atol=1e-5)


def test_energy_is_rectified_by_the_scale_of_guidance():
    def decaying(x, t, cond=None):
        """Leads to y, and to 0.6 y at the large size."""
        end = (1.0 if x.shape[-1] <= 4 else 0.6) * cond["y"][:, None, None, None]
        return (end - x) / (1 - t[:, None, None, None]).clamp(min=1e-6)

    flow, x0 = bl.Flow(decaying, null={"y": 0.0}), torch.randn(2, 1, 8, 8)
    cond = {"y": torch.tensor([1.0, 2.0])}
    sampler = Enlarging(10, solver=bl.solvers.EULER, guidance=bl.CFG(2.0), resize=Bicubic())
    small = bl.Sampler(10, solver=bl.solvers.EULER, guidance=bl.CFG(2.0))(flow, x0[..., :4, :4], cond)
    wanted = float(small.square().mean())
    assert math.isclose(float(sampler(flow, x0, cond).square().mean()) / wanted, 0.36, rel_tol=1e-3)
    found = energy_rectified(sampler, flow, x0, cond)
    assert abs(float(found(flow, x0, cond).square().mean()) / wanted - 1) < 0.05
    assert math.isclose(found.guidances[0].rule.scale, 2 / 0.6, rel_tol=0.03)
    same = energy_rectified(replace(sampler, sizes=(1.0,)), flow, x0, cond)
    assert same.guidances[0].rule.scale == 2.0, "energy that is there already is left alone"
    with pytest.raises(BeelineError, match="times the energy of the first size at the scale 2.1"):
        energy_rectified(sampler, flow, x0, cond, most=2.1)
    with pytest.raises(BeelineError, match="Plain, which has no scale"):
        energy_rectified(replace(sampler, guidance=bl.Sampler().guidance), flow, x0, cond)


def test_a_network_of_any_size_and_a_bundle(tmp_path):
    with bl.Rng(0).ambient():
        net = bl.networks.DiT((1, 4, 4), width=16, depth=1, heads=2, any_size=True)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.2)
    bundle = bl.Bundle(bl.Flow(bl.Network(net)), lineage={"shape": [1, 8, 8]})
    sampler = Enlarging(6, sizes=(0.5, 0.75), at=(0.4, 0.7))
    whole = bundle.sample(5, sampler=sampler)
    assert whole.shape == (5, 1, 8, 8)
    assert torch.allclose(bundle.sample(5, sampler=sampler, batch_size=2), whole, atol=1e-5)
    assert not torch.allclose(bundle.sample(5, sampler=sampler, seed=1), whole, atol=1e-2)
    replace(bundle, sampler=sampler).save(tmp_path / "net")
    assert torch.allclose(bl.load(tmp_path / "net").sample(5), whole, atol=1e-5)


def test_evaluations_are_counted():
    calls = []
    sampler = Enlarging(
        6, sizes=(0.5, 0.5), at=(0.4, 0.7), guidance=bl.CFG(2.0), guidances=(bl.Sampler().guidance,) * 2
    )
    flow = bl.Flow(lambda x, t, cond=None: calls.append(len(x)) or 0 * x, null={"y": 0.0})
    sampler(flow, torch.zeros(1, 1, 4, 4), {"y": torch.zeros(1)})
    assert sum(calls) == sampler.evaluations == 3 * 2 * 2 + 2 + 2 * 2 + 1 + 2
    calls.clear()
    steered = Enlarging(
        4, solver=bl.solvers.EULER, controllers=(EnergyGuidance(MeanColour((1.0,)), 0.1, SeveralSteps(3)),)
    )
    steered(flow, torch.zeros(1, 1, 4, 4), {"y": torch.zeros(1)})
    assert sum(calls) == steered.evaluations == 4 * 5 + 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Enlarging(sizes=(0.5, 0.25), at=(0.4, 0.6)), "never fall"),
        (lambda: Enlarging(at=(1.0,)), "no rising times"),
        (lambda: Enlarging(at=(0.3, 0.6)), "1 sizes, 2 times"),
        (lambda: Enlarging(2, at=(0.9,)).evaluations, "more steps, or other times"),
        (lambda: Enlarging(4)(bl.Flow(gaussian), torch.zeros(1, 4)), "it enlarges images"),
        (lambda: Enlarging(4).invert(bl.Flow(gaussian), torch.zeros(1, 1, 4, 4)), "use a Sampler for a part of a run"),
        (lambda: Enlarging(4)(bl.Flow(gaussian, source=Uniform()), torch.zeros(1, 1, 4, 4)), "Uniform"),
    ],
)
def test_what_cannot_be_enlarged_is_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_seeds_reach_the_guidance_of_all_stages():
    guide = bl.Guide(NoisedFrames((0,)), bl.guidance.Extrapolate(2.0))
    keyed = Enlarging(5, guidance=guide, guidances=(guide,)).seeded([4, 5, 6], "run")
    assert [g.reference.noise.seeds for g in (keyed.guidance, *keyed.guidances)] == [(4, 5, 6)] * 2
    part = keyed.for_rows(1, 3)
    assert [g.reference.noise.seeds for g in (part.guidance, *part.guidances)] == [(5, 6)] * 2
