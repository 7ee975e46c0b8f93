"""Rates: their ends, their turning points, and what does not depend on the number of steps."""

import math

import pytest

from beeline.core.errors import BeelineError
from beeline.training.config import Training, branched
from beeline.training.optim.learning_rate import (
    Constant,
    Cooldown,
    InverseRoot,
    OneCycle,
    RangeTest,
    WarmupConstantCooldown,
    WarmupCosine,
    steepest,
)


def test_constant_and_its_warm_up():
    lr = Constant(2.0, warmup=4)
    assert [lr(n, 9) for n in (0, 1, 3, 4, 100)] == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_cosine_ends():
    lr = WarmupCosine(1.0, warmup=10, floor=0.1)
    assert lr(10, 110) == 1.0 and math.isclose(lr(60, 110), 0.55) and math.isclose(lr(110, 110), 0.1)


def test_until_the_cooldown_the_number_of_steps_does_not_matter():
    lr = WarmupConstantCooldown(1.0, warmup=5, cooldown=0.25)
    assert lr.begins(100) == 75
    assert all(lr(n, 100) == lr(n, 400) for n in range(75))
    assert lr(75, 100) == 1.0 and math.isclose(lr(99, 100), 1 / 25) and lr(100, 100) == 0.0
    assert WarmupConstantCooldown(1.0, 0, 0.0)(99, 100) == 1.0


def test_one_cycle_and_inverse_root():
    lr = OneCycle(1.0, rise=0.4, start=10.0, end=100.0)
    assert math.isclose(lr(0, 100), 0.1) and lr(40, 100) == 1.0 and math.isclose(lr(100, 100), 0.01)
    root = InverseRoot(3.0, warmup=25)
    assert math.isclose(root(0, 1), 3 / 25) and root(24, 1) == 3.0 and math.isclose(root(99, 1), 1.5)


def test_the_shape_of_a_cooldown():
    lr = WarmupConstantCooldown(1.0, warmup=0, cooldown=0.4, floor=0.1, shape=0.5)
    assert lr(60, 100) == 1.0 and lr(100, 100) == 0.1
    assert math.isclose(lr(70, 100), 0.1 + 0.9 * (1 - math.sqrt(0.25)))
    branch = Cooldown(Constant(2.0), start=60, shape=0.5)
    assert [branch(n, 100) for n in (59, 60, 70, 100)] == [2.0, 2.0, 1.0, 0.0]


def test_a_range_test_finds_the_rate_where_the_loss_falls_fastest():
    lr, n = RangeTest(1e-5, 1e-1), 401
    rates = [lr(k, n) for k in range(n)]
    assert rates[0] == 1e-5 and math.isclose(rates[-1], 1e-1) and math.isclose(rates[200], 1e-3)
    # a loss that falls about 1e-3 and grows from 1e-2 on: (1 - tanh(log10 r + 3)) + the excess; infinite at the end
    losses = [1 - math.tanh(math.log10(r) + 3) + max(0.0, 100 * (r - 1e-2)) for r in rates]
    assert abs(math.log10(steepest(rates, losses, memory=0.0)) + 3) < 0.011
    losses[390] = math.inf
    assert abs(math.log10(steepest(rates, losses, memory=0.0)) + 3) < 0.011
    assert -3 < math.log10(steepest(rates, losses)) < -2.85  # smoothing is late by 1 / (1 - memory) steps
    with pytest.raises(BeelineError, match="never fall"):
        steepest([0.1, 1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(0.0),
        lambda: Constant(1.0, warmup=-1),
        lambda: WarmupCosine(math.inf),
        lambda: WarmupConstantCooldown(1.0, cooldown=1.5),
        lambda: WarmupConstantCooldown(1.0, shape=0.0),
        lambda: Cooldown(shape=-1.0),
        lambda: RangeTest(1.0, 1.0),
        lambda: OneCycle(rise=1.0),
        lambda: InverseRoot(warmup=0),
    ],
)
def test_rates_that_cannot_learn_are_refused(make):
    with pytest.raises(BeelineError):
        make()


@pytest.mark.parametrize(
    "inner", [WarmupCosine(1.0, warmup=5), OneCycle(1.0), WarmupConstantCooldown(1.0, 5, 0.5), InverseRoot(1.0, 5)]
)
def test_a_cooldown_begins_at_the_rate_of_the_run_that_it_leaves(inner):
    lr = branched(Training(steps=100, lr=inner, ema=None), start=60, length=20).lr
    seen = [lr(n, 80) for n in range(80)]
    assert seen[:61] == [inner(n, 100) for n in range(61)]  # the rates of the run, and no jump after them
    assert max(abs(a - b) for a, b in zip(seen[60:], seen[61:], strict=False)) <= inner(60, 100) / 20 + 1e-12
