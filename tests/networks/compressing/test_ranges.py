"""Ranges of inputs by time against plain ranges."""

import pytest
import torch

from beeline.config import build as config
from beeline.core.rng import Rng
from beeline.networks.compressing.activations.ranges import LeastError, RangedProducts, at_times
from beeline.networks.compressing.around import Scaled, Smooth
from beeline.networks.compressing.compressor import FINE, Moments
from beeline.networks.compressing.quantize import SmoothQuant, TimeRanges
from tests.networks.compressing.test_smaller import T, X, again, dit, error, probe

W = 0.1 * Rng(0).normal(torch.empty(24, 40))
TIMES = torch.linspace(0.01, 0.99, 96)


def inputs(seed):
    """Inputs [96,5,40] whose size grows from 0.2 to 6 with the time."""
    return Rng(seed).normal(torch.empty(96, 5, 40)) * (0.2 * 30**TIMES)[:, None, None]


def seen(x):
    moments = Moments()
    for k in range(0, 96, 12):
        moments.add(x[k : k + 12], TIMES[k : k + 12])
    return moments


def product(form, stored, x, t=TIMES):
    with at_times(x, t):
        return form.product(x, stored, len(W))


def test_one_interval_is_a_plain_range():
    x, form = inputs(1), RangedProducts(1)
    stored = form.encode(W, seen(x))
    step = x.abs().max() / 127
    assert torch.allclose(stored["steps"], step[None])
    rounded = (x / step).round() * step
    assert torch.allclose(product(form, stored, x), rounded @ form.decode(stored, *W.shape).mT, atol=1e-5)
    assert torch.equal(product(form, stored, x), form.product(x, stored, len(W)))  # without a time
    many = RangedProducts(8)
    same = {**many.encode(W, seen(x)), "steps": step.expand(8)}
    assert torch.equal(product(many, same, x), product(form, stored, x))


def test_errors_are_smaller_in_every_interval():
    """The error of rounding is that of a uniform error of the step, so that it falls with the range of the interval."""
    x, new, wide = inputs(1), inputs(2), 6
    errors = {}
    for n in (1, wide):
        form = RangedProducts(n)
        stored = form.encode(W, seen(x))
        exact = new @ form.decode(stored, *W.shape).mT
        interval = (TIMES * FINE).long() * wide // FINE
        error = (product(form, stored, new) - exact).square().mean((1, 2))
        errors[n] = torch.stack([error[interval == k].mean() for k in range(wide)]).sqrt(), stored["steps"]
    (plain, step), (timed, steps) = errors[1], errors[wide]
    assert torch.allclose((timed / plain)[:-1], (steps / step)[:-1], rtol=0.15)
    assert (timed[:-1] < 0.7 * plain[:-1]).all() and timed[-1] < 1.1 * plain[-1]
    assert (steps.diff() > 0).all()


def test_rows_of_one_batch_have_their_own_ranges():
    form, x = RangedProducts(8), inputs(1)
    stored = form.encode(W, seen(x))
    alone = torch.cat([product(form, stored, x[k : k + 1], TIMES[k : k + 1]) for k in range(96)])
    assert torch.equal(product(form, stored, x), alone)
    late = product(form, stored, x, torch.full((96,), 0.99))
    assert not torch.equal(late, alone) and torch.equal(product(form, stored, x, torch.tensor(0.99)), late)


def test_a_network_rounds_by_its_time():
    net = dit()
    made = {}
    for method in (TimeRanges(5, 0.5), TimeRanges(1, 0.5), SmoothQuant(0.5)):
        plan = method.plan(net, probe())
        made[method] = method.apply(net, plan, probe(), Rng(0))
        assert error(made[method], net) < 0.05
    first = next(iter(made.values()))
    assert first.timed and first.stages(X, T) is None and not list(made.values())[-1].timed
    assert torch.equal(again(first)(X, T), first(X, T))
    alone = torch.cat([first(X[k : k + 1], T[k : k + 1]) for k in range(3)])
    assert torch.allclose(first(X, T), alone, atol=1e-6)
    steps = [b for n, b in first.named_buffers() if n.endswith("steps")]
    assert any(len(set(s.tolist())) > 1 for s in steps)
    config.describe(first)


def test_scaled_inputs_keep_their_ranges():
    x = inputs(3)
    moments, s = seen(x), 0.5 + Rng(4).uniform(40, torch.empty(0))
    assert torch.allclose(moments.divided(s).by_time, seen(x / s).by_time)
    form = Scaled(RangedProducts(4), Smooth())
    stored = form.encode(W, moments)
    exact = x @ W.mT
    assert float((product(form, stored, x) - exact).norm() / exact.norm()) < 0.03


@pytest.mark.parametrize(
    "top, wanted, error", [(1, 1.224, 0.1902), (3, 1.952, 0.0469), (127, 3.92, 8.7e-5)], ids=["2 bits", "3", "8"]
)
def test_the_range_of_least_error_of_normal_numbers(top, wanted, error):
    """That of uniform quantizers with an odd number of levels (J. Max 1960, for 3 levels; 127: by search)."""
    x = torch.special.ndtri((torch.arange(50_000, dtype=torch.float64) + 0.5) / 50_000)
    c = LeastError(300)(x, torch.tensor(6.0), top)
    found = ((x / c * top).round().clamp(-top, top) * c / top - x).square().mean()
    assert float(c) == pytest.approx(wanted, rel=0.02) and float(found) == pytest.approx(error, rel=0.05)


def test_every_interval_has_its_own_range_of_least_error():
    x, k = inputs(1), 4
    moments = seen(x)
    rows, times = moments.some
    assert rows.shape == (96 * 5, 40) and {int(t) for t in times} == {int(FINE * t) for t in TIMES}
    steps = RangedProducts(k, LeastError()).encode(W, moments)["steps"]
    wide = RangedProducts(k).encode(W, moments)["steps"]
    for i in range(k):
        inside = x[(TIMES * FINE).long() * k // FINE == i]
        wanted = LeastError()(inside, inside.abs().max(), 127) / 127
        assert torch.allclose(steps[i], wanted) and steps[i] <= wide[i]
    assert bool((steps < wide).any())
