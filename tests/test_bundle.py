"""A flow on disk: the same samples from what is read back, and clear words for what is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.bundle import Bundle, load
from beeline.data.points import Points, PointSet
from beeline.nets.small import MLP


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
        Bundle(bundle.flow, bundle.sampler, bundle.modality).sample(2)
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


def test_weights_of_another_network_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    directory = bundle.save(tmp_path / "b")
    said = json.loads((directory / "flow.json").read_text())
    said["field"]["backbone"]["width"] = 32
    (directory / "flow.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="weights match the network"):
        load(directory)
