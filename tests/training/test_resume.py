"""Resume: only with the same data and code, including buffers, from any step."""

import errno
import math
import os
import threading
import time

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
from beeline.training.distributed import writer
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA, Average, averaged, averaged_view
from beeline.training.optim.learning_rate import Constant

DATA = Rng(1).normal(torch.empty(40, 2))


class Counting(nn.Module):
    """A field with a frozen layer, and a buffer that counts its inputs."""

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


def settings(**more):
    return Training(
        **{"steps": 6, "batch_size": 8, "lr": Constant(1e-2), "ema": EMA(5.0), "checkpoint_every": 3} | more
    )


def run(where, data=DATA, objective=None, training=None, net=None, **more):
    entries = []
    made = fit(net or network(), objective or FlowMatching(), data, training or settings(), rng=Rng(4),
               log=entries.append, checkpoint_dir=where, **more)  # fmt: skip
    return made, entries


# buffers and frozen parameters


def test_averages_have_current_buffers_and_only_trainable_parameters(tmp_path):
    made, _ = run(tmp_path, training=settings(snapshot_every=3))
    assert int(made.seen) == 48
    saved = checkpoint.read(checkpoint.newest(tmp_path))
    assert int(saved.tensors["network"]["seen"]) == 48
    assert set(saved.tensors["network.ema0"]) == {"out.weight", "out.bias"}
    snapshot = checkpoint.read(tmp_path / "snapshots" / "step-00000003")
    assert int(snapshot.tensors["network.buffers"]["seen"]) == 24
    assert torch.equal(made.frozen.weight, network().frozen.weight)


def test_an_averaged_copy_gets_buffers_and_frozen_parameters_of_the_trained_network():
    copied, live = network(), network()
    average = Average(live, EMA(5.0))
    with torch.no_grad():
        live.seen.fill_(7)
        live.frozen.weight.fill_(2.0)
        live.out.weight.fill_(3.0)
    made = averaged(copied, average.state(), live=live)
    assert int(made.seen) == 7 and torch.equal(made.frozen.weight, live.frozen.weight)
    assert torch.equal(made.out.weight, copied.out.weight)  # the average was not updated after the change


def test_a_view_of_the_average_does_not_copy_it():
    live = network()
    average = Average(live, EMA(5.0))
    view = averaged_view(live, average.state())
    assert view.out.weight.data_ptr() == average.state()["out.weight"].data_ptr()
    assert view.frozen.weight is live.frozen.weight and view.seen is not live.seen
    with torch.no_grad():
        live.out.weight.fill_(3.0)
    average.update(1)
    assert torch.equal(view.out.weight, average.state()["out.weight"]) and not torch.equal(
        view.out.weight, live.out.weight
    )


def test_checkpoints_hold_what_learns_and_the_fingerprints_of_the_rest(tmp_path):
    run(tmp_path)
    saved = checkpoint.read(checkpoint.newest(tmp_path))
    assert set(saved.tensors["network"]) == {"out.weight", "out.bias", "seen"}
    assert list(saved.state["frozen"]["network"]) == ["frozen.weight", "frozen.bias"]
    whole, _ = run(None, training=settings(steps=9))
    resumed, _ = run(tmp_path, resume=tmp_path, training=settings(steps=9))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    other = network()
    with torch.no_grad():
        other.frozen.weight.add_(1.0)
    with pytest.raises(BeelineError, match=r"1 frozen parameters of network differ .*'frozen.weight'"):
        run(tmp_path, net=other, resume=tmp_path, training=settings(steps=12))


def test_a_parameter_without_gradient_that_changes_is_saved(tmp_path):
    """Such as the target network of an objective, which follows another one."""

    class Moving(FlowMatching):
        def __call__(self, field, batch, rng):
            with torch.no_grad():
                field.frozen.weight.mul_(0.5)
            return super().__call__(field, batch, rng)

    run(tmp_path, objective=Moving())
    saved = checkpoint.read(checkpoint.newest(tmp_path))
    assert "frozen.weight" in saved.tensors["network"] and list(saved.state["frozen"]["network"]) == ["frozen.bias"]


def test_training_continues_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """The files hold the state at the step of the checkpoint, however long their writing takes."""
    free, steps = threading.Event(), []
    real = writer.save_file

    def slow(tensors, path):
        assert free.wait(60)
        real(tensors, path)

    def log(entry):
        steps.append(entry.get("step"))
        if entry.get("step") == 5:
            assert not checkpoint.steps(tmp_path / "slow")
            free.set()

    monkeypatch.setattr(writer, "save_file", slow)
    fit(
        network(),
        FlowMatching(),
        DATA,
        settings(checkpoint_every=3),
        rng=Rng(4),
        log=log,
        checkpoint_dir=tmp_path / "slow",
    )
    monkeypatch.undo()
    run(tmp_path / "plain", training=settings(checkpoint_every=3))
    for step in (3, 6):
        a, b = (checkpoint.read(tmp_path / name / f"step-{step:08d}") for name in ("slow", "plain"))
        assert all(torch.equal(v, b.tensors[g][k]) for g, named in a.tensors.items() for k, v in named.items())


def test_a_checkpoint_that_cannot_be_written_is_reported_at_the_next_step(tmp_path, monkeypatch):
    steps, real = [], writer.save_file

    def full(tensors, path):
        if "step-00000004" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path)

    def log(entry):
        steps.append(entry.get("step"))
        time.sleep(0.2)

    monkeypatch.setattr(writer, "save_file", full)
    with pytest.raises(BeelineError, match=r"checkpoint of step 4 could not be written .*No space left.*earlier"):
        fit(
            network(),
            FlowMatching(),
            DATA,
            settings(steps=50, checkpoint_every=2),
            rng=Rng(4),
            log=log,
            checkpoint_dir=tmp_path,
        )
    assert steps[-1] < 10 and checkpoint.number(checkpoint.newest(tmp_path)) == 2
    assert not list(tmp_path.glob(".writing*"))


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
    with pytest.raises(BeelineError, match=r"the data differ from those of the run .* \(data\."):
        run(tmp_path, other, resume=tmp_path, training=settings(steps=9))
    run(tmp_path, data, resume=tmp_path, training=settings(steps=9))
    if change in ("scaled", "one number"):
        _, entries = run(tmp_path / "fork", other, resume=tmp_path, fork=True, training=settings(steps=12))
        assert "data.x1" in entries[0]["note"]


class Gaussian:
    def __init__(self, mean):
        self.mean = mean

    def sample(self, n, rng):
        return self.mean + rng.normal(torch.empty(n, 2))


def test_another_distribution_is_refused(tmp_path):
    run(tmp_path, Gaussian(1.0))
    with pytest.raises(BeelineError, match="the data differ"):
        run(tmp_path, Gaussian(100.0), resume=tmp_path, training=settings(steps=9))
    run(tmp_path, Gaussian(1.0), resume=tmp_path, training=settings(steps=9))


def power(p):
    return Affine(lambda t: t**p, lambda t: 1 - t**p)


def test_another_function_of_the_same_name_is_refused(tmp_path):
    run(tmp_path, objective=FlowMatching(weight=lambda t: 1 + t))
    for weight in (lambda t: 1 + 2 * t, lambda t: 1 - t):
        with pytest.raises(BeelineError, match="other settings .objective.weight"):
            run(tmp_path, objective=FlowMatching(weight=weight), resume=tmp_path, training=settings(steps=9))
    run(tmp_path, objective=FlowMatching(weight=lambda t: 1 + t), resume=tmp_path, training=settings(steps=9))
    same, other = compare.settings(power(2)), compare.settings(power(3))  # the closure of a function is compared too
    assert compare.settings(power(2)) == same != other


class TeacherLoss:
    def __init__(self, teacher, to):
        self.teacher, self.to = teacher, to

    def __call__(self, net, batch, rng):
        error = (net(batch.x1, torch.zeros(len(batch.x1))) - self.to).square().mean(1)
        return Loss(error.mean(), {}, error.detach(), torch.zeros(len(batch.x1)))


def test_another_teacher_or_attribute_of_an_objective_is_refused(tmp_path):
    teacher, other = nn.Linear(2, 2), nn.Linear(2, 2)
    run(tmp_path, objective=TeacherLoss(teacher, 1.0))
    for objective in (TeacherLoss(other, 1.0), TeacherLoss(teacher, 2.0)):
        with pytest.raises(BeelineError, match="other settings"):
            run(tmp_path, objective=objective, resume=tmp_path, training=settings(steps=9))
    run(tmp_path, objective=TeacherLoss(teacher, 1.0), resume=tmp_path, training=settings(steps=9))


def test_large_data_are_compared_by_rows_and_sum(monkeypatch):
    monkeypatch.setattr(compare, "WHOLE", 4096)
    monkeypatch.setattr(compare, "ROWS", 5)
    x = Rng(3).normal(torch.empty(1000, 4))
    first, y = compare.fingerprint(x), x.clone()
    y[501, 2] += 1e-4  # not among the hashed rows
    assert compare.fingerprint(x.clone()) == first != compare.fingerprint(y)
    assert compare.fingerprint(x.flip(0)) != first
    monkeypatch.setattr(compare, "SUMMED", 4096)
    assert compare.fingerprint(x) == compare.fingerprint(y)  # above 4 GiB only rows are compared
    y[0, 0] += 1
    assert compare.fingerprint(x) != compare.fingerprint(y)


# the log


def test_a_player_that_skips_a_step_logs_its_last_loss():
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
def test_a_clock_that_stands_still_or_runs_backwards_gives_finite_speeds(monkeypatch, clock):
    ticks = iter(range(10**9))
    monkeypatch.setattr("time.perf_counter", lambda: clock(next(ticks)))
    _, entries = run(None)
    assert all(e["samples_per_second"] >= 0 and math.isfinite(e["samples_per_second"]) for e in entries)
    from beeline.training.plan import plan

    assert plan(network(), FlowMatching(), DATA, settings(), rng=Rng(0)).seconds >= 0


def test_workers_with_data_pruning_are_refused():
    from beeline.training.feed.data_pruning import DataPruning

    with pytest.raises(BeelineError, match="workers=2 prefetch microbatches"):
        Training(workers=2, data_pruning=DataPruning())
