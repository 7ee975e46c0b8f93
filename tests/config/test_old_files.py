"""Files that the first version wrote: bundles, recipes and checkpoints still load."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import beeline as bl
from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE, member, settings
from beeline.config.settings import component
from beeline.config.translation import read_description
from beeline.core.errors import BeelineError
from beeline.core.files import write_json
from beeline.core.old_names import FORMAT, GROUPS, translate
from beeline.core.rng import Rng
from beeline.runs.run import Run, to_yaml, train
from beeline.training import checkpoint

OLD = Path(__file__).parent / "first_version"
NAMES = sorted(p.name for p in OLD.iterdir() if p.is_dir())
COMPONENTS = json.loads((OLD / "catalogue.json").read_text())


def points(step: int, other: int) -> str:
    rows = "".join(f"{(i * step % 64) / 32 - 1},{(i * other % 64) / 32 - 1}\n" for i in range(64))
    return f"x,y\n{rows}"


def old_bundle(name: str, out: Path) -> Path:
    """A bundle of the first version: its flow.json as stored, and its weights, written by the same rule as then."""
    out.mkdir()
    shutil.copy(OLD / name / "flow.json", out)
    with Rng(0).ambient():
        net = component(translate(json.loads((out / "flow.json").read_text()))["field"], ("networks",), "field")
    tensors = {}
    for i, (key, tensor) in enumerate(sorted(net.state_dict().items())):
        values = ((torch.arange(tensor.numel()) * 37 + i * 11) % 17 - 8) / 64
        tensors[key] = values.reshape(tensor.shape).to(tensor.dtype)
    save_file(tensors, out / "model.safetensors")
    return out


def plain(samples: Any) -> Any:
    """Samples as stored: columns of a table, rows of points, or texts."""
    if hasattr(samples, "to_dict"):
        return samples.to_dict("list")
    samples = getattr(samples, "values", samples)
    return samples if isinstance(samples, list) else torch.as_tensor(samples).tolist()


@pytest.mark.parametrize("full", sorted(COMPONENTS))
def test_every_component_and_setting_of_the_first_version_has_a_name_of_today(full: str) -> None:
    new = translate({"is": full} | dict.fromkeys(COMPONENTS[full], 1))
    kind, _, name = new.pop("is").partition(".")
    assert name in CATALOGUE[kind]
    if COMPONENTS[full]:
        assert set(new) <= set(settings(member(f"{kind}.{name}")))


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_gives_the_same_samples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source.csv").write_text(points(13, 29))  # the source of the bundle "transfer"
    bundle = bl.load(old_bundle(name, tmp_path / "bundle"), device="cpu")
    found = plain(bundle.sample(3, seed=1, cond={"label": 1} if name == "points" else None))
    wanted = json.loads((OLD / name / "samples.json").read_text())
    if isinstance(wanted, list) and isinstance(wanted[0], list):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-4, atol=1e-5)
    else:
        assert found == wanted
    again = bl.load(bundle.save(tmp_path / "again"), device="cpu")
    assert json.loads((tmp_path / "again" / "flow.json").read_text())["format"] == FORMAT
    assert config.describe(again.sampler) == config.describe(bundle.sampler)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads(name: str) -> None:
    old = yaml.safe_load((OLD / name / "run.yaml").read_text())["training"]
    run = config.build(read_description(OLD / name / "run.yaml"))
    assert isinstance(run, Run)
    assert run.training.batch_size == old["lots"] * old["lot"] and run.training.microbatches == old["lots"]
    assert run.training.lr_schedule.peak == old["rate"]["peak"]
    assert config.build(translate(config.describe(run))) == run  # names of today stay as they are


def test_a_run_resumes_from_a_checkpoint(tmp_path: Path) -> None:
    run = config.build(read_description(OLD / "points" / "run.yaml"))
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(run, whole, device="cpu")
    shutil.copytree(whole, out)
    shutil.rmtree(out / "bundle")
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    shutil.copy(OLD / "points" / "run.yaml", out)
    as_written_then(out / "checkpoints" / "step-00000003")
    train(run, out, resume=True, device="cpu")
    new, old = (checkpoint.read(d / "checkpoints" / "step-00000006") for d in (whole, out))
    for group, tensors in new.tensors.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, old.tensors[group][key]), f"{group} {key}"


def as_written_then(path: Path) -> None:
    """Give a checkpoint the names and the state of the first version."""
    for new in [f for f in path.glob("*.safetensors") if f.stem.endswith(tuple(GROUPS.values()))]:
        tensors = {k.replace(".optimizer/", ".optimiser/"): v for k, v in load_file(new).items()}
        save_file(tensors, path / new.name.replace(".optimizer.", ".optimiser."))
        new.unlink()
    state = json.loads((OLD / "points" / "state.json").read_text())
    state["settings"]["data"] = json.loads((path / "state.json").read_text())["settings"]["data"]  # of this machine
    (path / "state.json").write_text(json.dumps(state))
    manifest = json.loads((path / "manifest.json").read_text())
    files = [f for f in path.iterdir() if f.name != "manifest.json"]
    manifest["sha256"] = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    (path / "manifest.json").write_text(json.dumps(manifest))


NEWER = f"has format {FORMAT + 1}, but this version of Beeline reads 1 to {FORMAT}; update Beeline"


def test_a_newer_bundle_is_refused(tmp_path: Path) -> None:
    bundle = old_bundle("points", tmp_path / "bundle")
    write_json(bundle / "flow.json", json.loads((bundle / "flow.json").read_text()) | {"format": FORMAT + 1})
    with pytest.raises(BeelineError, match=NEWER):
        bl.load(bundle)


def test_a_newer_recipe_is_refused(tmp_path: Path) -> None:
    text = to_yaml(config.build(read_description(OLD / "points" / "run.yaml")))
    assert yaml.safe_load(text)["format"] == FORMAT
    (tmp_path / "run.yaml").write_text(text.replace(f"format: {FORMAT}", f"format: {FORMAT + 1}"))
    with pytest.raises(BeelineError, match=NEWER):
        read_description(tmp_path / "run.yaml")


def test_a_newer_checkpoint_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "state.json", {"format": FORMAT + 1})
    with pytest.raises(BeelineError, match=NEWER):
        checkpoint.state(tmp_path)


@pytest.mark.parametrize("bad", [None, True, 0, "2", [3]])
def test_a_damaged_format_is_refused(bad: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "recipe.yaml", {"format": bad})
    with pytest.raises(BeelineError, match="has format .*restore the file from a copy"):
        read_description(tmp_path / "recipe.yaml")


def test_the_schema_of_a_table_may_use_the_words_of_the_first_version() -> None:
    from beeline.data.tables.schema import Schema

    assert Schema.parse("when: {kind: moment, marker: '?'}") == Schema.parse("when: {kind: datetime, na_token: '?'}")
