"""Going on: only with the data and the code that a run had, with its buffers, and from any step."""

import math

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.objectives.matching import FlowMatching
from beeline.paths.affine import Affine
from beeline.training import checkpoint, compare
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA, Average, averaged
from beeline.training.optim.learning_rate import Constant

DATA = Rng(1).normal(torch.empty(40, 2))


class Counting(nn.Module):
    """A field with a frozen part, and a buffer that counts the data it has seen."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(3, 8).requires_grad_(False)
        self.out = nn.Linear(8, 2)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x, t, cond=None):
        if self.training:
            self.seen += len(x)
        return self.out(torch.tanh(self.frozen(torch.cat([x, t[:, None]], 1))))


def network():
    with Rng(0).ambient():
        return Counting()


def plan(**more):
    return Training(
        **{"steps": 6, "batch_size": 8, "lr": Constant(1e-2), "ema": EMA(5.0), "checkpoint_every": 3} | more
    )


def run(where, data=DATA, objective=None, training=None, **more):
    entries = []
    made = fit(network(), objective or FlowMatching(), data, training or plan(), rng=Rng(4), log=entries.append,
               checkpoint_dir=where, **more)  # fmt: skip
    return made, entries


# buffers and frozen parameters


def test_averages_carry_the_buffers_of_now_and_copy_only_what_learns(tmp_path):
    made, _ = run(tmp_path, training=plan(snapshot_every=3))
    assert int(made.seen) == 48
    saved = checkpoint.read(checkpoint.newest(tmp_path))
    assert int(saved.tensors["network"]["seen"]) == 48
    assert set(saved.tensors["network.ema0"]) == {"out.weight", "out.bias"}
    snapshot = checkpoint.read(tmp_path / "snapshots" / "step-00000003")
    assert int(snapshot.tensors["network.buffers"]["seen"]) == 24
    assert torch.equal(made.frozen.weight, network().frozen.weight)


def test_a_copy_kept_aside_gets_buffers_and_frozen_parameters_of_the_network_that_learns():
    aside, live = network(), network()
    average = Average(live, EMA(5.0))
    with torch.no_grad():
        live.seen.fill_(7)
        live.frozen.weight.fill_(2.0)
        live.out.weight.fill_(3.0)
    made = averaged(aside, average.state(), live=live)
    assert int(made.seen) == 7 and torch.equal(made.frozen.weight, live.frozen.weight)
    assert torch.equal(made.out.weight, aside.out.weight)  # the average has not seen the last change


# other data, other code


@pytest.mark.parametrize("change", ["scaled", "one number", "condition", "fewer", "dtype"])
def test_other_data_are_refused(tmp_path, change):
    data = Batch(DATA, cond={"label": torch.arange(40)})
    run(tmp_path, data)
    other = {
        "scaled": Batch(DATA * 100, cond=data.cond),
        "one number": Batch(DATA.clone().index_fill_(0, torch.tensor([17]), 0.5), cond=data.cond),
        "condition": Batch(DATA, cond={"label": torch.arange(40).flip(0)}),
        "fewer": Batch(DATA[:39], cond={"label": torch.arange(39)}),
        "dtype": Batch(DATA.double(), cond=data.cond),
    }[change]
    with pytest.raises(BeelineError, match=r"the data are not those that the run .* has learned from \(data\."):
        run(tmp_path, other, resume=tmp_path, training=plan(steps=9))
    run(tmp_path, data, resume=tmp_path, training=plan(steps=9))
    if change in ("scaled", "one number"):
        _, entries = run(tmp_path / "fork", other, resume=tmp_path, fork=True, training=plan(steps=12))
        assert "data.x1" in entries[0]["note"]


class Law:
    def __init__(self, mean):
        self.mean = mean

    def sample(self, n, rng):
        return self.mean + rng.normal(torch.empty(n, 2))


def test_another_law_is_refused(tmp_path):
    run(tmp_path, Law(1.0))
    with pytest.raises(BeelineError, match="the data are not those"):
        run(tmp_path, Law(100.0), resume=tmp_path, training=plan(steps=9))
    run(tmp_path, Law(1.0), resume=tmp_path, training=plan(steps=9))


def power(p):
    return Affine(lambda t: t**p, lambda t: 1 - t**p)


def test_another_function_of_the_same_name_is_refused(tmp_path):
    run(tmp_path, objective=FlowMatching(weight=lambda t: 1 + t))
    for weight in (lambda t: 1 + 2 * t, lambda t: 1 - t):
        with pytest.raises(BeelineError, match="other settings .objective.weight"):
            run(tmp_path, objective=FlowMatching(weight=weight), resume=tmp_path, training=plan(steps=9))
    run(tmp_path, objective=FlowMatching(weight=lambda t: 1 + t), resume=tmp_path, training=plan(steps=9))
    same, other = compare.settings(power(2)), compare.settings(power(3))  # what a function closes over counts too
    assert compare.settings(power(2)) == same != other


class Pull:
    def __init__(self, teacher, to):
        self.teacher, self.to = teacher, to

    def __call__(self, net, batch, rng):
        error = (net(batch.x1, torch.zeros(len(batch.x1))) - self.to).square().mean(1)
        return Loss(error.mean(), {}, error.detach(), torch.zeros(len(batch.x1)))


def test_another_teacher_or_attribute_of_an_objective_is_refused(tmp_path):
    teacher, other = nn.Linear(2, 2), nn.Linear(2, 2)
    run(tmp_path, objective=Pull(teacher, 1.0))
    for objective in (Pull(other, 1.0), Pull(teacher, 2.0)):
        with pytest.raises(BeelineError, match="other settings"):
            run(tmp_path, objective=objective, resume=tmp_path, training=plan(steps=9))
    run(tmp_path, objective=Pull(teacher, 1.0), resume=tmp_path, training=plan(steps=9))


def test_large_data_are_told_apart_by_rows_and_sum(monkeypatch):
    monkeypatch.setattr(compare, "WHOLE", 4096)
    monkeypatch.setattr(compare, "ROWS", 5)
    x = Rng(3).normal(torch.empty(1000, 4))
    first, y = compare.fingerprint(x), x.clone()
    y[501, 2] += 1e-4  # not among the rows
    assert compare.fingerprint(x.clone()) == first != compare.fingerprint(y)
    assert compare.fingerprint(x.flip(0)) != first
    monkeypatch.setattr(compare, "SUMMED", 4096)
    assert compare.fingerprint(x) == compare.fingerprint(y)  # above 4 GiB the rows alone count
    y[0, 0] += 1
    assert compare.fingerprint(x) != compare.fingerprint(y)


# the log


def test_a_player_that_skips_its_turn_logs_its_last_loss():
    from beeline.core.protocols.objectives import Player

    class Turns:
        def players(self, network):
            def loss(batch, rng):
                error = (network(batch.x1, torch.zeros(len(batch.x1))) - 1).square().mean(1)
                return Loss(error.mean(), {}, error.detach(), torch.zeros(len(batch.x1)))

            return [Player("first", loss, list(network.out.parameters()), 3), Player("second", loss,
                    list(network.out.parameters()), 1)]  # fmt: skip

    _, entries = run(None, objective=Turns())
    losses = [e["loss"] for e in entries]
    assert losses[0] == losses[1] == losses[2] > losses[3] == losses[4] == losses[5] > 0


@pytest.mark.parametrize("clock", [lambda n: 7.0, lambda n: 100.0 - n])
def test_a_clock_that_stands_still_or_runs_backwards_gives_finite_rates(monkeypatch, clock):
    ticks = iter(range(10**9))
    monkeypatch.setattr("time.perf_counter", lambda: clock(next(ticks)))
    _, entries = run(None)
    assert all(e["samples_per_second"] >= 0 and math.isfinite(e["samples_per_second"]) for e in entries)
    from beeline.training.plan import plan as foresee

    assert foresee(network(), FlowMatching(), DATA, plan(), rng=Rng(0)).seconds >= 0


def test_workers_beside_pruning_are_refused():
    from beeline.training.feed.data_pruning import DataPruning

    with pytest.raises(BeelineError, match="workers=2 prepare microbatches ahead"):
        Training(workers=2, data_pruning=DataPruning())
