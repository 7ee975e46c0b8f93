"""Faults and changes of plan: full disks, bad data, divergence, longer runs, forks, cooldowns from a checkpoint."""

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


def plan(**more):
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


def test_more_steps_are_exact_from_where_the_cooldown_began(tmp_path):
    lr = WarmupConstantCooldown(1e-2, warmup=3, cooldown=0.3)
    run(plan(steps=40, lr=lr), checkpoint_dir=tmp_path / "once")
    run(plan(steps=20, lr=lr, checkpoint_every=17, checkpoint_keep=1), checkpoint_dir=tmp_path / "longer")
    stayed = [checkpoint.number(p) for p in checkpoint.steps(tmp_path / "longer")]
    assert stayed == [20, 14]  # the cooldown began after step 14, so that checkpoint stays
    entries = run(
        plan(steps=40, lr=lr, checkpoint_every=17), checkpoint_dir=tmp_path / "longer", resume=tmp_path / "longer"
    )
    assert entries[1]["step"] == 15
    assert_same(last(tmp_path / "once"), last(tmp_path / "longer"))


def test_more_steps_under_a_rate_that_knew_the_end_are_said_to_be_another_run(tmp_path):
    lr = WarmupCosine(1e-2, warmup=3)
    run(plan(lr=lr), checkpoint_dir=tmp_path)
    entries = run(plan(steps=30, lr=lr), checkpoint_dir=tmp_path, resume=tmp_path)
    assert "is not the one made at once" in notes(entries) and entries[-1]["step"] == 30


def test_a_fork_takes_the_state_and_other_settings(tmp_path):
    run(plan(), checkpoint_dir=tmp_path / "a")
    with pytest.raises(BeelineError, match=r"training.lr.peak: 0.01 -> 0.001.*fork"):
        run(plan(steps=25, lr=Constant(1e-3)), resume=tmp_path / "a")
    changed = plan(steps=25, lr=Constant(1e-3))
    entries = run(changed, checkpoint_dir=tmp_path / "b", resume=tmp_path / "a", fork=True)
    assert "forked from" in notes(entries) and "training.lr.peak: 0.01 -> 0.001" in notes(entries)
    assert entries[1]["step"] == 21 and entries[1]["lr"] == 1e-3
    assert checkpoint.number(checkpoint.steps(tmp_path / "a")[0]) == 20  # the first run is as it was


def test_a_cooldown_from_a_checkpoint_is_the_run_that_cooled_there(tmp_path):
    lr = WarmupConstantCooldown(1e-2, warmup=3, cooldown=0.2)
    run(plan(steps=40, lr=lr, checkpoint_keep=9), checkpoint_dir=tmp_path / "long")
    short = plan(steps=20, lr=WarmupConstantCooldown(1e-2, warmup=3, cooldown=0.25))
    run(short, checkpoint_dir=tmp_path / "short")
    training = branched(plan(steps=40, lr=lr), start=15, length=5)
    run(training, checkpoint_dir=tmp_path / "branch", resume=tmp_path / "long" / "step-00000015", fork=True)
    assert_same(last(tmp_path / "short"), last(tmp_path / "branch"))
    with pytest.raises(BeelineError, match="cooldown of 0 steps"):
        branched(plan(), 5, 0)
    with pytest.raises(BeelineError, match="start=-1"):
        Cooldown(Constant(), -1)


# bad numbers


def test_one_bad_datum_is_named(tmp_path):
    data = DATA.clone()
    data[23, 1] = math.nan
    with pytest.raises(Diverged, match=r"x1 of datum 23 is not finite, so the data are to blame") as caught:
        run(plan(), data=data, checkpoint_dir=tmp_path)
    assert 1 <= caught.value.step <= 5
    cond = torch.zeros(40, 1)
    cond[7] = math.inf

    class Told(Field):
        def forward(self, x, t, cond=None):
            return super().forward(x, t) + 0 * cond["speed"]

    with pytest.raises(Diverged, match=r"cond.speed of datum 7 is not finite"):
        data = Batch(DATA, cond={"speed": cond})
        fit(Told(), FlowMatching(), data, plan(), rng=Rng(4), log=lambda e: None)


class Unlucky:
    """A loss that becomes infinite in step 8 under one draw of random numbers, and not under another."""

    def __call__(self, net, batch, rng):
        loss = FlowMatching()(net, batch, rng)
        bad = rng.path[-2] == 7 and "retreat" not in rng.path
        return Loss(loss.value / (0 if bad else 1), loss.terms, loss.per_sample, loss.t)


def test_a_run_that_diverges_goes_back_with_half_the_rate(tmp_path):
    with pytest.raises(Diverged, match="step 8 has loss inf"):
        run(plan(), Unlucky(), checkpoint_dir=tmp_path / "stops")
    assert checkpoint.number(checkpoint.newest(tmp_path / "stops")) == 5
    entries = run(plan(max_recoveries=1), Unlucky(), checkpoint_dir=tmp_path / "goes")
    assert "went back to step 5, the lr is now 0.5 of its plan" in notes(entries)
    seen = [(e["step"], e["lr"]) for e in entries if "lr" in e]
    assert seen == [(n, 1e-2) for n in range(1, 8)] + [(n, 5e-3) for n in range(6, 21)]
    with pytest.raises(Diverged):  # nowhere to go back to
        run(plan(max_recoveries=1), Unlucky())


def test_after_a_retreat_a_resumed_run_is_still_exact(tmp_path):
    run(plan(max_recoveries=1), Unlucky(), checkpoint_dir=tmp_path / "a")
    run(plan(max_recoveries=1, steps=10), Unlucky(), checkpoint_dir=tmp_path / "b")
    run(plan(max_recoveries=1), Unlucky(), checkpoint_dir=tmp_path / "b", resume=tmp_path / "b")
    assert_same(last(tmp_path / "a"), last(tmp_path / "b"))


def test_a_spoilt_average_is_never_kept(tmp_path):
    from beeline.training.checks import check_state
    from beeline.training.distributed.parallel import SingleDevice
    from beeline.training.optim.ema import Average

    net = Field()
    average = Average(net, EMA(1.0))
    average.tensors[1][2] = math.nan
    with pytest.raises(Diverged, match=r"the average of network.layers.0.bias \(1 of 16 values\)"):
        check_state(7, {"network": net}, {"network": [average]}, SingleDevice())


# disks


def test_a_file_that_cannot_be_written_leaves_the_earlier_ones(tmp_path):
    run(plan(steps=5), checkpoint_dir=tmp_path)
    before = last(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(BeelineError, match="could not be written to .*the earlier checkpoints are whole"):
            run(plan(steps=10), checkpoint_dir=tmp_path, resume=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]
    assert_same(before, last(tmp_path))
    run(plan(steps=10), checkpoint_dir=tmp_path, resume=tmp_path)  # with room again it goes on


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True
        ).returncode
    ):
        pytest.skip("no right to mount a small file system")
    try:
        with pytest.raises(BeelineError, match="No space left"):
            run(plan(steps=200, checkpoint_every=1, checkpoint_keep=50), checkpoint_dir=disk)
        found = checkpoint.newest(disk)
        assert checkpoint.flaw(found) is None and checkpoint.number(found) >= 1
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_the_second_request_stops_at_once():
    def log(entry):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(plan(), log=log)
    assert signal.getsignal(signal.SIGINT) is before
