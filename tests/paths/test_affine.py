"""Ends, slopes, the any-two identity, and singular times."""

import math

import pytest
import torch

from beeline.core.rng import Rng
from beeline.paths.affine import Affine, AffinePath, Cosine, Linear, Polynomial, VariancePreserving

PATHS = [Linear(), Cosine(), VariancePreserving(), Polynomial(3.0), Affine(lambda t: t**2, lambda t: 1 - t)]
X0, X1 = (Rng(k).normal(torch.empty(5, 2, 3, dtype=torch.float64)) for k in (0, 1))
T = torch.tensor([0.05, 0.3, 0.5, 0.7, 0.95], dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_ends_and_slopes(path: AffinePath) -> None:
    zero, one = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    loose = 4e-2 if isinstance(path, VariancePreserving) else 1e-12  # the last reaches its source only nearly
    a, b = path.a(zero), path.b(zero)
    assert float((a[:, None, None] * X1 + b[:, None, None] * X0 - X0).abs().max()) < loose
    assert float((path.a(one) - 1).abs().max()) < 1e-12 and float(path.b(one).abs().max()) < 1e-12
    h = 1e-6
    slope = (path.point(X0, X1, T + h).x - path.point(X0, X1, T - h).x) / (2 * h)
    assert torch.allclose(path.point(X0, X1, T).v, slope, atol=1e-6)
    for given, derived in zip(path.coefficients(T), AffinePath.coefficients(path, T), strict=True):
        assert torch.allclose(given, derived, atol=1e-12)
    assert torch.allclose(path.half_variance_slope(T), path.b(T) * path.coefficients(T)[3], atol=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_any_two_determine_the_others(path: AffinePath) -> None:
    x, v = path.point(X0, X1, T)
    source, data = path.ends(x, v, T)
    assert torch.allclose(source, X0, atol=1e-9) and torch.allclose(data, X1, atol=1e-9)
    for given in ({"x0": X0}, {"x1": X1}, {"x0": X0, "x1": X1}):
        assert torch.allclose(path.velocity(x, T, **given), v, atol=1e-9)
    assert torch.allclose(path.score(x, v, T), -X0 / path.b(T)[:, None, None], atol=1e-9)


def test_times_per_frame_and_scalar() -> None:
    frames = torch.rand(5, 2, dtype=torch.float64, generator=Rng(0).generator())
    x = Linear().point(X0, X1, frames).x
    assert torch.equal(x, (1 - frames[..., None]) * X0 + frames[..., None] * X1)
    assert torch.allclose(Linear().point(X0, X1, torch.tensor(0.5, dtype=torch.float64)).x, (X0 + X1) / 2)


def test_singular_times_raise() -> None:
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    x = torch.ones(1, 2, dtype=torch.float64)
    for path in (Linear(), Cosine()):
        for t in (zero, one):
            assert all(bool(end.isfinite().all()) for end in path.ends(x, x, t))
        assert bool(path.velocity(x, zero, x1=x).isfinite().all())
        assert bool(path.velocity(x, one, x0=x).isfinite().all())
        with pytest.raises(ValueError, match="velocity cannot be computed from x1"):
            path.velocity(x, one, x1=x)
        with pytest.raises(ValueError, match="velocity cannot be computed from x0"):
            path.velocity(x, zero, x0=x)
        with pytest.raises(ValueError, match="score cannot be computed"):
            path.score(x, x, one)
        assert bool(path.score(x, x, zero).isfinite().all())
    with pytest.raises(ValueError, match="x1 cannot be computed"):
        Polynomial(2.0).data(x, x, zero)
    assert bool(Polynomial(2.0).noise(x, x, zero).isfinite().all())
    with pytest.raises(ValueError, match="slope of VariancePreserving.* is infinite"):
        VariancePreserving().point(x, x, one)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="pass tensors of equal shape"):
        Linear().point(torch.zeros(2, 1), torch.zeros(3, 1), torch.zeros(2))
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        Linear().point(torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([0.5, 500.0]))
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        Linear().point(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([math.nan]))
    with pytest.raises(ValueError, match="not a leading part"):
        Linear().point(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="neither x0 nor x1"):
        Linear().velocity(torch.zeros(1, 1), torch.zeros(1))
    with pytest.raises(ValueError, match="Polynomial got n=0.5"):
        Polynomial(0.5)
    with pytest.raises(ValueError, match="the noise rate must increase"):
        VariancePreserving(20.0, 0.1)
    with pytest.raises(ValueError, match="start at the source and end at the data"):
        Affine(lambda t: 1 - t, lambda t: t)
