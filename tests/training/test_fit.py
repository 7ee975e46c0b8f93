"""The engine: exact velocities, microbatches, averages, exact resume."""

import math
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.protocols.objectives import Player
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.evaluation.heldout import HeldOut
from beeline.objectives.matching import FlowMatching
from beeline.training import checkpoint
from beeline.training.callbacks import Previews
from beeline.training.checks import Diverged, Interrupted
from beeline.training.config import Training
from beeline.training.feed.microbatches import FromDistribution, InMemory
from beeline.training.feed.sources import as_microbatches
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA, Average
from beeline.training.optim.learning_rate import Constant, WarmupConstantCooldown


class Small(nn.Module):
    """A field of three layers with dropout, so that every source of randomness is used."""

    def __init__(self, size: int = 2, width: int = 32, dropout: float = 0.0):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(size + 1, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.SiLU()
        )
        self.out = nn.Linear(width, size)

    def forward(self, x, t, cond=None):
        return self.out(self.inner(torch.cat([x, t[:, None]], 1)))


def small(seed=0, **more):
    with Rng(seed).ambient():
        return Small(**more)


def silent(entry):
    pass


class Gaussian:
    """N(1.5, 0.5^2) in every coordinate."""

    def sample(self, n, rng):
        return 1.5 + 0.5 * rng.normal(torch.empty(n, 2))


def test_a_trained_field_approximates_the_exact_velocity_between_two_gaussians():
    training = Training(steps=400, batch_size=256, lr=WarmupConstantCooldown(5e-3, 50, 0.5), ema=EMA(50))
    net = fit(small(width=64), FlowMatching(), Gaussian(), training, rng=Rng(0), log=silent)
    t = torch.linspace(0.05, 0.95, 10).repeat_interleave(100)
    x = t[:, None] * 1.5 + ((1 - t) ** 2 + (0.5 * t) ** 2).sqrt()[:, None] * Rng(9).normal(torch.empty(1000, 2))
    # x_t ~ N(1.5 t, (1-t)^2 + t^2/4), and v is linear in x - 1.5 t
    slope = (0.25 * t - (1 - t)) / ((1 - t) ** 2 + 0.25 * t**2)
    exact = 1.5 + slope[:, None] * (x - 1.5 * t[:, None])
    error = (net(x, t) - exact).square().mean() / exact.square().mean()
    assert error < 0.025


def test_every_datum_occurs_once_per_epoch_and_a_microbatch_is_a_function_of_its_number():
    x = torch.arange(10.0)[:, None]
    feed = InMemory(Batch(x, x0=-x, cond={"label": torch.arange(10)}, weight=torch.arange(10.0)), Rng(3))
    microbatches = [feed.microbatch(n, 4) for n in range(5)]  # two epochs of ten data; one microbatch spans both
    seen = torch.cat([b.x1 for b in microbatches]).flatten()
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert not torch.equal(seen[:10], seen[10:])
    for b in microbatches:
        assert torch.equal(b.x0, -b.x1) and torch.equal(b.cond["label"].float(), b.weight)
    again = InMemory(feed.batch, Rng(3)).microbatch(3, 4)
    assert torch.equal(again.x1, microbatches[3].x1)
    assert torch.equal(feed.microbatch(0, 25).x1.unique(), x.flatten())  # a microbatch larger than the data


def test_feeds_of_distributions_tensors_and_invalid_data():
    assert isinstance(as_microbatches(Gaussian(), Rng(0)), FromDistribution)
    assert torch.equal(
        as_microbatches(Gaussian(), Rng(0)).microbatch(3, 5).x1,
        as_microbatches(Gaussian(), Rng(0)).microbatch(3, 5).x1,
    )
    assert isinstance(as_microbatches(torch.ones(3, 1), Rng(0)), InMemory)
    feed = as_microbatches(torch.ones(3, 1), Rng(0))
    assert as_microbatches(feed, Rng(1)) is feed
    for bad, words in [
        ("text", r"neither microbatch\(number, size\) nor sample"),
        (torch.ones(3, dtype=torch.int64)[:, None], "floating point"),
        (torch.ones(0, 2), "data set is empty"),
        (Batch(torch.ones(3, 1), cond=torch.ones(2)), "one row per datum"),
    ]:
        with pytest.raises(BeelineError, match=words):
            as_microbatches(bad, Rng(0))


def test_the_log_has_its_documented_keys():
    entries = []
    training = Training(steps=4, batch_size=8, watch_every=2)
    fit(small(), FlowMatching(), Gaussian(), training, rng=Rng(0), log=entries.append)
    assert [e["step"] for e in entries] == [1, 2, 3, 4]
    for e in entries:
        assert {"step", "loss", "lr", "grad_norm", "samples_per_second", "terms"} <= set(e)
        assert math.isclose(e["terms"]["loss"], e["loss"], rel_tol=1e-6)
    assert "update_norm" in entries[1] and "param_norm" in entries[3] and "update_norm" not in entries[0]


def test_the_average_equals_the_closed_form():
    net = nn.Linear(1, 1, bias=False).double()
    average = Average(net, EMA(half_life=3.0, warmup=0))
    start = float(net.weight.detach())
    for n in range(1, 13):
        with torch.no_grad():
            net.weight.fill_(float(n))
        average.update(n)
    d = 0.5 ** (1 / 3)
    exact = d**12 * start + sum((1 - d) * d ** (12 - n) * n for n in range(1, 13))
    assert math.isclose(float(average.state()["weight"]), exact, rel_tol=1e-12)
    assert EMA(100.0, warmup=0.1).decay(10) == 0.5  # half-life 1 after ten steps
    assert EMA(100.0, warmup=0.1).decay(10**6) == 0.5**0.01


def test_fit_returns_the_average_and_leaves_the_weights_of_the_network():
    net = small().bfloat16()
    average = Average(net, EMA(10.0))
    assert all(t.dtype == torch.float32 for t in average.tensors)
    average.update(1)
    net = small()
    made = fit(net, FlowMatching(), Gaussian(), Training(steps=5, batch_size=8, ema=EMA(3, 0)), rng=Rng(0), log=silent)
    assert made is not net and not torch.equal(made.out.weight, net.out.weight)
    same = fit(net, FlowMatching(), Gaussian(), Training(steps=5, batch_size=8, ema=None), rng=Rng(0), log=silent)
    assert same is net
    many = fit({"a": net}, FlowMatching(), Gaussian(), Training(steps=2, batch_size=8), rng=Rng(0), log=silent)
    assert set(many) == {"a"}


def last_state(root):
    """All tensors and the JSON data of the last checkpoint."""
    saved = checkpoint.read(checkpoint.newest(root))
    return {f"{g}/{k}": v for g, group in saved.tensors.items() for k, v in group.items()}, saved.state


def assert_same(a, b):
    assert set(a) == set(b)
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_an_interrupted_run_resumes_bit_for_bit(tmp_path):
    data = Batch(Rng(1).normal(torch.empty(50, 2)), cond=None)
    # 20 steps at once, and 8 steps, stop, 12 more; with dropout, microbatches, and batches across epochs
    training = Training(steps=20, microbatches=2, batch_size=14, lr=Constant(1e-2), checkpoint_every=100)

    def stop(entry):
        if entry["step"] == 8:
            signal.raise_signal(signal.SIGINT)

    def run(where, **more):
        return fit(small(dropout=0.3), FlowMatching(), data, training, rng=Rng(4), checkpoint_dir=where, **more)

    made = run(tmp_path / "a", log=silent)
    with pytest.raises(Interrupted, match="after step 8 and saved a checkpoint"):
        run(tmp_path / "b", log=stop)
    again = run(tmp_path / "b", log=silent, resume=tmp_path / "b")
    (a, sa), (b, sb) = last_state(tmp_path / "a"), last_state(tmp_path / "b")
    assert_same(a, b)
    assert sa["optimizers"] == sb["optimizers"] and sa["step"] == sb["step"] == 20
    for p, q in zip(made.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[2])
torch.set_num_threads(1)
from test_fit import *
def log(entry):
    if entry.get("step", 0) % 5 == 0: print(entry["step"], flush=True)
where = sys.argv[1]
training = Training(steps=int(sys.argv[3]), microbatches=2, batch_size=32, lr=Constant(1e-2), checkpoint_every=10)
resume = where if sys.argv[4] == "resume" else None
fit(small(dropout=0.2), FlowMatching(), Gaussian(), training, rng=Rng(4), checkpoint_dir=where, log=log,
    resume=resume)
"""


def test_a_killed_process_resumes_bit_for_bit(tmp_path):
    here = os.path.dirname(os.path.abspath(__file__))

    def start(where, steps, resume):
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(where), here, str(steps), resume]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    # the killed run has many more steps, so it is always running when it is killed
    killed = start(tmp_path / "b", 100000, "fresh")
    for line in killed.stdout:
        if int(line) >= 25:
            killed.send_signal(signal.SIGKILL)
            break
    assert killed.wait() == -signal.SIGKILL
    killed.stdout.close()
    last = checkpoint.steps(tmp_path / "b")[0]
    end = checkpoint.number(last) + 20
    training = Training(steps=end, microbatches=2, batch_size=32, lr=Constant(1e-2), checkpoint_every=10)
    for where, resume in ((tmp_path / "a", None), (tmp_path / "b", tmp_path / "b")):
        net = small(dropout=0.2)
        fit(net, FlowMatching(), Gaussian(), training, rng=Rng(4), checkpoint_dir=where, log=silent, resume=resume)
    assert_same(last_state(tmp_path / "a")[0], last_state(tmp_path / "b")[0])


def test_non_finite_values_stop_the_run_and_are_named(tmp_path):
    data = torch.ones(8, 2)
    data[5, 1] = math.nan
    net = small()
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(Diverged, match=r"step 1 has loss nan.*gradient of network\.inner\.0\.weight"):
        fit(net, FlowMatching(), data, Training(steps=3, batch_size=8), rng=Rng(0), log=silent, checkpoint_dir=tmp_path)
    assert all(torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True))
    with torch.no_grad():
        net.out.bias[0] = math.inf
    with pytest.raises(Diverged, match=r"the weight network\.out\.bias \(1 of 2 values\)"):
        fit(net, FlowMatching(), torch.ones(8, 2), Training(steps=3, batch_size=8), rng=Rng(0), log=silent)


def test_players_of_an_adversarial_objective_take_turns():
    class Two:
        def players(self, left, right):
            def toward(net, other):
                def loss(batch, rng):
                    value = (net.weight - batch.x1.mean()).square().sum() + 0 * other.weight.sum()
                    return Loss(value, {"gap": value.detach()}, value.detach()[None], torch.zeros(1))

                return loss

            yield Player("left", toward(left, right), list(left.parameters()))
            yield Player("right", toward(right, left), list(right.parameters()), every=3)

    nets = {"left": nn.Linear(1, 1, bias=False), "right": nn.Linear(1, 1, bias=False)}
    before = nets["right"].weight.clone()
    entries = []
    training = Training(steps=1, batch_size=4, ema=None, clip=None)
    fit(nets, Two(), torch.ones(8, 1), training, rng=Rng(0), log=entries.append)
    assert not torch.equal(nets["right"].weight, before)  # all players are due in step 0
    entries.clear()
    fit(nets, Two(), torch.ones(8, 1), Training(steps=3, batch_size=4, ema=None), rng=Rng(0), log=entries.append)
    assert ["right.gap" in e["terms"] for e in entries] == [True, False, False]
    with pytest.raises(BeelineError, match="no trainable parameters"):
        fit(nn.Identity(), FlowMatching(), torch.ones(8, 1), Training(), rng=Rng(0), log=silent)


def test_invalid_settings_are_refused(tmp_path):
    for changes in ({"steps": 0}, {"batch_size": 2.5}, {"checkpoint_every": -1}, {"clip": 0.0}):
        with pytest.raises(BeelineError, match=r"training\.|Training got"):
            Training(**changes)
    data, training = torch.ones(8, 2), Training(steps=2, batch_size=4)
    fit(small(), FlowMatching(), data, training, rng=Rng(0), checkpoint_dir=tmp_path, log=silent)
    with pytest.raises(BeelineError, match=r"training.batch_size: 4 -> 8"):
        other = Training(steps=2, batch_size=8)
        fit(small(), FlowMatching(), data, other, rng=Rng(0), resume=tmp_path, log=silent)
    with pytest.raises(BeelineError, match="raise training.steps"):
        fit(small(), FlowMatching(), data, Training(steps=1, batch_size=4), rng=Rng(0), resume=tmp_path, log=silent)
    with pytest.raises(BeelineError, match="does not match network"):
        wider = nn.Sequential(small())
        fit(wider, FlowMatching(), data, Training(steps=4, batch_size=4), rng=Rng(0), resume=tmp_path, log=silent)
    with pytest.raises(BeelineError, match="has shape"):
        fit(
            small(width=8),
            FlowMatching(),
            data,
            Training(steps=4, batch_size=4),
            rng=Rng(0),
            resume=tmp_path,
            log=silent,
        )


def test_the_heldout_loss_is_deterministic_and_the_best_is_recorded(tmp_path):
    x = Gaussian().sample(96, Rng(0))
    callback = HeldOut(FlowMatching(), Batch(x[:32]), train=Batch(x[32:]), every=2)
    entries = []
    fit(
        small(),
        FlowMatching(),
        x[32:],
        Training(steps=4, batch_size=16),
        rng=Rng(0),
        log=entries.append,
        callbacks=(callback,),
    )
    seen = [e["heldout"] for e in entries if "heldout" in e]
    assert len(seen) == 2 and seen[0]["raw"]["value"] > seen[1]["raw"]["value"]
    assert seen[1]["best"]["raw"] == seen[1]["raw"]["value"] and "ema" in seen[0]
    assert len(seen[0]["raw"]["by_bin"]) == 10 and seen[0]["raw"]["posterior"] is not None


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"batch_size": 2**40}, "too large"),
        ({"workers": 2**40}, "too large"),
        ({"ema": ()}, "empty list"),
        ({"batch_size": 10, "microbatches": 3}, "cannot be divided into 3 equal"),
    ],
)
def test_impossible_settings_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        Training(**settings)


def test_limited_previews_leave_costly_ones_out(tmp_path):
    shown = Previews(lambda net: b"x", tmp_path, every=2, limited=True)
    assert [n for n in range(1, 8) if shown.due(n, 7)] == [2, 4, 6, 7]
    shown.spent = 1e9
    assert [n for n in range(1, 8) if shown.due(n, 7)] == [7]
    shown.limited = False
    assert [n for n in range(1, 8) if shown.due(n, 7)] == [2, 4, 6, 7]
