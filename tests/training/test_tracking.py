"""Experiment trackers: the same names everywhere, resume, refusals, and failures that do not stop a run."""

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.mlp import MLP
from beeline.objectives.matching import FlowMatching
from beeline.training.callbacks import Previews
from beeline.training.logs.mlflow_runs import MLflow
from beeline.training.logs.tensorboard import TensorBoard
from beeline.training.logs.tracking import IDENTITIES, Tracked
from beeline.training.logs.weights_and_biases import WandB

PICTURE = bytes.fromhex(  # one grey pixel as a PNG
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636800000082008177cd72b60000000049454e44ae426082"
)
ENTRY = {
    "step": 10,
    "loss": 0.5,
    "lr": 1e-3,
    "terms": {"a": 2.0},
    "flag": True,
    "heldout": {"ema": {"value": 0.4, "by_bin": [1.0, 2.0], "error": 0.1}, "best": {"ema": 0.4}},
    "previews": {"ema": "step-00000010-ema.png"},
}
NAMES = {"train/loss", "train/lr", "train/terms/a", "heldout/ema/value", "heldout/ema/error", "heldout/best/ema"}


def record(tracker, folder: Path, *entries, scores=None) -> Tracked:
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "samples" / "step-00000010-ema.png").write_bytes(PICTURE)
    tracked = Tracked(tracker, "digits", folder, {"seed": 0, "training": {"steps": 20}})
    for entry in entries:
        if "loss" in entry:
            tracked.due(entry["step"], 20)
        tracked.record(entry)
    tracked.finish(scores)
    return tracked


def test_tensorboard_gets_scalars_pictures_settings_and_scores(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    note = {"step": 10, "note": "hello"}
    record(TensorBoard(), tmp_path, ENTRY, note, {"step": 11, "loss": 9.0}, scores={"Fréchet distance": 1.5})
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(seen.Tags()["scalars"]) == NAMES | {"score/fréchet-distance"}
    assert [s.value for s in seen.Scalars("train/loss")] == [0.5]  # step 11 is between two entries
    assert seen.Tags()["images"] == ["previews/ema"]
    texts = set(seen.Tags()["tensors"])
    assert {"messages/text_summary", "settings/seed/text_summary"} <= texts


def test_a_resumed_run_hides_the_repeated_entries_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoard(every=1)
    record(tracker, tmp_path, *({"step": n, "loss": 1.0} for n in (1, 2, 3)))
    record(tracker, tmp_path, *({"step": n, "loss": 2.0} for n in (3, 4)))
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(s.step, s.value) for s in seen.Scalars("train/loss")] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    record(WandB("digits", "team"), tmp_path, ENTRY, scores={"x": 1.0})
    first = json.loads((tmp_path / IDENTITIES).read_text())["WandB"]
    assert [p for p in tmp_path.glob(f"wandb/offline-run-*-{first}/run-{first}.wandb")]
    record(WandB("digits", "team"), tmp_path, {**ENTRY, "step": 20})
    assert json.loads((tmp_path / IDENTITIES).read_text())["WandB"] == first  # the same run of the service
    record(WandB("digits", "team"), tmp_path, {**ENTRY, "step": 1})
    assert json.loads((tmp_path / IDENTITIES).read_text())["WandB"] != first  # a new run


def test_weights_and_biases_without_login_is_refused_before_the_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    with pytest.raises(BeelineError, match="not logged in .*; run 'wandb login' .* WANDB_MODE=offline"):
        Tracked(WandB(), "a", tmp_path)


def test_mlflow_in_a_folder(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    record(MLflow(uri, "trial"), tmp_path, ENTRY, {"step": 10, "note": "hello"}, scores={"Fréchet distance": 1.5})
    record(MLflow(uri, "trial"), tmp_path, {**ENTRY, "step": 20})
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("trial").experiment_id])
    assert set(run.data.metrics) == NAMES | {"score/fréchet-distance"}
    assert run.data.params == {"seed": "0", "training.steps": "20"} and run.data.tags["message.10"] == "hello"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [10, 20]
    assert client.list_artifacts(run.info.run_id, "previews/ema") and run.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("module", "tracker"), [("tensorboard", TensorBoard()), ("wandb", WandB()), ("mlflow", MLflow())]
)
def test_a_missing_tracker_names_its_extra(module, tracker, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BeelineError, match=r"pip install 'beeline\[trackers\]'"):
        Tracked(tracker, "a", tmp_path)


class Recorded:
    """A tracker that holds what it gets."""

    every = 1

    def __init__(self, fails: int = 10**9, opens: bool = True):
        self.calls, self.fails, self.opens = [], fails, opens
        self.identity = None

    def check(self):
        return None

    def open(self, run):
        if not self.opens:
            raise RuntimeError("no such project")
        return self

    def scalars(self, values, step):
        if step >= self.fails:
            raise ConnectionError("gone")
        self.calls.append((step, values))

    def preview(self, name, file, step):
        self.calls.append((step, name, file.name))

    def text(self, text, step):
        self.calls.append((step, text))

    def scores(self, values):
        self.calls.append(values)

    def close(self):
        self.calls.append("closed")


def trained(tmp_path, tracker):
    with Rng(0).ambient():
        net = bl.Network(MLP(2, width=8, depth=1))
    tracked = Tracked(tracker, "a", tmp_path)
    previews = Previews(lambda net: PICTURE, tmp_path / "samples", every=2)
    training = bl.Training(steps=4, batch_size=4)
    bl.fit(net, FlowMatching(), torch.ones(8, 2), training, log=lambda entry: None, callbacks=[previews, tracked])
    tracked.finish({"x": 1.0})
    return tracker.calls


def test_fit_sends_the_log_and_the_previews(tmp_path):
    calls = trained(tmp_path, Recorded())
    steps = [c[0] for c in calls if isinstance(c, tuple) and isinstance(c[1], dict)]
    assert steps == [1, 2, 3, 4] and calls[-2:] == [{"score/x": 1.0}, "closed"]
    assert (4, "previews/ema", "step-00000004-ema.png") in calls


def test_a_tracker_that_fails_is_one_warning(tmp_path):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        calls = trained(tmp_path, Recorded(fails=2))
    texts = [str(w.message) for w in found if "Recorded failed" in str(w.message)]
    assert texts == ["Recorded failed (ConnectionError: gone); training continues without it"]
    assert [c[0] for c in calls if isinstance(c, tuple)] == [1]


def test_a_tracker_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(BeelineError, match="could not be opened .*no such project.*check its settings"):
        trained(tmp_path, Recorded(opens=False))
