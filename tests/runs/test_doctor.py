"""The doctor, averages as bundles, forks and plans: what the engine offers for a whole run."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from beeline.cli import planning as engine
from beeline.core.errors import BeelineError
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.data.point_files import DistributionData
from beeline.paths.affine import Cosine
from beeline.runs.averaging import export_averages, network_of, synthesised, with_weights
from beeline.runs.bundle import load
from beeline.runs.live.tracking import trackers
from beeline.runs.run import Run, train
from beeline.runs.verify import examine, report
from beeline.runs.weak_bundle import WeakBundle
from beeline.sampling.guidance.guide import Extrapolate, Guide, Weak
from beeline.sampling.sampler import Sampler
from beeline.training import checkpoint
from beeline.training.config import Training
from beeline.training.distributed.parallel import SingleDevice
from beeline.training.early_stopping import EarlyStopping
from beeline.training.logs.run_log import read_log
from beeline.training.optim.ema import EMA, PowerEMA
from beeline.training.optim.learning_rate import WarmupConstantCooldown


def recipe(**more: object) -> Run:
    training = Training(
        steps=120,
        batch_size=64,
        lr=WarmupConstantCooldown(5e-3, 5, 0.25),
        ema=(PowerEMA(0.1), PowerEMA(0.05), EMA(20.0)),
        checkpoint_every=40,
        snapshot_every=20,
        early_stopping=EarlyStopping(50, every=40),  # never over here
    )
    data = DistributionData(GaussianMixture(((2.0, 1.0),), 0.3), n=300, kept=64)
    return Run(data, {"is": "networks.MLP", "width": 32, "depth": 2}, training=dataclasses.replace(training, **more))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("doctor") / "run"
    train(recipe(), where)
    return where


def test_a_healthy_run_is_found_healthy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(examine(run, trial=False), False)
    said = capsys.readouterr().out
    assert "step-00000120: every file has the hash" in said and "tensors of step-00000120 are finite" in said
    assert "names match" in said and "convention: held-out loss as recorded" in said and "BAD" not in said
    assert report(examine(run, trial=False), True) and json.loads(capsys.readouterr().out)[0]["good"]


@pytest.mark.engine
def test_exact_resume_is_proved_on_the_run_itself(run: Path) -> None:
    last = list(examine(run))[-1]
    assert last.good and "SIGKILL in step 5" in last.text and "bit for bit" in last.text


def test_what_is_wrong_is_named(run: Path, tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    shutil.copytree(run, sick)
    file = sick / "checkpoints" / "step-00000120" / "network.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    bundle = load(sick)
    turned = dict(bundle.flow.field.named_parameters())
    turned |= {k: -turned[k] for k in list(turned)[-2:]}  # the last layer
    with_weights(bundle, turned, {}).save(sick / "bundle")
    found = {f.what: f for f in examine(sick, trial=False)}
    assert not found["step-00000120"].good and "network.safetensors is damaged" in found["step-00000120"].text
    assert found["step-00000080"].good
    assert not found["convention"].good and "best with the other sign" in found["convention"].text
    with pytest.raises(BeelineError, match="is not a run"):
        list(examine(tmp_path))


def test_every_kept_average_becomes_a_bundle(run: Path) -> None:
    written = export_averages(run)
    assert [p.name for p in written] == ["1-powerema", "2-ema"] and network_of(run) == "network"
    first, other = (torch.cat([p.flatten() for p in load(p).flow.field.parameters()]) for p in (run, written[0]))
    assert not torch.equal(first, other) and (first - other).norm() < 0.2 * first.norm()
    assert load(written[1]).lineage["average"]["is"] == "EMA"


def test_an_average_of_a_run_guides_it_by_name(run: Path, tmp_path: Path) -> None:
    weak, bundle = export_averages(run)[0], load(run, device="cpu")
    named = Sampler(4, guidance=Guide(WeakBundle(str(weak)), Extrapolate(3.0)))
    given = Sampler(4, guidance=Guide(Weak(load(weak, device="cpu").flow.field), Extrapolate(3.0)))
    x0 = bundle.start(range(8))
    wanted = bundle.draw(x0, sampler=given)
    assert torch.equal(bundle.draw(x0, sampler=named), wanted)
    assert not torch.equal(bundle.draw(x0, sampler=Sampler(4)), wanted)
    of_run = dataclasses.replace(named.guidance, reference=WeakBundle(str(run), average=weak.name))
    assert torch.equal(bundle.draw(x0, sampler=dataclasses.replace(named, guidance=of_run)), wanted)
    missing = Guide(WeakBundle(str(run), average="3-ema"), Extrapolate(3.0))
    with pytest.raises(BeelineError, match=r"average='3-ema'.* stored are 1-powerema, 2-ema.*: name a stored one"):
        Sampler(4, guidance=missing)(bundle.flow, x0)
    dataclasses.replace(bundle, sampler=named).save(tmp_path / "guided")  # the name is stored, and found again
    assert torch.equal(load(tmp_path / "guided", device="cpu").draw(x0), wanted)
    with pytest.raises(BeelineError, match=r"goes along Linear\(\) .* along Cosine\(\)"):
        named(dataclasses.replace(bundle.flow, path=Cosine()), x0)


def test_an_average_of_another_length_is_made_afterwards(run: Path, tmp_path: Path) -> None:
    where, found = synthesised(run, 0.1, out=tmp_path / "made")
    kept, made = (list(load(p).flow.field.parameters()) for p in (run, where))
    # length 0.1 was kept from the start, so it comes back
    assert found.mismatch < 1e-3 and all(torch.allclose(a, b, atol=1e-4) for a, b in zip(kept, made, strict=True))
    with pytest.raises(BeelineError, match="has no checkpoints"):
        synthesised(tmp_path, 0.1)
    with pytest.raises(BeelineError, match="do not fit the network"):
        with_weights(load(run), {}, {})


def test_a_run_leaves_another_one(run: Path, tmp_path: Path) -> None:
    cooled, start = engine.branch(recipe(), str(run), tmp_path / "b", False, 10, 80)
    assert start == run / "checkpoints" / "step-00000080" and cooled.training.steps == 90
    train(cooled, tmp_path / "b", fork=start)
    log = read_log(tmp_path / "b" / "log.jsonl")
    rates = [e["lr"] for e in log if "lr" in e]
    assert len(rates) == 10 and rates[0] == 5e-3 and rates[-1] == pytest.approx(5e-4)
    assert "forked from" in log[0]["notes"][0] and all("loss" in e for e in log)
    assert "predicted_bytes" in log[-1] and checkpoint.number(checkpoint.steps(run / "checkpoints")[0]) == 120
    plain = recipe()
    assert engine.branch(plain, "anything", tmp_path, False, None, None) == (plain, None)
    for call, message in (
        ((False, None, 5), "--at is the checkpoint"),
        ((True, None, 7), "no checkpoint of step 7 .* there are 120"),
        ((True, None, None), "no steps are left"),
    ):
        with pytest.raises(BeelineError, match=message):
            engine.branch(plain, str(run), tmp_path / "c", *call)
    with pytest.raises(BeelineError, match="has none"):
        engine.branch(plain, str(tmp_path), tmp_path / "c", True, None, None)
    with pytest.raises(BeelineError, match="would overwrite the run"):
        engine.branch(plain, str(run), run, True, None, None)


def test_pictures_of_raw_and_averaged_weights_lie_beside_each_other(run: Path) -> None:
    names = {p.name for p in (run / "samples").iterdir()}
    assert {f"step-{n:08d}-{kind}.png" for n in (40, 80, 120) for kind in ("raw", "ema")} <= names


def test_plans_engines_and_trackers_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    engine.plan(recipe(), True)
    found = json.loads(capsys.readouterr().out)
    assert found["peak"] > found["weights"] > 0 and found["seconds"] > 0
    engine.plan(recipe(), False)
    assert "peak memory" in capsys.readouterr().out
    with engine.processes(None) as one:
        assert one == SingleDevice()
    with pytest.raises(BeelineError, match="valid names: ddp, fsdp"), engine.processes("shard"):
        pass
    run = recipe()
    assert trackers([], tmp_path, run) == []
    with pytest.raises(BeelineError, match="did you mean 'wandb'"):
        trackers(["wand"], tmp_path, run)
