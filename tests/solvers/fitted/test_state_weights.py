"""Weights that depend on the state: invariants, the base as a special case, rotations, files and refusals."""

import math

import pytest
import torch

import beeline as bl
from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.sampling.sampler import Sampler
from beeline.solvers.fitted.linear import Fitted
from beeline.solvers.fitted.presets import PRESETS
from beeline.solvers.fitted.state_weights import StateWeights, count_invariants, invariants
from beeline.times.schedules import Explicit

BASE = Fitted(*PRESETS[4])
FIELD = GaussianMixture.ring().field()
FLOW = bl.Flow(FIELD)


def solver(size: float) -> StateWeights:
    """Random networks beside the preset of four evaluations; ``size`` 0 changes nothing."""
    hidden, rng = 3, Rng(0)
    counts = [count_invariants(i + 1) for i in range(4)]
    rows = lambda name, n, m: rng.fork(name, n).normal(torch.empty(n, m)).tolist()  # noqa: E731
    outer = tuple([[size * w for w in row] for row in rows("outer", i + 2, hidden)] for i in range(4))
    return StateWeights(
        BASE,
        tuple((0.1,) * k for k in counts),
        tuple((2.0,) * k for k in counts),
        tuple(rows(f"inner{k}", hidden, k + 1) for k in counts),
        outer,
    )


def ends(of: StateWeights | Fitted, flow: bl.Flow, x0: torch.Tensor) -> torch.Tensor:
    return Sampler(4, Explicit(BASE.times), of)(flow, x0)


def test_invariants_of_known_vectors() -> None:
    x, v0, v1 = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 1.0]])
    found = invariants(x, (v0, v1))[0].tolist()
    half = math.log(2) / 2  # the norms are per coordinate
    assert found == pytest.approx([math.log(2) - half, -half, math.log(3) - half, 0, 1, 0], abs=1e-6)
    assert invariants(x.bfloat16(), (v0.bfloat16(),)).dtype == torch.float32
    assert bool(invariants(0 * x, (0 * v0, 0 * v1)).isfinite().all()), "a field of zeros has finite invariants"


def test_no_change_is_the_base_and_a_change_is_one_of_every_sample_by_itself() -> None:
    x0 = Rng(1).normal(torch.empty(32, 2, dtype=torch.float64))
    assert torch.allclose(ends(solver(0.0), FLOW, x0), ends(BASE, FLOW, x0), atol=1e-12)
    whole = ends(solver(0.3), FLOW, x0)
    assert (whole - ends(BASE, FLOW, x0)).abs().max() > 0.05
    assert torch.allclose(ends(solver(0.3), FLOW, x0[5:9]), whole[5:9], atol=1e-12)


def test_end_points_rotate_with_the_data() -> None:
    turn = torch.linalg.qr(Rng(2).normal(torch.empty(2, 2, dtype=torch.float64)))[0]
    x0 = Rng(1).normal(torch.empty(16, 2, dtype=torch.float64))
    turned = bl.Flow(lambda x, t, cond=None: FIELD(x @ turn, t) @ turn.T)
    assert torch.allclose(ends(solver(0.3), turned, x0 @ turn.T), ends(solver(0.3), FLOW, x0) @ turn.T, atol=1e-10)


def test_the_formula_of_one_step() -> None:
    one = StateWeights(
        Fitted((0, 1), ((1,),), (0.5,)), ((1, 0, 0),), ((2, 1, 1),), (((1, 0, 0, 0.25),),), (((2,), (3,)),)
    )
    x, v = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, -1.0]])
    c = math.tanh((math.log(5 / math.sqrt(2)) - 1) / 2 + 0.25)
    got = one.step(lambda x, t: v, x, torch.zeros(1), torch.ones(1), None)[0]
    assert torch.allclose(got, (0.5 + 2 * c) * x + (1 + 3 * c) * v, atol=1e-6)


def test_a_solver_in_a_file_is_the_same() -> None:
    made = solver(0.3)
    assert config.build(config.describe(made)) == made


def test_refusals() -> None:
    with pytest.raises(BeelineError, match=r"networks of \(invariants, weights\) \[\] for a solver of 1 steps"):
        StateWeights(Fitted((0, 1), ((1,),)), ((0, 0),), ((1, 1, 1),), (((0, 0, 0, 0),),), (((0,), (0,)),))
    with pytest.raises(BeelineError, match="it was fitted for the times"):
        Sampler(4, solver=solver(0.1))(FLOW, torch.zeros(2, 2, dtype=torch.float64))
    with pytest.raises(BeelineError, match="times of its own for the field"):
        StateWeights(Fitted((0, 1), ((1,),), (), (0.5,)), (), (), (), ())
