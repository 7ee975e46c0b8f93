"""Streamed data sets of the Hugging Face library: images in order, with exact resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from beeline.core.rng import Rng
from beeline.data.hub.given import give
from beeline.data.hub.hub_stream import HubStream, shuffles
from beeline.objectives.matching import Drop, FlowMatching
from beeline.runs.run import Run, train
from beeline.training.config import Training

datasets = pytest.importorskip("datasets")


def picture(i: int) -> Picture.Image:
    return Picture.fromarray(np.full((8, 8, 3), i, np.uint8))


def images(n: int = 60) -> Any:
    """Gray pictures whose value is their row; the class is the row mod 3."""
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=["ant", "bee", "cow"])})
    rows = {"img": [picture(i) for i in range(n)], "kind": [i % 3 for i in range(n)]}
    return datasets.Dataset.from_dict(rows, features=features)


def parquet(folder: Path) -> str:
    folder.mkdir()
    for k in range(3):
        images().select(range(20 * k, 20 * k + 20)).to_parquet(str(folder / f"{k}.parquet"))
    return str(folder)


def epoch(data: HubStream, count: int, size: int = 6) -> tuple[list[int], list[int]]:
    """(values, classes) of the first microbatches."""
    raw, _ = data.load()
    modality = data.modality().fit(raw)
    assert modality.names == ("ant", "bee", "cow") or modality.classes == 3
    feed = data.microbatches(modality, Rng(0))
    found = [feed.microbatch(n, size) for n in range(count)]
    pixels = np.concatenate([modality.decode(batch.x1).pixels[:, 0, 0, 0] for batch in found])
    return pixels.tolist(), torch.cat([batch.cond["label"] for batch in found]).tolist()


@pytest.mark.parametrize("parts", [1, 3])
def test_every_image_once_with_its_class(tmp_path: Path, parts: int) -> None:
    data = HubStream(parquet(tmp_path / "p"), held=6, first=9, buffer=8, parts=parts)
    raw, held = data.load()
    assert (len(raw), len(held)) == (9, 6) and not set(raw.pixels[:, 0, 0, 0]) & set(held.pixels[:, 0, 0, 0])
    values, labels = epoch(data, 9)
    assert sorted([*values, *held.pixels[:, 0, 0, 0].tolist()]) == list(range(60))
    assert [v % 3 for v in values] == labels
    assert "streamed: 6 images held out, images in column 'img'" in data.summary()


@pytest.mark.parametrize("kind", ["shards", "mapped", "shuffled", "pictures"])
def test_streams_given_in_python(kind: str) -> None:
    def rows() -> Any:
        return ({"img": picture(i), "kind": "abc"[i % 3]} for i in range(60))

    shards = images().to_iterable_dataset(num_shards=4)
    stream = {
        "shards": shards,
        "mapped": shards.map(lambda row: {"kind": (row["kind"] + 1) % 3}),
        "shuffled": shards.shuffle(seed=1, buffer_size=10),
        "pictures": datasets.IterableDataset.from_generator(rows),
    }[kind]
    assert shuffles(stream) == (kind == "shuffled")
    data = HubStream(give(kind, stream), label="kind", held=6, first=12, buffer=8)
    values, labels = epoch(data, 9)
    assert len(set(values)) == 54
    assert [(v + (kind == "mapped")) % 3 for v in values] == labels


def run_of(data: HubStream, steps: int) -> Run:
    return Run(
        data,
        {"is": "networks.MLP", "width": 16, "depth": 1},
        FlowMatching(drop=Drop(0.1)),
        Training(steps=steps, batch_size=6, microbatches=2, checkpoint_every=4, workers=2),
    )


@pytest.mark.parametrize("kind", ["parquet", "shuffled"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        path = parquet(tmp_path / "p")
    else:
        path = give(kind, images().to_iterable_dataset(num_shards=4).shuffle(seed=1, buffer_size=10))
    data = HubStream(path, held=6, first=9, buffer=8, parts=2)

    def stop(entry: dict[str, Any]) -> None:
        if entry.get("step") == 15 and "loss" in entry:
            raise KeyboardInterrupt

    whole = train(run_of(data, 24), tmp_path / "whole", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(run_of(data, 24), tmp_path / "parts", device="cpu", log=stop)
    again = train(run_of(data, 24), tmp_path / "parts", resume=True, device="cpu")
    assert whole.weights == again.weights


def test_what_cannot_be_streamed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no Parquet files to stream"):
        HubStream(str(tmp_path / "empty")).load()
    with pytest.raises(ValueError, match="python:other, a stream that was given in Python"):
        HubStream("python:other").load()
    numbers = datasets.Dataset.from_dict({"x": [1, 2, 3]}).to_iterable_dataset()
    with pytest.raises(ValueError, match="no column of images"):
        HubStream(give("numbers", numbers)).load()
    with pytest.raises(ValueError, match="60 images, of which the first 1000 are held out"):
        HubStream(give("few", images().to_iterable_dataset())).load()
    late = datasets.IterableDataset.from_generator(
        lambda: ({"img": picture(i), "label": "ab"[i > 50]} for i in range(60))
    )
    data = HubStream(give("late", late), held=5, first=5, buffer=10)
    feed = data.microbatches(data.modality().fit(data.load()[0]), Rng(0))
    with pytest.raises(ValueError, match="a label 'b' that the first images do not have"):
        [feed.microbatch(n, 5) for n in range(11)]
    with pytest.raises(ValueError, match="hf:owner/such.*could not be loaded"):
        HubStream("hf:owner/such").load()
