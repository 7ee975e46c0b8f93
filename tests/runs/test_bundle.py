"""A flow on disk: the same samples from what is read back, and clear words for what is damaged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.data.points import Points, PointSet
from beeline.networks.mlp import MLP
from beeline.runs import manifest
from beeline.runs.bundle import Bundle, load


@pytest.fixture
def bundle() -> Bundle:
    raw = PointSet(np.random.default_rng(0).normal(2.0, 3.0, (50, 2)), labels=np.arange(50) % 3)
    modality = Points().fit(raw)
    with bl.Rng(0).ambient():
        net = bl.Network(MLP(2, width=16, depth=2, conditions={"label": {"classes": 3}})).eval()
        for p in net.parameters():  # not the zero field of a fresh network
            p.data += 0.1 * torch.randn_like(p)
    return Bundle(bl.Flow(net), bl.Sampler(3), modality, {"seed": 0}, null=3)


def test_reading_back_gives_the_same_samples(bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "b")
    again = load(tmp_path / "b")
    assert np.array_equal(bundle.sample(7, cond=1).values, again.sample(7, cond=1).values)
    assert again.sampler == bundle.sampler and again.lineage == {"seed": 0} and again.null == 3
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"flow.json", "model.safetensors"}


def test_a_run_directory_is_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "run" / "bundle")
    assert load(tmp_path / "run").weights == load(tmp_path / "run" / "bundle").weights != ""


def test_a_seed_is_a_sample_in_any_batch(bundle: Bundle) -> None:
    many = bundle.sample(9, cond={"label": 2}, seeds=[5, 1, 7, 3, 2, 8, 6, 0, 4]).values
    for batch_size in (1, 4):
        assert np.allclose(
            bundle.sample(2, cond=2, seeds=[7, 0], batch_size=batch_size).values, many[[2, 7]], atol=1e-5
        )
    assert not np.allclose(bundle.sample(1, cond=2, seeds=[7], seed=1).values, many[2])


def test_without_a_condition_the_null_one_is_used(bundle: Bundle) -> None:
    x0 = bundle.start(range(4))
    net = bundle.flow.field
    null = {"label": torch.full((4,), 3)}
    assert torch.equal(bundle.draw(x0, bundle.condition(None, 4)), bl.Sampler(3)(bl.Flow(net), x0, null))


def test_refusals(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n=0 samples"):
        bundle.sample(0)
    with pytest.raises(ValueError, match="2 seeds were given for 3"):
        bundle.sample(3, seeds=[1, 2])
    with pytest.raises(ValueError, match="holds no bundle"):
        load(tmp_path)
    with pytest.raises(ValueError, match="without ever dropping"):
        Bundle(dataclasses.replace(bundle.flow, null=None), bundle.sampler, bundle.modality).sample(2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(ValueError, match="is not a bundle"):
        bundle.save(tmp_path / "full")
    with pytest.raises(ValueError, match="wrap it in a Network"):
        Bundle(bl.Flow(lambda x, t: x)).save(tmp_path / "none")
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_damage_is_named(bundle: Bundle, tmp_path: Path) -> None:
    directory = bundle.save(tmp_path / "b")
    weights, text = directory / "model.safetensors", directory / "flow.json"
    whole, said = weights.read_bytes(), text.read_text()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        load(directory)
    weights.write_bytes(whole[:-4] + bytes(4))
    with pytest.raises(ValueError, match="hash differs"):
        load(directory)
    weights.unlink()
    with pytest.raises(ValueError, match="there is no file"):
        load(directory)
    weights.write_bytes(whole)
    text.write_text(said[: len(said) // 2])
    with pytest.raises(ValueError, match="not whole JSON"):
        load(directory)
    text.write_text(json.dumps({**json.loads(said), "format": 99}))
    with pytest.raises(ValueError, match="has format 99"):
        load(directory)


def edited(directory: Path, signed: bool = True, **changes: object) -> Path:
    """A bundle with entries of its flow.json replaced ("a.b" is an entry inside one), or removed where they are ...."""
    said = json.loads((directory / "flow.json").read_text())
    for name, value in changes.items():
        *way, last = name.split("__")
        inside = said
        for step in way:
            inside = inside[step]
        if value is ...:
            del inside[last]
        else:
            inside[last] = value
    said["content"] = manifest.content(said) if signed else said["content"]
    (directory / "flow.json").write_text(json.dumps(said))
    return directory


def test_weights_of_another_network_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights match the network"):
        load(edited(bundle.save(tmp_path / "b"), field__backbone__width=32))


def test_whatever_is_removed_or_changed_is_seen(bundle: Bundle, tmp_path: Path) -> None:
    """The hash of the content: a removed prediction or solver would draw other samples without a word."""
    for i, changes in enumerate(
        (
            {"field__prediction": ...},
            {"sampler__solver": ...},
            {"modality__mean": [9.0, 9.0]},
            {"null": 2},
            {"sampler__steps": 4},
            {"lineage": {}},
        )
    ):
        with pytest.raises(ValueError, match="content is not what was written"):
            load(edited(bundle.save(tmp_path / str(i)), signed=False, **changes))


def test_bundles_without_a_hash_of_their_content_load(bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "b")
    again = load(edited(tmp_path / "b", format=1))
    said = json.loads((tmp_path / "b" / "flow.json").read_text())
    del said["content"]
    (tmp_path / "b" / "flow.json").write_text(json.dumps(said))
    assert load(tmp_path / "b").sampler == again.sampler == bundle.sampler


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": ...}, "flow.json: weights is missing"),
        ({"sampler": ...}, "flow.json: sampler is missing"),
        ({"field": ...}, "flow.json: field is missing"),
        ({"null": "none"}, "flow.json: null is 'none'"),
        ({"smapler": 3}, "flow.json: flow.json has no setting 'smapler'; did you mean 'sampler'"),
        ({"weights": []}, "flow.json: weights: got"),
        ({"weights__file": "../model.safetensors"}, "weights lie beside flow.json"),
        ({"weights__file": "/etc/passwd"}, "weights lie beside flow.json"),
        ({"weights__file": 3}, "flow.json: weights.file: got 3"),
        ({"weights__bytes": "many"}, "flow.json: weights.bytes: got 'many'"),
        ({"weights__sha256": "0"}, "no hash of 64"),
        ({"field": {"backbone": 3}}, "flow.json: field: it names no network"),
        ({"field": {"is": "paths.Linear"}}, "flow.json: field: 'paths.Linear' is one of the paths"),
        ({"field__backbone": 3}, "flow.json: field.backbone: got 3"),
        ({"field__backbone__depth": 10**9}, "flow.json: .*more weights than the file holds"),
        ({"field__backbone__width": 2**40}, "flow.json: .*"),
        ({"field__backbone__depth": 1e308}, "flow.json: field.backbone.depth: got a whole number of about 1024 bits"),
        ({"field__backbone__shape": [3]}, "its data have shape .2,., but the network takes"),
        ({"field__backbone__shape": 0}, "its data have shape .2,., but the network takes 0"),
        ({"modality__std": [1.0]}, "flow.json: modality: "),
        ({"modality__std": [float("inf"), 1.0]}, "flow.json: modality: "),
        ({"source": None}, "flow.json: source: got None"),
        ({"sampler": 3}, "flow.json: sampler: got 3"),
        ({"sampler__steps": [1]}, "flow.json: sampler.steps: got"),
        ({"modality": "x"}, "flow.json: modality: 'x' is none of the modalities"),
        ({"modality__columns": 3}, "flow.json: modality.columns: got 3"),
        ({"modality__classes": 7}, "its condition 'label' has"),
        ({"independent": "perhaps"}, "flow.json: independent: got 'perhaps'"),
    ],
)
def test_the_file_is_checked_as_a_whole(
    changes: dict[str, object], message: str, bundle: Bundle, tmp_path: Path
) -> None:
    """Types, ranges, names that stay in the folder, and sizes that the weights bear out: all before a network."""
    with pytest.raises(ValueError, match=message):
        load(edited(bundle.save(tmp_path / "b"), **changes))


def test_deep_and_huge_json(bundle: Bundle, tmp_path: Path) -> None:
    file = bundle.save(tmp_path / "b") / "flow.json"
    for text in ("[" * 100_000, '{"format": ' + "1" * 5000 + "}", '{"format": 2, "a": ' + "[" * 300 + "]" * 300 + "}"):
        file.write_text(text)
        with pytest.raises(ValueError, match="flow.json"):
            load(tmp_path / "b")


def test_only_names_with_the_prefix_are_loaded_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing runs/digits is not looked up as a model of the hub."""
    import huggingface_hub

    requested = []

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        requested.append((name, revision, allow_patterns))
        raise OSError("no network here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(ValueError, match="holds no bundle.*hub:runs/digits for one of the hub"):
        load("runs/digits")
    assert requested == []
    for name, revision in (("hub:owner/name", "v1"), ("hub:owner/name@v1", None)):
        with pytest.raises(ValueError, match="hub gave no bundle 'owner/name'"):
            load(name, revision=revision)
    assert [a[:2] for a in requested] == [("owner/name", "v1")] * 2
    assert all(name.endswith(("flow.json", ".safetensors")) for a in requested for name in a[2])
    with pytest.raises(ValueError, match="give one revision"):
        load("hub:owner/name@v2", revision="v1")
    with pytest.raises(ValueError, match="only the hub has revisions"):
        load(tmp_path, revision="v1")


@pytest.mark.parametrize("seed", [1.5, 2.0, "3", None, float("nan")])
def test_a_seed_is_a_whole_number(seed: object, bundle: Bundle) -> None:
    """1.5 would be the sample of 1 without a word."""
    with pytest.raises(ValueError, match="not a whole number; give one"):
        bundle.sample(2, cond=1, seeds=[0, seed])  # type: ignore[list-item]
    if seed is not None:  # new samples in every call
        with pytest.raises(ValueError, match="not a whole number; give one"):
            bundle.sample(2, cond=1, seed=seed)  # type: ignore[arg-type]
    assert np.array_equal(
        bundle.sample(2, cond=1, seeds=[np.int64(4), 5]).values, bundle.sample(2, cond=1, seeds=[4, 5]).values
    )
