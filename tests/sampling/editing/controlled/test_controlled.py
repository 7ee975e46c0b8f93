"""Controlled inversions and edits against identities of the controls, and against an exact distribution."""

import pytest
import torch

import beeline as bl
from beeline.core.declared import as_map
from beeline.core.errors import BeelineError
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.sampling.editing.controlled.edits import Controlled, RFInversion, TransportGuided
from beeline.sampling.editing.controlled.towards import Towards, Transported
from beeline.sampling.editing.dynamics import noise
from beeline.sampling.editing.inversions import Backwards, Noised, NoisedThenBackwards
from beeline.sampling.editing.outcome import edited
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.editing.resampled import InvertAndSample, SDEdit
from beeline.sampling.editing.round_trip import round_trip
from beeline.solvers.diffusions import Rectified, White
from beeline.solvers.reversible import FixedPoint, Reversible, Symmetric
from beeline.solvers.runge_kutta import EULER, HEUN, RK4, Taylor
from benchmarks.claims.ring import FLOW
from benchmarks.editing_parts.exact import Exact, distance

LABELS = Exact()
RING = GaussianMixture.ring()


def ring(n=64, seed=0):
    return RING.sample(n, bl.Rng(seed)).double()


def labelled(n=64, seed=0):
    batch = LABELS.data(n, bl.Rng(seed))
    old = batch.cond["label"]
    return batch.x1, old, (old + 1) % LABELS.labels


@pytest.mark.parametrize("solver", [EULER, HEUN, RK4], ids=lambda s: str(s.order))
def test_full_control_returns_the_data_exactly(solver):
    x = ring()
    made = RFInversion(strength=1.0, window=(0.0, 1.0))(FLOW, x, None, None, bl.Sampler(28, solver=solver), bl.Rng(0))
    assert (made - x).abs().max() < 1e-6


@pytest.mark.parametrize("seed", [0, 1])
def test_more_control_comes_nearer_to_the_data(seed):
    x, errors = ring(seed=seed), []
    for strength in (0.0, 0.5, 0.9, 1.0):
        edit = RFInversion(Controlled(0.0), strength, window=(0.0, 1.0))
        made = edit(FLOW, x, None, None, bl.Sampler(28, solver=EULER), bl.Rng(seed))
        errors.append(float((made - x).square().sum(1).mean().sqrt()))
    assert errors == sorted(errors, reverse=True) and 0.02 < errors[0] < 0.3  # the card: .109, .034, .005, 0


def test_full_control_of_an_inversion_gives_the_noise_and_none_is_the_solver_bit_for_bit():
    x, sampler = ring(512), bl.Sampler(28, solver=EULER)
    found = {g: Controlled(g)(FLOW, x, None, sampler, bl.Rng(0), 0.0).x for g in (0.0, 0.5, 1.0)}
    assert (found[1.0] - noise(bl.Rng(0), x, "target")).abs().max() < 1e-6
    assert torch.equal(found[0.0], sampler.invert(FLOW, x))
    again = Controlled(0.5)(FLOW, x[:3], None, sampler, bl.Rng(0), 0.0).x
    assert (again - found[0.5][:3]).abs().max() < 1e-12  # rows do not depend on each other


def test_without_control_it_is_invert_and_sample_bit_for_bit():
    x, old, new = labelled()
    run = (LABELS.flow, x, old, new, bl.Sampler(8), bl.Rng(0))
    assert torch.equal(RFInversion(Controlled(0.0), strength=0.0)(*run), InvertAndSample()(*run))
    flow, sampler = LABELS.flow, bl.Sampler(8)
    steered = bl.Sampler(8, controllers=(Towards(x, 0.0), Transported(x, 0.0)))
    assert torch.equal(steered(flow, x, new), sampler(flow, x, new))


def test_the_stochastic_inversion_has_the_distribution_of_its_sde():
    x, t, gamma, n = torch.full((4000, 1), 3.0), 0.2, 0.5, 200
    found = Controlled(gamma, stochastic=True)(FLOW, x, None, bl.Sampler(1), bl.Rng(0), t).x
    y, z, h = noise(bl.Rng(0), x, "target"), x.clone(), (1 - t) / n
    for i in range(n):  # the SDE step by step
        s = i * h
        z = z + h * (gamma * y - z) / (1 - s) + (2 * s / (1 - s) * h) ** 0.5 * bl.Rng(1).fork(i).normal(x)
    assert abs(float(found.mean() - z.mean())) < 0.06 and abs(float(found.std() / z.std() - 1)) < 0.06
    assert abs(float(found.var()) - (1 - t) ** 2 * (1 + gamma**2)) < 0.06
    plain = Controlled(0.0, stochastic=True)(FLOW, x, None, bl.Sampler(1), bl.Rng(0), t).x
    assert torch.equal(plain, Noised()(FLOW, x, None, bl.Sampler(1), bl.Rng(0), t).x)


def test_the_sde_edits_as_well():
    x, old, new = labelled(200)
    solver = bl.solvers.EulerMaruyama(White(bl.Rng(1)), Rectified())
    edit = RFInversion(Controlled(stochastic=True), strength=0.5)
    made = edit(LABELS.flow, x, old, new, bl.Sampler(50, solver=solver), bl.Rng(0))
    assert float(LABELS.likelihood(made, new).mean()) > 0.95
    with pytest.raises(BeelineError, match="Controlled"):
        RFInversion()(LABELS.flow, x, old, new, bl.Sampler(5, solver=solver), bl.Rng(0))


def test_transport_of_strength_0_is_rf_inversion_and_otherwise_another_schedule():
    x, old, new = labelled()
    run = (LABELS.flow, x, old, new, bl.Sampler(28, solver=EULER), bl.Rng(0))
    assert torch.equal(TransportGuided(transport=0.0, strength=0.5)(*run), RFInversion(strength=0.5)(*run))
    full = TransportGuided(strength=1.0, window=(0.0, 0.3))
    assert (full(*run) - RFInversion(strength=1.0, window=(0.0, 0.3))(*run)).abs().max() < 1e-5  # no effect at all
    v, t = bl.Rng(3).normal(x), torch.full((len(x),), 0.2)
    moved = Transported(x, 0.3, longest=1e6)
    f = Towards(x, 0.5).steer(moved.steer(lambda x, t: v, LABELS.flow), LABELS.flow)
    eta = 1 - (1 - 0.5) * (1 - float(moved.weight(t)[0]))
    once = Towards(x, eta).steer(lambda x, t: v, LABELS.flow)
    assert torch.allclose(f(0 * x, t), once(0 * x, t), atol=1e-5)


def test_transport_is_shortened_and_balanced():
    t, zero = torch.full((1,), 0.1), torch.zeros(1, 2)
    v = torch.tensor([[0.0, 2.0]])
    one = Transported(torch.tensor([[90.0, 0.0]]), 1.0, until=0.5).steer(lambda x, t: v, FLOW)(zero, t) - v
    lam = float(Transported(zero, 1.0, until=0.5).weight(t)[0])
    assert torch.allclose(one, lam * (torch.tensor([[10.0, 0.0]]) - v), atol=1e-5)
    two = Transported(torch.tensor([[90.0, 0.0]]), 1.0, until=0.5, balanced=True).steer(lambda x, t: v, FLOW)(zero, t)
    assert torch.allclose(two - v, one * 2 / 10, atol=1e-5)


@pytest.mark.parametrize(
    "solver, most",
    [(EULER, 2.0), (HEUN, 0.1), (Taylor(), 0.1), (bl.solvers.MidpointReuse(), 0.1), (FixedPoint(), 1e-3),
     (Symmetric(), 1e-3), (Reversible(), 1e-4)],
    ids=lambda s: type(s).__name__,
)  # fmt: skip
def test_round_trips(solver, most):
    x, old, _ = labelled()
    found = round_trip(Backwards(), LABELS.flow, x, old, bl.Sampler(28, solver=solver), bl.Rng(0))
    assert float(found.error.max()) < most and found.error.shape == (len(x),)
    made = InvertAndSample()(LABELS.flow, x, old, old, bl.Sampler(28, solver=solver), bl.Rng(0))
    assert torch.equal(made, found.x)


def test_a_guided_inversion_comes_back_with_its_guidance():
    x, old, _ = labelled()
    guided = Backwards(bl.CFG(1.5, null=LABELS.labels))
    found = round_trip(guided, LABELS.flow, x, old, bl.Sampler(64, solver=RK4), bl.Rng(0))
    assert float(found.error.mean()) < 0.01


def test_noise_near_the_data_and_backwards_from_there():
    x, old, new = labelled(150)
    run = (LABELS.flow, x, old, bl.Sampler(16), bl.Rng(0))
    assert torch.equal(NoisedThenBackwards(1.0)(*run, 0.0).x, Backwards()(*run, 0.0).x)
    assert torch.equal(NoisedThenBackwards(0.5)(*run, 0.5).x, Noised()(*run, 0.5).x)
    found = (
        round_trip(NoisedThenBackwards(0.95), *run).error.mean(),
        round_trip(NoisedThenBackwards(0.7), *run).error.mean(),
    )
    assert 0.005 < float(found[0]) < 0.1 < float(found[1]) < 0.5
    made = InvertAndSample(NoisedThenBackwards())(*run[:3], new, *run[3:])
    exact = LABELS.counterfactual(x, old, new, 100)
    assert float(distance(made, exact).mean()) < 0.5 * float(distance(SDEdit()(*run[:3], new, *run[3:]), exact).mean())


def test_the_counterfactual_of_the_distribution():
    x, old, new = labelled(40)
    exact = LABELS.counterfactual(x, old, new)
    assert (LABELS.counterfactual(exact, new, old) - x).abs().max() < 1e-4  # there and back
    assert float(LABELS.likelihood(exact, new).mean()) > 0.99
    assert (LABELS.counterfactual(x, old, old) - x).abs().max() < 1e-4
    errors = [
        distance(InvertAndSample()(LABELS.flow, x, old, new, bl.Sampler(n), bl.Rng(0)), exact).mean() for n in (16, 64)
    ]
    assert errors[1] < 0.25 * errors[0]


def test_controls_inside_a_region():
    x, old, new = labelled()
    for edit in (RFInversion(), TransportGuided(strength=0.5), InvertAndSample(NoisedThenBackwards())):
        outcome = edited(edit, LABELS.flow, x, old, new, bl.Sampler(8), bl.Rng(0), region=GivenRegion((1.0, 0.0)))
        assert torch.equal(outcome.x[:, 1], x[:, 1]) and float(outcome.change.mean()) > 0.3


def test_refusals():
    x, old, new = labelled(4)
    with pytest.raises(BeelineError, match="one target for every sample"):
        bl.Sampler(2, controllers=(Towards(x[:3]),))(LABELS.flow, x, old)
    with pytest.raises(BeelineError, match="interval of times"):
        RFInversion(window=(0.5, 0.2))
    with pytest.raises(BeelineError, match="flow map"):
        jumps = bl.Flow(as_map(lambda x, t, cond=None, s=None: x))
        InvertAndSample()(jumps, x, old, new, bl.Sampler(2), bl.Rng(0))
