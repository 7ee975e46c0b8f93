"""Post-hoc EMA: closed forms, and equality with an average tracked during training."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Loss
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA, Average, PowerEMA, UniformAverage
from beeline.training.optim.learning_rate import Constant
from beeline.training.optim.posthoc import product, snapshots, synthesise, weights


def test_the_exponent_matches_the_length():
    for length in (0.01, 0.05, 0.1, 0.25):
        g = PowerEMA(length).exponent
        assert math.isclose((g + 1) / ((g + 2) ** 2 * (g + 3)), length**2, rel_tol=1e-9)
    with pytest.raises(BeelineError, match="0.2887"):
        PowerEMA(0.3)


def test_power_ema_has_a_power_function_profile():
    net = nn.Linear(1, 1, bias=False).double()
    average = Average(net, PowerEMA(0.1))
    for n in range(1, 2001):
        with torch.no_grad():
            net.weight.fill_(float(n))
        average.update(n)
    g = PowerEMA(0.1).exponent
    assert math.isclose(float(average.state()["weight"]), 2000 * (g + 1) / (g + 2), rel_tol=1e-3)


def test_uniform_average_is_the_mean_of_the_weights_after_its_start():
    net = nn.Linear(1, 1, bias=False).double()
    average = Average(net, UniformAverage(start=10))
    for n in range(1, 31):
        with torch.no_grad():
            net.weight.fill_(float(n) ** 2)
        average.update(n)
        seen = [m**2 for m in range(11, n + 1)] or [n**2]
        assert math.isclose(float(average.state()["weight"]), sum(seen) / len(seen), rel_tol=1e-12)
    with pytest.raises(BeelineError, match="start=-1"):
        UniformAverage(-1)


def test_inner_products_of_profiles_equal_their_integrals():
    t = np.linspace(0, 1, 200001)[1:]
    for ta, ga, tb, gb in ((1.0, 3.0, 1.0, 7.0), (0.5, 2.0, 1.0, 5.0), (1.0, 16.0, 0.25, 6.0)):
        pa = np.where(t <= ta, (ga + 1) * t**ga / ta ** (ga + 1), 0)
        pb = np.where(t <= tb, (gb + 1) * t**gb / tb ** (gb + 1), 0)
        assert math.isclose(product(ta, ga, tb, gb), (pa * pb).mean(), rel_tol=1e-3)


def test_a_stored_profile_is_reproduced():
    known = [(s, g) for s in (400.0, 700.0, 1000.0) for g in (6.94, 16.97)]
    x, mismatch = weights(known, 1000.0, 6.94)
    assert mismatch < 1e-6 and abs(x[4] - 1) < 1e-6


class Drift:
    """A loss under which the weight changes in every step, so that averages of different lengths differ."""

    def __call__(self, net, batch, rng):
        error = (net.weight - batch.x1.mean()).square().sum() + rng.normal(net.weight).mul(net.weight).sum()
        return Loss(error, {}, error.detach()[None], torch.zeros(1))


def test_a_synthesised_average_equals_a_tracked_one(tmp_path):
    with Rng(0).ambient():
        net = nn.Linear(8, 8, bias=False)
    profiles = (PowerEMA(0.05), PowerEMA(0.1), PowerEMA(0.07))
    more = dict(steps=320, batch_size=1, lr=Constant(0.01), clip=None, checkpoint_every=400)
    training = Training(ema=profiles[:2], snapshot_every=20, **more)
    made = {}
    for ema, where in ((training.ema, tmp_path / "two"), (profiles, tmp_path / "three")):
        with Rng(0).ambient():
            net = nn.Linear(8, 8, bias=False)
        plan = Training(ema=ema, snapshot_every=20, **more)
        made[where.name] = fit(
            net, Drift(), torch.ones(2, 1), plan, rng=Rng(1), log=lambda e: None, checkpoint_dir=where
        )
    kept = {s.group: s for s in snapshots(tmp_path / "three")}  # the last of each
    from beeline.training import checkpoint

    exact = checkpoint.read(kept["network.ema2"].path).tensors["network.ema2"]["weight"]
    other = checkpoint.read(kept["network.ema2"].path).tensors["network.ema0"]["weight"]
    found = synthesise(tmp_path / "two", 0.07)
    assert found.mismatch < 0.1 and abs(sum(w for _, w in found.used) - 1) < 1e-9
    assert (found.state["weight"] - exact).norm() < 0.1 * (other - exact).norm()
    early = synthesise(tmp_path / "two", 0.07, step=160)
    assert max(s.step for s, _ in early.used) == 160
    with pytest.raises(BeelineError, match="no snapshot up to step 5"):
        synthesise(tmp_path / "two", 0.07, step=5)


def test_runs_without_power_function_averages_are_refused(tmp_path):
    net = nn.Linear(2, 2, bias=False)
    training = Training(steps=2, batch_size=1, ema=EMA(2.0))
    fit(net, Drift(), torch.ones(2, 1), training, rng=Rng(1), log=lambda e: None, checkpoint_dir=tmp_path)
    with pytest.raises(BeelineError, match="contains no power-function average"):
        snapshots(tmp_path)
