"""Parallel training: one process, DDP and FSDP2 give the same losses; lost ranks are named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.engine

sys.path.insert(0, os.path.dirname(__file__))
import workers  # noqa: E402

from beeline.core.errors import BeelineError  # noqa: E402
from beeline.core.rng import Rng  # noqa: E402
from beeline.training import checkpoint  # noqa: E402
from beeline.training.distributed import parallel  # noqa: E402
from beeline.training.distributed.parallel import DDP, FSDP, SingleDevice  # noqa: E402


def launch(out, *scenarios, timeout=20):
    """Run scenarios, such as "equal:2" for two processes; a lost rank is noticed after ``timeout`` seconds."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(here / "workers.py"), str(out), *scenarios],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "LOST_RANK_TIMEOUT": str(timeout)},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run on one process, on two with DDP and FSDP, and on four with FSDP; and two runs with a lost rank."""
    out = tmp_path_factory.mktemp("parallel")
    found = {
        f"single {o}": workers.curve(SingleDevice(), o, checkpoint_dir=out / "single" if o == "flow" else None)
        for o in workers.OBJECTIVES
    }
    done = launch(out, "equal:2", "equal:4", "die:2", "hang:2")
    for how in ("die", "hang"):  # on a busy machine the processes may not start within the short timeout
        for timeout in (30, 60):
            if not (out / f"{how}-2.json").exists():
                done = launch(out, f"{how}:2", timeout=timeout)
    for world in (2, 4):
        assert (out / f"equal-{world}.json").exists(), done.stderr
        more = json.loads((out / f"equal-{world}.json").read_text())
        found |= {f"{name} {world}": value for name, value in more.items()}
    return out, found


@pytest.mark.parametrize(
    "engine",
    [*(f"{engine} {o} 2" for engine in ("ddp", "fsdp") for o in workers.OBJECTIVES), "fsdp flow 4"],
)
def test_the_loss_is_the_same_with_every_engine(runs, engine):
    out, found = runs
    one, many = found[f"single {engine.split()[1]}"], found[engine]
    for what in ("loss", "grad_norm", "update_norm", "weights"):
        a, b = torch.tensor(one[what]), torch.tensor(many[what])
        assert a.shape == b.shape and len(a) > 0
        assert (a - b).abs().max() <= 1e-5, what
    assert abs(one["loss"][0] - one["loss"][-1]) > 0.1  # the loss decreases


def test_a_teacher_is_sharded_where_networks_are(runs):
    found = {engine: runs[1][f"{engine}through{world}"]["sharded"] for engine, world in ENGINES}
    assert found == {"single ": [False], "ddp ": [False], "fsdp ": [True]}


ENGINES = (("single ", ""), ("ddp ", " 2"), ("fsdp ", " 2"))


@pytest.mark.parametrize("what", ["used", "bf16", "mixed"])
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_other_networks_and_precisions_have_the_losses_of_one_process(runs, engine, what):
    one = workers.curve(
        SingleDevice(), workers.OF.get(what, "flow"), **{k: make() for k, make in workers.SPECIAL[what].items()}
    )
    many = runs[1][f"{engine} {what} 2"]
    bound = 1e-5 if what == "used" else 2e-2  # gains of norms are rounded with the blocks
    assert max(abs(a - b) for a, b in zip(one["loss"], many["loss"], strict=True)) <= bound
    if engine == "ddp":  # unused parameters are searched for where there are some
        assert many["search"] == [what != "used"]


@pytest.mark.parametrize("game", ["game", "rollout"])
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_the_players_of_a_score_game_are_the_same_with_every_engine(runs, engine, game):
    one = workers.curve(SingleDevice(), game, **{k: make() for k, make in workers.SPECIAL[game].items()})
    many = runs[1][f"{engine} {game} 2"]
    for what in ("loss", "grad_norm", "weights"):
        a, b = torch.tensor(one[what]), torch.tensor(many[what])
        assert a.shape == b.shape and (a - b).abs().max() <= 1e-5, what


def test_a_network_on_the_meta_device_gets_the_values_of_rank_zero(runs):
    assert runs[1]["fsdp meta 2"] == runs[1]["fsdp whole 2"]


@pytest.mark.parametrize("engine", ["ddp resumed 2", "fsdp resumed 2"])
def test_a_run_of_one_process_is_resumed_by_several(runs, engine):
    out, found = runs
    a, b = torch.tensor(found["single flow"]["loss"][10:]), torch.tensor(found[engine]["loss"])
    assert len(b) == 15 and (a - b).abs().max() <= 1e-5


@pytest.mark.parametrize("engine", ["ddp2", "fsdp2", "fsdp4"])
def test_a_run_of_several_processes_is_resumed_by_one(runs, engine, tmp_path):
    out, found = runs
    path = out / engine / "step-00000010"
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"} and checkpoint.flaw(path) is None
    if "fsdp" in engine:
        assert len(list(path.glob("shard-*.safetensors"))) == int(engine[-1])
    again = workers.curve(SingleDevice(), "flow", resume=path)
    a, b = torch.tensor(found["single flow"]["loss"][10:]), torch.tensor(again["loss"])
    assert len(b) == 15 and (a - b).abs().max() <= 1e-5
    one, many = checkpoint.read(out / "single" / "step-00000010"), checkpoint.read(path)
    assert {g: set(t) for g, t in one.tensors.items()} == {g: set(t) for g, t in many.tensors.items()}
    for group, tensors in one.tensors.items():
        for name, tensor in tensors.items():
            assert (tensor - many.tensors[group][name]).abs().max() <= 1e-5, (group, name)


@pytest.mark.parametrize(("scenario", "why"), [("die", "rank 1 (died"), ("hang", "rank 1 (hangs in step 6")])
def test_a_lost_rank_is_named_by_the_others(runs, scenario, why):
    result = json.loads((runs[0] / f"{scenario}-2.json").read_text())
    assert result["ranks"] == [1] and why in result["message"] and "resume" in result["message"]


def test_engines_without_a_process_group_are_refused(monkeypatch):
    for engine in (DDP(), FSDP()):
        with pytest.raises(BeelineError, match="initialised process group"):
            engine.wrap(workers.network(), torch.device("cpu"))
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(BeelineError, match="torchrun"):
        parallel.init_process_group()


def test_microbatches_that_cannot_be_divided_among_processes_are_refused():
    from beeline.training.config import Training
    from beeline.training.fit import fit

    class Three(SingleDevice):
        world = 3

    with pytest.raises(BeelineError, match="4 microbatches cannot be divided evenly among 3"):
        fit(
            workers.network(),
            workers.FlowMatching(),
            workers.data(),
            Training(microbatches=4),
            parallel=Three(),
            rng=Rng(0),
        )
