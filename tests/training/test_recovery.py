"""Full disks, bad data, divergence, longer runs, forks, and cooldowns from a checkpoint."""

import math
import resource
import shutil
import signal
import subprocess

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.objectives.matching import FlowMatching
from beeline.training import checkpoint
from beeline.training.checks import Diverged
from beeline.training.config import Training, branched
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import Constant, Cooldown, WarmupConstantCooldown, WarmupCosine


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x, t, cond=None):
        return self.layers(torch.cat([x, t[:, None]], 1))


DATA = Rng(1).normal(torch.empty(40, 2)) * 0.3 + 1


def run(training, objective=None, data=DATA, log=None, **more):
    with Rng(0).ambient():
        net = Field()
    entries = []
    fit(net, objective or FlowMatching(), data, training, rng=Rng(4), log=log or entries.append, **more)
    return entries


def settings(**more):
    return Training(
        **{"steps": 20, "batch_size": 8, "lr": Constant(1e-2), "ema": EMA(5.0), "checkpoint_every": 5} | more
    )


def last(root):
    saved = checkpoint.read(checkpoint.newest(root))
    return {f"{g}/{k}": v for g, group in saved.tensors.items() for k, v in group.items()}


def assert_same(a, b):
    assert set(a) == set(b)
    for key in a:
        assert torch.equal(a[key], b[key]), key


def notes(entries):
    return " ".join(e["note"] for e in entries if "note" in e)


# more steps


def test_a_longer_run_continues_from_the_start_of_the_cooldown_exactly(tmp_path):
    lr = WarmupConstantCooldown(1e-2, warmup=3, cooldown=0.3)
    run(settings(steps=40, lr=lr), checkpoint_dir=tmp_path / "uninterrupted")
    run(settings(steps=20, lr=lr, checkpoint_every=17, checkpoint_keep=1), checkpoint_dir=tmp_path / "longer")
    remaining = [checkpoint.number(p) for p in checkpoint.steps(tmp_path / "longer")]
    assert remaining == [20, 14]  # the cooldown started after step 14, so that checkpoint is permanent
    entries = run(
        settings(steps=40, lr=lr, checkpoint_every=17), checkpoint_dir=tmp_path / "longer", resume=tmp_path / "longer"
    )
    assert entries[1]["step"] == 15
    assert_same(last(tmp_path / "uninterrupted"), last(tmp_path / "longer"))


def test_a_longer_run_with_a_schedule_that_depends_on_the_number_of_steps_is_noted(tmp_path):
    lr = WarmupCosine(1e-2, warmup=3)
    run(settings(lr=lr), checkpoint_dir=tmp_path)
    entries = run(settings(steps=30, lr=lr), checkpoint_dir=tmp_path, resume=tmp_path)
    assert "will differ from an uninterrupted run" in notes(entries) and entries[-1]["step"] == 30


def test_a_fork_starts_from_a_checkpoint_with_other_settings(tmp_path):
    run(settings(), checkpoint_dir=tmp_path / "a")
    with pytest.raises(BeelineError, match=r"training.lr.peak: 0.01 -> 0.001.*fork"):
        run(settings(steps=25, lr=Constant(1e-3)), resume=tmp_path / "a")
    changed = settings(steps=25, lr=Constant(1e-3))
    entries = run(changed, checkpoint_dir=tmp_path / "b", resume=tmp_path / "a", fork=True)
    assert "forked from" in notes(entries) and "training.lr.peak: 0.01 -> 0.001" in notes(entries)
    assert entries[1]["step"] == 21 and entries[1]["lr"] == 1e-3
    assert checkpoint.number(checkpoint.steps(tmp_path / "a")[0]) == 20  # the original run is unchanged


def test_a_cooldown_from_a_checkpoint_equals_an_uninterrupted_run(tmp_path):
    lr = WarmupConstantCooldown(1e-2, warmup=3, cooldown=0.2)
    run(settings(steps=40, lr=lr, checkpoint_keep=9), checkpoint_dir=tmp_path / "long")
    short = settings(steps=20, lr=WarmupConstantCooldown(1e-2, warmup=3, cooldown=0.25))
    run(short, checkpoint_dir=tmp_path / "short")
    training = branched(settings(steps=40, lr=lr), start=15, length=5)
    run(training, checkpoint_dir=tmp_path / "branch", resume=tmp_path / "long" / "step-00000015", fork=True)
    assert_same(last(tmp_path / "short"), last(tmp_path / "branch"))
    with pytest.raises(BeelineError, match="the cooldown has 0 steps"):
        branched(settings(), 5, 0)
    with pytest.raises(BeelineError, match="start=-1"):
        Cooldown(Constant(), -1)


# non-finite values


def test_a_non_finite_datum_is_named(tmp_path):
    data = DATA.clone()
    data[23, 1] = math.nan
    with pytest.raises(Diverged, match=r"x1 of datum 23 is not finite: correct or remove it") as caught:
        run(settings(), data=data, checkpoint_dir=tmp_path)
    assert 1 <= caught.value.step <= 5
    cond = torch.zeros(40, 1)
    cond[7] = math.inf

    class Conditional(Field):
        def forward(self, x, t, cond=None):
            return super().forward(x, t) + 0 * cond["speed"]

    with pytest.raises(Diverged, match=r"cond.speed of datum 7 is not finite"):
        data = Batch(DATA, cond={"speed": cond})
        fit(Conditional(), FlowMatching(), data, settings(), rng=Rng(4), log=lambda e: None)


class DivergesOnce:
    """A loss that is infinite in step 8 with the original random key, but finite after a recovery."""

    def __call__(self, net, batch, rng):
        loss = FlowMatching()(net, batch, rng)
        bad = rng.path[-2] == 7 and "retreat" not in rng.path
        return Loss(loss.value / (0 if bad else 1), loss.terms, loss.per_sample, loss.t)


def test_a_diverged_run_recovers_with_half_the_learning_rate(tmp_path):
    with pytest.raises(Diverged, match="step 8 has loss inf"):
        run(settings(), DivergesOnce(), checkpoint_dir=tmp_path / "stops")
    assert checkpoint.number(checkpoint.newest(tmp_path / "stops")) == 5
    entries = run(settings(max_recoveries=1), DivergesOnce(), checkpoint_dir=tmp_path / "recovers")
    assert "returned to step 5, the learning rate is now 0.5 times its schedule" in notes(entries)
    seen = [(e["step"], e["lr"]) for e in entries if "lr" in e]
    assert seen == [(n, 1e-2) for n in range(1, 8)] + [(n, 5e-3) for n in range(6, 21)]
    with pytest.raises(Diverged):  # no checkpoint to return to
        run(settings(max_recoveries=1), DivergesOnce())


def test_a_run_resumed_after_a_recovery_is_exact(tmp_path):
    run(settings(max_recoveries=1), DivergesOnce(), checkpoint_dir=tmp_path / "a")
    run(settings(max_recoveries=1, steps=10), DivergesOnce(), checkpoint_dir=tmp_path / "b")
    run(settings(max_recoveries=1), DivergesOnce(), checkpoint_dir=tmp_path / "b", resume=tmp_path / "b")
    assert_same(last(tmp_path / "a"), last(tmp_path / "b"))


def test_a_non_finite_average_is_never_saved(tmp_path):
    from beeline.training.checks import check_state
    from beeline.training.distributed.parallel import SingleDevice
    from beeline.training.optim.ema import Average

    net = Field()
    average = Average(net, EMA(1.0))
    average.tensors[1][2] = math.nan
    with pytest.raises(Diverged, match=r"the average of network.layers.0.bias \(1 of 16 values\)"):
        check_state(7, {"network": net}, {"network": [average]}, SingleDevice())


# disks


def test_a_failed_write_leaves_the_earlier_checkpoints(tmp_path):
    run(settings(steps=5), checkpoint_dir=tmp_path)
    before = last(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(BeelineError, match="could not be written to .*the earlier checkpoints are intact"):
            run(settings(steps=10), checkpoint_dir=tmp_path, resume=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]
    assert_same(before, last(tmp_path))
    run(settings(steps=10), checkpoint_dir=tmp_path, resume=tmp_path)  # with enough space the run continues


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True
        ).returncode
    ):
        pytest.skip("no permission to mount a small file system")
    try:
        with pytest.raises(BeelineError, match="No space left"):
            run(settings(steps=200, checkpoint_every=1, checkpoint_keep=50), checkpoint_dir=disk)
        found = checkpoint.newest(disk)
        assert checkpoint.flaw(found) is None and checkpoint.number(found) >= 1
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_second_signal_stops_at_once():
    def log(entry):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(settings(), log=log)
    assert signal.getsignal(signal.SIGINT) is before
