"""Cascades: an autoregressive flow of a Gaussian is its Cholesky factor, and stages are given earlier samples."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow
from beeline.sampling.cascade import Autoregressive, Cascade, Stage
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER
from beeline.times.composed import Continued

MEAN = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
SIGMA = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, -0.1], [0.2, -0.1, 0.5]], dtype=torch.float64)


def exact(x, t, cond=None):
    """E[x1 - x0 | x_t] of a Gaussian triple with a time for every part; x [B,3,1]."""
    t = t[:, None].expand(-1, 3) if t.ndim == 1 else t
    a, b = torch.diag_embed(t), torch.diag_embed(1 - t)
    away = x - (t * MEAN)[:, :, None]
    return MEAN[:, None] + (SIGMA @ a - b) @ torch.linalg.solve(a @ SIGMA @ a + b @ b, away)


def test_frames_one_after_another_are_the_cholesky_factor() -> None:
    x0 = Rng(0).normal(torch.empty(40, 3, 1, dtype=torch.float64))
    made = Autoregressive(Sampler(100))(Flow(exact), x0)
    wanted = MEAN + x0[:, :, 0] @ torch.linalg.cholesky(SIGMA).T
    assert torch.allclose(made[:, :, 0], wanted, atol=1e-3)
    assert not torch.allclose(Sampler(100)(Flow(exact), x0)[:, :, 0], wanted, atol=0.1)  # all at once: another map
    with pytest.raises(BeelineError, match="second dimension"):
        Autoregressive(Sampler(1))(Flow(exact), torch.zeros(3))


def test_stages_are_given_the_samples_of_earlier_ones() -> None:
    def energy(x, t, cond):
        assert set(cond) == {"e"}
        return cond["e"][:, :, None].to(x.dtype).expand_as(x)

    def grid(x, t, cond):
        assert set(cond) == {"e", "u"} and cond["u"].shape == (5, 3)
        return (10 * cond["u"] + cond["e"])[:, :, None, None].expand_as(x)

    one = Sampler(1, solver=EULER)
    first = Stage("u", Flow(energy), Autoregressive(one), (3, 1), ("e",))
    second = Stage("v", Flow(grid), one, (3, 2, 2), ("e", "u"))
    cond = {"e": torch.arange(5.0)[:, None]}
    made = Cascade((first, second)).sample(cond, Rng(0))
    noise = Rng(0).fork("u").normal(torch.empty(5, 3, 1))
    assert torch.allclose(made["u"], noise + cond["e"][:, :, None])
    other = Rng(0).fork("v").normal(torch.empty(5, 3, 2, 2))
    assert torch.allclose(made["v"], other + (10 * made["u"][:, :, 0] + cond["e"])[:, :, None, None], atol=1e-5)
    with pytest.raises(BeelineError, match="neither given nor"):
        Cascade((second, first)).sample(cond, Rng(0))
    with pytest.raises(BeelineError, match="different names"):
        Cascade((first, first))


def test_times_of_frames_one_after_another() -> None:
    times = Continued(count=4, given=3, single=True)
    t = times(4000, torch.empty(0), Rng(0))
    known = (t == 1).sum(1)
    assert torch.allclose(known.bincount() / 4000, torch.full((4,), 0.25), atol=0.03)
    assert torch.allclose(times.log_prob(t).exp(), torch.full((4000,), 0.25))
    for k in range(4):
        some = t[known == k]
        assert bool((some[:, :k] == 1).all()) and bool((some[:, k + 1 :] == 0).all()) and some[:, k].std() > 0.25
