"""The directory of a run: one process at a time, nothing written before it can work, damaged logs, forks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beeline.config import build as config
from beeline.core import files
from beeline.core.errors import BeelineError
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.data.point_files import DistributionData
from beeline.runs.averaging import export_averages
from beeline.runs.run import Run, train
from beeline.runs.run_directory import ready
from beeline.training import checkpoint
from beeline.training.config import Training
from beeline.training.distributed import parallel
from beeline.training.logs.run_log import JsonLines, read_log
from beeline.training.optim.learning_rate import Constant


def recipe(**more: object) -> Run:
    data = DistributionData(GaussianMixture(((2.0, 1.0),), 0.3), n=24, kept=8)
    training = Training(steps=4, batch_size=8, lr=Constant(1e-2), checkpoint_every=2)
    return config.change(Run(data, {"is": "networks.MLP", "width": 8, "depth": 1}, training=training),
                         {"sampler.steps": 1, **more})  # fmt: skip


def quiet(entry: dict[str, object]) -> None:
    """A log that says nothing."""


HOLD = """
import sys, time
from pathlib import Path
from beeline.core.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_holds_a_directory_and_its_death_frees_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(recipe(), out, log=quiet)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
        with pytest.raises(BeelineError, match=rf"in use by process {holder.pid} on .*: wait until it ends"):
            train(recipe(**{"training.steps": 6}), out, resume=True, log=quiet)
        assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (out / files.LOCK).exists()  # left by the dead process, which holds it no more
    train(recipe(**{"training.steps": 6}), out, resume=True, log=quiet)
    assert [e["step"] for e in read_log(out / "log.jsonl")] == [1, 2, 3, 4, 5, 6] and not (out / files.LOCK).exists()


def test_a_forked_child_does_not_hold_what_its_parent_held(tmp_path: Path) -> None:
    read, write = os.pipe()
    with files.locked(tmp_path / "a"):
        child = os.fork()
        if child == 0:
            os.read(read, 1)
            os._exit(0)
    with files.locked(tmp_path / "a"):  # the child still lives
        assert (tmp_path / "a").is_dir()
    os.write(write, b"x")
    os.waitpid(child, 0)
    assert not (tmp_path / "a").exists()


def test_a_refusal_writes_nothing_and_the_mended_command_works_there(tmp_path: Path) -> None:
    out = tmp_path / "run"
    wrong = recipe(**{"objective.coupling": "Paired()"})  # the data have no partners: only the loss finds out
    with pytest.raises(BeelineError):
        train(wrong, out, log=quiet)
    assert not out.exists()
    train(recipe(), out, log=quiet)
    recorded = (out / "run.yaml").read_text()
    with pytest.raises(BeelineError, match="has 4 steps already, training.steps is 2"):
        train(recipe(**{"training.steps": 2}), out, resume=True, log=quiet)
    assert (out / "run.yaml").read_text() == recorded


def test_a_run_without_a_checkpoint_starts_anew_with_any_settings(tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def log(entry: dict[str, object]) -> None:
        if "loss" in entry:
            raise StoppedError

    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(recipe(), out, log=log)
    assert (out / "run.yaml").is_file() and not checkpoint.steps(out / "checkpoints")
    (out / ".run.yaml.x.part").write_text("half")
    other = recipe(**{"training.batch_size": 4})
    ready(out, other, resume=False)
    train(other, out, log=quiet)
    assert "batch_size: 4" in (out / "run.yaml").read_text() and not list(out.rglob("*.part"))
    with pytest.raises(BeelineError, match="already holds a run"):
        train(other, out, log=quiet)
    (tmp_path / "mine" / "samples").mkdir(parents=True)
    with pytest.raises(BeelineError, match="exists and is not a run"):  # a folder of the user
        train(other, tmp_path / "mine", log=quiet)


def test_a_damaged_log_is_read_without_its_damaged_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    good = [json.dumps({"step": n, "loss": 0.5}) for n in range(1, 6)]
    lines = [*good[:2], "[1, 2]", "3", '{"step": "x", "loss": 1}', "{", *good[2:]]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    assert [e["step"] for e in read_log(path)] == [1, 2, 3, 4, 5]
    log = JsonLines(path)
    log({"step": 5, "loss": 0.25})
    found = read_log(path)
    assert [e["step"] for e in found] == [1, 2, 3, 4, 5] and found[-1]["loss"] == 0.25
    assert found[-1]["notes"] == ["5 damaged lines of log.jsonl were removed"]


def test_a_run_without_an_average_has_none_to_export(tmp_path: Path) -> None:
    train(recipe(**{"training.ema": "none", "training.snapshot_every": 0}), tmp_path / "run", log=quiet)
    assert export_averages(tmp_path / "run") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"training.optimizer": "Muon()"},
        {"training.optimizer.weight_decay": 0.1},
        {"training.data_pruning": "DataPruning()"},
        {"training.data_pruning": "DataPruning()", "training.batch_size": 4},
        {"training.ema": "EMA(7)"},
        {"training.ema": "none", "training.snapshot_every": 0},
    ],
)
def test_forks_with_other_parts_start_those_anew(tmp_path: Path, changes: dict[str, object]) -> None:
    base = {"training.data_pruning": "DataPruning()"} if "training.batch_size" in changes else {}
    train(recipe(**base), tmp_path / "a", log=quiet)
    run = recipe(**{**base, **changes, "training.steps": 8})
    train(run, tmp_path / "b", fork=tmp_path / "a" / "checkpoints", log=quiet)
    entries = read_log(tmp_path / "b" / "log.jsonl")
    assert [e["step"] for e in entries] == [5, 6, 7, 8]
    said = " ".join(entries[0]["notes"])
    assert ("starts without state" in said) == any("optimizer" in name for name in changes)
    assert checkpoint.number(checkpoint.newest(tmp_path / "b" / "checkpoints")) == 8


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("WORLD_SIZE", "-1"), ("LOCAL_RANK", "1.5"), ("RANK", "2")])
def test_an_environment_that_torchrun_does_not_make_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for known in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(known, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(BeelineError, match=f"{name}=.*torchrun"):
        parallel.init_process_group()
