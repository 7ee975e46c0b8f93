"""Data in memory in the forms that users have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image as Picture
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.data.arrays import as_frame, as_labels, as_pictures
from beeline.data.images import Images
from beeline.recipes import in_memory
from beeline.recipes.in_memory import collected, stored

X = torch.arange(12.0).reshape(6, 2)
Y = torch.tensor([0, 1, 0, 1, 0, 1])


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, count: int = 6):
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return ((X[i % 6], "odd" if i % 2 else "even") for i in range(self.count))


class Pictures(Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> Any:
        return Picture.new("RGB", (8, 8), (i, 0, 0)), i


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        ((X, Y), [0, 1] * 3),
        (TensorDataset(X), None),
        (TensorDataset(X, Y), [0, 1] * 3),
        (DataLoader(TensorDataset(X, Y), batch_size=4, drop_last=True), [0, 1] * 3),  # every datum, as in training
        (Stream(), ["even", "odd"] * 3),
        (DataLoader(Stream(), batch_size=4), ["even", "odd"] * 3),
    ],
)
def test_pairs_data_sets_and_loaders_give_every_datum_once(data: Any, labels: Any) -> None:
    values, found = collected(data, None)
    np.testing.assert_array_equal(np.asarray(values), X.numpy())
    assert (None if found is None else as_labels(found, 6).tolist()) == labels


def test_pictures_of_a_data_set() -> None:
    values, labels = collected(Pictures(), None)
    assert values.shape == (3, 8, 8, 3) and values[2, 0, 0, 0] == 2 and labels == [0, 1, 2]


def test_a_data_set_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_memory, "LIMIT", 10_000)
    with pytest.raises(bl.BeelineError, match="or does not end; write its items to files"):
        collected(Stream(10**9), None)
    with pytest.raises(bl.BeelineError, match="is empty"):
        collected(Stream(0), None)


def test_floats_of_8_bit_pictures_become_the_same_pictures() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 7, 3), dtype=np.uint8)
    first = pixels.transpose(0, 3, 1, 2)
    for array in (
        pixels,
        first,
        first.astype(np.float32) / 255,
        first.astype(np.float32) / 127.5 - 1,
        pixels / 255,
    ):
        np.testing.assert_array_equal(as_pictures(array), pixels)
    gray = pixels[..., 0]
    np.testing.assert_array_equal(as_pictures(gray[:, None] / 255), gray[..., None])
    for other in (np.random.default_rng(0).normal(size=(5, 3, 8, 8)), np.random.default_rng(0).random((5, 1, 8, 8))):
        assert as_pictures(other) is other  # nothing is rounded


def test_frames_of_arrow_and_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": [1, 2], "who": ["a", "b"]})
    pd.testing.assert_frame_equal(as_frame(pa.table(frame)), frame)
    assert as_frame(frame) is frame and as_frame(frame["n"]) is None and as_frame(X) is None
    path = stored(frame, pd.Series([0, 1], name="kind"), tmp_path / "run")
    assert list(pd.read_parquet(path).columns) == ["n", "who", "kind"]
    assert list(pd.read_parquet(stored(pa.table(frame), ["x", "y"], tmp_path / "b")).columns) == ["n", "who", "label"]


def test_a_frame_of_polars() -> None:
    polars = pytest.importorskip("polars")
    frame = as_frame(polars.DataFrame({"n": [1, 2], "who": ["a", None]}))
    assert frame["n"].tolist() == [1, 2] and frame["who"][0] == "a" and pd.isna(frame["who"][1])


def test_half_precision_and_devices(tmp_path: Path) -> None:
    with np.load(stored(X.bfloat16().requires_grad_(), None, tmp_path / "run")) as arrays:
        np.testing.assert_array_equal(arrays["points"], X.numpy())


def test_samples_of_a_flow_keep_their_labels(tmp_path: Path) -> None:
    pixels = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4, 1)
    made = Images(pixels, np.array([1, 0, 1]), ("cat", "dog"))
    with np.load(stored(made, None, tmp_path / "run")) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    assert any(np.array_equal(np.squeeze(a), np.squeeze(pixels)) for a in found.values())
    with pytest.raises(BeelineError, match="hold their own"):
        stored(made, [0, 1, 0], tmp_path / "other")
    assert [a.tolist() for a in found.values() if len(a) == 3 and a.ndim == 1][0] in ([1, 0, 1], ["dog", "cat", "dog"])
