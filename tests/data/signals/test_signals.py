"""Arrays in any range: standardised by channel, and stored back as they came."""

from pathlib import Path

import numpy as np
import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.data.signals.array_files import ArrayFile
from beeline.data.signals.arrays import Arrays, ArraySet, channel_scales

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "uint8", "int64", "uint64"])
@pytest.mark.parametrize("shape", [(3, 20), (2, 5, 7)])
def test_encoding_is_standardised_and_decoding_gives_the_data_back(dtype: str, shape: tuple[int, ...]) -> None:
    values = (RNG.normal(size=(2100, *shape)) * 20 + 100).clip(0, 250).astype(dtype)
    raw = ArraySet(values)
    modality = Arrays().fit(raw)
    x = modality.encode(raw).x1
    assert x.shape == (2100, *modality.shape) and x.dtype == torch.float32
    assert x.transpose(0, 1).flatten(1).mean(1).abs().max() < 1e-3
    assert (x.transpose(0, 1).flatten(1).std(1) - 1).abs().max() < 1e-3
    back = modality.decode(x).values
    assert back.dtype == values.dtype and back.shape == values.shape
    assert np.allclose(back.astype(np.float64), values.astype(np.float64), atol=0 if values.dtype.kind in "iu" else 0.1)


def test_channel_scales_are_those_of_numpy_over_several_parts() -> None:
    values = RNG.normal(size=(3000, 2, 3)) * np.array([1.0, 50.0])[:, None] + 7
    mean, std = channel_scales(values)
    assert np.allclose(mean, values.mean((0, 2))) and np.allclose(std, values.std((0, 2)))


def test_a_constant_channel_is_decoded_to_its_value() -> None:
    values = RNG.normal(size=(9, 2, 4)).astype(np.float32)
    values[:, 1] = 3.25
    modality = Arrays().fit(ArraySet(values))
    assert (modality.encode(ArraySet(values)).x1[:, 1] == 0).all()
    assert (modality.decode(torch.randn(5, 2, 1, 4)).values[:, 1] == 3.25).all()
    with pytest.raises(ValueError, match="nothing to learn"):
        Arrays().fit(ArraySet(np.ones((4, 2, 3))))


def test_decoded_numbers_stay_in_the_range_of_their_type() -> None:
    values = RNG.integers(0, 255, (50, 1, 6)).astype(np.uint8)
    modality = Arrays().fit(ArraySet(values))
    far = modality.decode(torch.tensor([-1e6, 1e6] * 3).reshape(1, 1, 1, 6)).values
    assert far.min() == 0 and far.max() == 255
    wide = Arrays().fit(ArraySet(np.array([[[-(2**62), 2**62]]], np.int64)))
    assert wide.decode(torch.full((1, 1, 1, 2), 1e6)).values.max() > 2**62


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.full((2, 1, 3), np.nan), r"array 0 has the value nan at \[0, 0\]"),
        (np.zeros((2, 3)), "give numbers"),
        (np.zeros((2, 1, 3), complex), "give numbers"),
        (np.zeros((0, 1, 3)), "give numbers"),
    ],
)
def test_what_are_no_arrays_is_refused(values: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ArraySet(values)


def test_files_with_labels_by_number_or_name(tmp_path: Path) -> None:
    values = RNG.normal(size=(20, 2, 8))
    for labels, names in ((np.arange(20) % 2, ()), (np.array(["up", "down"] * 10), ("down", "up"))):
        np.savez(tmp_path / "a.npz", waves=values, labels=labels)
        train, held = ArrayFile(str(tmp_path / "a.npz")).load()
        assert len(train) == 18 and len(held) == 2 and train.names == names
        modality = Arrays().fit(train)
        assert modality.conditions == {"label": {"classes": 2}}
        made = modality.with_condition(modality.decode(torch.zeros(3, 2, 1, 8)), {"label": names[-1] if names else 1})
        modality.save(made, tmp_path / "s.npz")
        stored = np.load(tmp_path / "s.npz")
        assert stored["arrays"].shape == (3, 2, 8) and stored["labels"].tolist() == [1, 1, 1]
    np.savez(tmp_path / "two.npz", a=values, b=values)
    with pytest.raises(ValueError, match="holds the arrays a, b"):
        ArrayFile(str(tmp_path / "two.npz")).load()
    assert len(ArrayFile(str(tmp_path / "two.npz"), array="b").read()) == 20
    with pytest.raises(ValueError, match="did you mean 'waves'"):
        ArrayFile(str(tmp_path / "a.npz"), array="wave").read()


def test_channels_in_the_last_axis_are_recognised_and_written_back(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", RNG.normal(size=(12, 9, 8, 3)).astype(np.float32))
    data = ArrayFile(str(tmp_path / "a.npy"))
    train, _ = data.load()
    assert train.values.shape[1:] == (3, 9, 8) and data.modality().last
    modality = data.modality().fit(train)
    modality.save(modality.decode(modality.encode(train).x1), tmp_path / "b.npy")
    assert np.load(tmp_path / "b.npy").shape == (11, 9, 8, 3)
    modality.save(train, tmp_path / "folder")
    assert np.load(tmp_path / "folder" / "00010.npy").shape == (9, 8, 3)
    assert ArrayFile(str(tmp_path / "a.npy"), last=False).read().values.shape == (12, 9, 8, 3)
    assert "12 arrays, 3 channels, 9 height, 8 width; float32 from" in data.summary()


@pytest.mark.parametrize("shape", [(5, 3, 40), (5, 1, 6, 6), (5, 3, 6, 6), (5, 7, 6, 6)])
def test_previews_are_pictures(shape: tuple[int, ...]) -> None:
    assert Arrays().preview(ArraySet(RNG.normal(size=shape))).startswith(b"\x89PNG")


def test_arrays_in_memory_as_the_modality_takes_them():
    values = np.random.default_rng(0).normal(size=(4, 2, 8))
    m = Arrays(classes=2, names=("down", "up"))
    raw = m.raw(torch.tensor(values), ["up", "down", "up", "up"])
    assert raw.labels.tolist() == [1, 0, 1, 1] and raw.names == m.names
    np.testing.assert_array_equal(raw.values, values)
    np.testing.assert_array_equal(Arrays(last=True).raw(values.transpose(0, 2, 1)).values, values)
    assert m.raw(raw) is raw
    with pytest.raises(BeelineError, match="'left' is a label that the model does not have"):
        m.raw(values, ["left"] * 4)
