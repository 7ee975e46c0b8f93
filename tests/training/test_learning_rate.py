"""Learning-rate schedules: first, last and turning values, and independence of the number of steps."""

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


def test_constant_with_warmup():
    lr = Constant(2.0, warmup=4)
    assert [lr(n, 9) for n in (0, 1, 3, 4, 100)] == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_cosine_decays_from_peak_to_floor():
    lr = WarmupCosine(1.0, warmup=10, floor=0.1)
    assert lr(10, 110) == 1.0 and math.isclose(lr(60, 110), 0.55) and math.isclose(lr(110, 110), 0.1)


def test_before_the_cooldown_the_learning_rate_is_independent_of_the_number_of_steps():
    lr = WarmupConstantCooldown(1.0, warmup=5, cooldown=0.25)
    assert lr.branch(100) == 75
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


def test_range_test_finds_the_learning_rate_where_the_loss_decreases_fastest():
    lr, n = RangeTest(1e-5, 1e-1), 401
    lrs = [lr(k, n) for k in range(n)]
    assert lrs[0] == 1e-5 and math.isclose(lrs[-1], 1e-1) and math.isclose(lrs[200], 1e-3)
    # a loss that decreases around 1e-3 and increases from 1e-2 on: (1 - tanh(log10 r + 3)) + the excess
    losses = [1 - math.tanh(math.log10(r) + 3) + max(0.0, 100 * (r - 1e-2)) for r in lrs]
    assert abs(math.log10(steepest(lrs, losses, memory=0.0)) + 3) < 0.011
    losses[390] = math.inf
    assert abs(math.log10(steepest(lrs, losses, memory=0.0)) + 3) < 0.011
    assert -3 < math.log10(steepest(lrs, losses)) < -2.85  # smoothing lags by 1 / (1 - memory) steps
    with pytest.raises(BeelineError, match="never decrease"):
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
def test_invalid_schedules_are_refused(make):
    with pytest.raises(BeelineError):
        make()


@pytest.mark.parametrize(
    "inner", [WarmupCosine(1.0, warmup=5), OneCycle(1.0), WarmupConstantCooldown(1.0, 5, 0.5), InverseRoot(1.0, 5)]
)
def test_a_cooldown_starts_at_the_learning_rate_of_the_original_run(inner):
    lr = branched(Training(steps=100, lr=inner, ema=None), start=60, length=20).lr
    seen = [lr(n, 80) for n in range(80)]
    assert seen[:61] == [inner(n, 100) for n in range(61)]  # the schedule of the run, then no jump
    assert max(abs(a - b) for a, b in zip(seen[60:], seen[61:], strict=False)) <= inner(60, 100) / 20 + 1e-12
