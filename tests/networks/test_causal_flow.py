"""Causal flows: the density against its Jacobian, exact inversion by every plan, and learning of a known density."""

from __future__ import annotations

import math

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Flow, Network
from beeline.networks.causal_flow import CausalFlow, before
from beeline.networks.dit import DiT
from beeline.networks.patches import to_patches
from beeline.objectives.classify import CausalLikelihood
from beeline.objectives.matching import Drop
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine

LABEL = {"label": {"classes": 3}}


def lively(shape: tuple[int, ...], gain: float = 0.1, **settings: object) -> CausalFlow:
    """A flow with random values in all layers, in float64."""
    with Rng(0).ambient():
        flow = CausalFlow(shape, width=16, depth=1, heads=2, **settings)  # type: ignore[arg-type]
        for p in flow.parameters():
            torch.nn.init.normal_(p, std=gain)
    return flow.double().requires_grad_(False)


def test_the_density_has_the_determinant_of_the_jacobian() -> None:
    flow, x = lively((3,), 0.5, blocks=2, conditions=LABEL), Rng(1).normal(torch.empty(4, 3, dtype=torch.float64))
    cond = {"label": torch.tensor([0, 1, 2, 3])}
    z, total = flow.encode(x, cond)
    one = torch.func.jacfwd(lambda y: flow.encode(y, cond)[0])(x)
    jacobian = torch.stack([one[i, :, i] for i in range(4)])
    assert torch.allclose(torch.linalg.slogdet(jacobian)[1], total, atol=1e-12) and total.abs().min() > 1e-3
    normal = torch.distributions.Normal(0.0, 1.0)
    assert torch.allclose(flow.log_prob(x, cond), normal.log_prob(z).sum(1) + total)
    assert not torch.allclose(flow.log_prob(x, cond)[:1], flow.log_prob(x, {"label": torch.full((4,), 1)})[:1])
    # the first number has the density of a normal distribution at every value of the others
    first = lively((3,), 0.5, blocks=1)
    assert torch.equal(first.encode(x)[0][:, 2], first.encode(x * torch.tensor([1.0, 2.0, 3.0]))[0][:, 2])


@pytest.mark.parametrize("plan", [(16, 1, 0), (1, 0, 0), (1, 0, 1), (4, 0, 0), (3, 0, 1)])
def test_every_plan_inverts_exactly(plan: tuple[int, int, int]) -> None:
    flow = lively((1, 8, 8), 0.2, blocks=3, tolerance=1e-14, plan=[plan])
    z = Rng(2).normal(torch.empty(5, 1, 8, 8, dtype=torch.float64))
    x, rounds = flow.invert(z)
    assert torch.allclose(flow.encode(x)[0], z, atol=1e-10) and (x - z).abs().max() > 0.1
    assert all(n <= 16 for n in rounds) and (plan[0] < 16 or rounds == [16] * 3)
    assert torch.equal(Sampler(1, solver=EULER)(Flow(flow), z), z + (x - z))


def test_a_token_is_exact_after_as_many_rounds_as_its_position() -> None:
    flow = lively((12,), 0.4, blocks=1, tolerance=1e-14, plan=[(12, 1, 0)])
    z = Rng(2).normal(torch.empty(4, 12, dtype=torch.float64))
    exact = flow.invert(z)[0]
    errors = []
    for n in (1, 2, 4, 8, 12):
        flow.plan = flow._plans([(1, n, 0)])
        made = flow.invert(z)[0]
        assert torch.allclose(made[:, :n], exact[:, :n], atol=1e-12)
        errors.append(float((made - exact).norm()))
    assert errors[0] > 1e-3 and errors == sorted(errors, reverse=True) and errors[-1] < 1e-12


def test_an_overflow_in_early_rounds_does_not_reach_the_result() -> None:
    flow = lively((40,), 1.0, blocks=1, tolerance=1e-14).float()
    z = 3 * Rng(5).normal(torch.empty(8, 40))
    one_by_one = lively((40,), 1.0, blocks=1, plan=[(40, 1, 0)]).float()
    assert torch.allclose(flow.invert(z)[0], one_by_one.invert(z)[0], rtol=1e-3, atol=1e-3)


def test_the_plan_has_segments_for_the_blocks_that_converge_slowly() -> None:
    flow = lively((1, 8, 8), 0.1, blocks=3)
    torch.nn.init.normal_(flow.block[2].out.weight, std=2.0)
    x = Rng(1).normal(torch.empty(32, 1, 8, 8, dtype=torch.float64))
    shares = flow.ranking(x)
    assert math.isclose(float(shares.sum()), 1.0) and float(shares[2]) > 0.8
    tokens, by_hand = to_patches(x, 2), []
    for block in flow.block:
        m, a, _ = block(before(tokens), flow.embed(x.new_zeros(32)).double())
        shift, scale = (float(torch.linalg.svdvals(part)[0]) for part in block.out.weight.chunk(2))
        by_hand.append(float((tokens / a.exp()).mean(0).norm()) * scale + shift)
        tokens = ((tokens - m) / a.exp()).flip(1)
    assert torch.allclose(shares, torch.tensor(by_hand).double() / sum(by_hand), rtol=1e-5)
    plan = flow.choose_plan(x, segments=4)
    assert [p.segments for p in plan] == [1, 1, 4] and flow.describe()["plan"] == [list(p) for p in plan]
    with pytest.raises(BeelineError, match="for every block"):
        CausalFlow((4,), width=8, blocks=2, depth=1, heads=1, plan=[(1, 0, 0)] * 3)
    with pytest.raises(BeelineError, match="multiples of the patch"):
        CausalFlow((1, 5, 5))
    with pytest.raises(BeelineError, match="in one step"):
        flow(x, torch.full((32,), 0.5, dtype=torch.float64))


def test_a_causal_flow_learns_a_gaussian_to_its_entropy() -> None:
    matrix = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.5, 0.5]])
    x = Rng(3).normal(torch.empty(2000, 3)) @ matrix.T
    entropy = 0.5 * math.log(2 * math.pi * math.e) + float(torch.linalg.slogdet(matrix)[1]) / 3
    with Rng(0).ambient():
        net = Network(CausalFlow((3,), width=16, blocks=2, depth=1, heads=2, conditions=LABEL))
    objective = CausalLikelihood(noise=0.0, drop=Drop(0.1))
    data = Batch(x, cond={"label": torch.arange(2000) % 3})
    training = Training(steps=150, batch_size=256, lr=WarmupCosine(1e-2, 10), ema=None)
    made = fit(net, objective, data, training, rng=Rng(0), log=lambda entry: None).eval()
    with torch.no_grad():
        loss = float(objective(made, data, Rng(1)).value)
        drawn = Sampler(1, solver=EULER)(
            Flow(made), Rng(9).normal(torch.empty(4000, 3)), {"label": torch.zeros(4000).long()}
        )
    sampling = 3 / math.sqrt(2 * x.numel())  # three standard errors of the entropy of the sample
    assert entropy - sampling < loss < entropy + sampling + 0.03
    assert torch.allclose(torch.cov(drawn.T), matrix @ matrix.T, atol=0.12)
    with pytest.raises(BeelineError, match="no density in one pass"):
        objective(DiT((1, 4, 4), width=8, depth=1, heads=1), data, Rng(0))
