"""Guidance: scale one is plain, together is apart, the window, nulls, and exact tilting of Gaussians."""

import pytest
import torch

from beeline.core.declared import as_map
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.flow import Flow, bind
from beeline.sampling.guidance.guide import CFG, Extrapolate, Guide, Plain, Unconditional, Weak, null_like
from beeline.sampling.sampler import Sampler
from beeline.solvers.parallel_in_time import GaussSeidelJacobi, Picard
from beeline.solvers.runge_kutta import EULER, HEUN

X, COND = Rng(0).normal(torch.empty(6, 2)), torch.arange(6) % 3


def field(x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
    shift = 0 if cond is None else cond.to(x.dtype)[:, None]
    return torch.tanh(x) * (1 + t[:, None]) + shift


def test_scale_one_is_plain_and_zero_the_null() -> None:
    for t in (0.0, 0.4, 1.0):
        time = torch.full((6,), t)
        assert torch.allclose(CFG(1.0, 3)(field, COND)(X, time), Plain()(field, COND)(X, time))
        assert torch.allclose(CFG(0.0, 3)(field, COND)(X, time), field(X, time, torch.full((6,), 3)), atol=1e-6)


def test_joint_and_separate_evaluation_agree() -> None:
    together = Guide(Unconditional(3), Extrapolate(2.5))
    apart = Guide(Unconditional(3), Extrapolate(2.5), together=False)
    sample = lambda g, s: Sampler(8, solver=s, guidance=g)(Flow(field), X, COND)  # noqa: E731
    assert torch.allclose(sample(together, HEUN), sample(apart, HEUN), atol=1e-6)
    # a solver that asks for many times at once repeats the conditions
    for solver in (Picard(8, 1e-6), GaussSeidelJacobi(8, 1e-6)):
        assert torch.allclose(sample(together, solver), sample(apart, EULER), atol=1e-4)


def test_the_window_acts_inside_only_per_sample() -> None:
    guided, plain = CFG(3.0, 3, window=(0.3, 0.6))(field, COND), bind(field, COND)
    t = torch.tensor([0.0, 0.29, 0.3, 0.6, 0.61, 1.0])
    same = (guided(X, t) == plain(X, t)).all(1)
    assert same.tolist() == [True, True, False, False, True, True]
    calls = [CFG(3.0, 3, window=(0.3, 0.6)).calls(v) for v in (0.0, 0.29, 0.3, 0.6, 0.61, 1.0)]
    assert calls == [1, 1, 2, 2, 1, 1]


def test_weak_reference() -> None:
    weak = lambda x, t, cond=None: 0 * x  # noqa: E731
    t = torch.full((6,), 0.5)
    assert torch.allclose(Guide(Weak(weak), Extrapolate(2.0))(field, COND)(X, t), 2 * field(X, t, COND))


@pytest.mark.parametrize(
    ("scale", "mean", "std"),
    [(0.0, 0.0, 1.118), (1.0, 1.0, 0.5), (1.5, 1.19, 0.40), (2.5, 1.43, 0.33), (4.0, 1.68, 0.29)],
)
def test_guidance_of_exact_velocities_overshoots_the_tilted_density(scale: float, mean: float, std: float) -> None:
    """Modes at 1 and -1 of width 0.5, the condition being the first: only scales 0 and 1 are exact."""
    null, strong = GaussianMixture([[1.0], [-1.0]], 0.5), GaussianMixture([[1.0]], 0.5)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    x0 = torch.special.ndtri(u)[:, None]  # quantiles, so that nothing is left to chance
    strong_field = strong.field()
    guided = Guide(Weak(null.field()), Extrapolate(scale))
    x = Sampler(100, guidance=guided)(Flow(lambda x, t, cond=None: strong_field(x, t)), x0)
    assert float(x.mean()) == pytest.approx(mean, abs=0.01) and float(x.std()) == pytest.approx(std, abs=0.01)
    grid = torch.linspace(-6, 6, 24001, dtype=torch.float64)[:, None]
    tilted = (scale * strong.log_prob(grid) + (1 - scale) * null.log_prob(grid)).exp()
    exact = float((tilted * grid[:, 0]).sum() / tilted.sum())
    assert float(x.mean()) == pytest.approx(exact, abs=2e-3) if scale in (0.0, 1.0) else float(x.mean()) > exact + 0.1


def test_nulls() -> None:
    assert null_like(9, {"a": COND})["a"].tolist() == [9] * 6
    assert torch.equal(null_like(torch.tensor([1.0, 2.0]), torch.zeros(6, 2)), torch.tensor([[1.0, 2.0]] * 6))
    assert torch.equal(null_like(torch.ones(6, 2), torch.zeros(6, 2)), torch.ones(6, 2))
    with pytest.raises(ValueError, match="the null condition has shape"):
        null_like(torch.ones(5), torch.zeros(6, 2))


def test_a_guided_flow_map() -> None:
    jump = as_map(lambda x, t, cond, s: (s - t)[:, None] * x + cond[:, None])
    f = CFG(1.0, 3)(jump, COND)
    t, s = torch.zeros(6), torch.ones(6)
    assert torch.allclose(f(X, t, s), X + COND[:, None]) and torch.allclose(f(X, t), COND[:, None] + 0 * X)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="guidance got cond=None"):
        CFG(2.0, 0)(field, None)
    with pytest.raises(ValueError, match="Guide got window"):
        CFG(2.0, 0, window=(0.7, 0.3))
