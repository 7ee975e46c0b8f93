"""Hugging Face data sets on disk: images, arrays and tables by their features."""

from pathlib import Path

import numpy as np
import pytest

from beeline.data.hub.features import columns_of
from beeline.data.hub.hub_arrays import HubArrays
from beeline.data.hub.hub_images import HubImages
from beeline.data.hub.opening import hub_name, is_name, splits
from beeline.data.records import record_images
from beeline.data.signals.array_files import ArrayFile
from beeline.data.tables.files import TableFile
from beeline.recipes.automatic import recipe_for
from beeline.training.feed.sources import as_microbatches

datasets = pytest.importorskip("datasets")
RNG = np.random.default_rng(0)


def images(n: int = 30, **more: list) -> "datasets.Dataset":
    """Gray pictures whose value is their row; the class is the row mod 3."""
    from PIL import Image

    features = {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["ant", "bee", "cow"])}
    features |= {name: datasets.Value("string") for name in more}
    pictures = [Image.fromarray(np.full((8, 8, 3), i, np.uint8)) for i in range(n)]
    columns = {"img": pictures, "fine": [i % 3 for i in range(n)], **more}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def test_images_with_names_of_classes(tmp_path: Path) -> None:
    images(caption=[f"picture {i}" for i in range(30)]).save_to_disk(str(tmp_path / "d"))
    run = recipe_for(str(tmp_path / "d"))
    assert isinstance(run.data, HubImages) and run.data.resize is None and run.objective.drop is not None
    train, held = run.data.load()
    assert (len(train), len(held)) == (27, 3) and train.names == ("ant", "bee", "cow")
    assert (train.pixels[:, 0, 0, 0] % 3 == train.labels).all()
    assert "not learned: caption (beside img)" in run.data.summary()


def test_a_test_split_is_held_out_unless_its_labels_are_hidden(tmp_path: Path) -> None:
    pair = datasets.DatasetDict(train=images(20), test=images(6))
    pair.save_to_disk(str(tmp_path / "pair"))
    assert [len(part) for part in HubImages(str(tmp_path / "pair")).load()] == [20, 6]
    hidden = pair["test"].map(lambda row: {"fine": -1})
    datasets.DatasetDict(train=pair["train"], test=hidden).save_to_disk(str(tmp_path / "hidden"))
    assert [len(part) for part in HubImages(str(tmp_path / "hidden")).load()] == [18, 2]
    datasets.DatasetDict(a=images(3), b=images(3)).save_to_disk(str(tmp_path / "odd"))
    with pytest.raises(ValueError, match="splits a, b, none of which is named train"):
        HubImages(str(tmp_path / "odd")).load()


def test_large_data_are_read_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images().save_to_disk(str(tmp_path / "d"))
    monkeypatch.setattr(record_images, "IN_MEMORY", 0)
    data = HubImages(str(tmp_path / "d"), first=6)
    raw, _ = data.load()
    modality = data.modality().fit(raw)
    from beeline.core.rng import Rng

    feed = data.microbatches(modality, Rng(0))
    assert feed is not None and len(raw) == 6
    batch = feed.microbatch(0, 27)
    values = modality.decode(batch.x1).pixels[:, 0, 0, 0]
    assert len(set(values.tolist())) == 27 and (values % 3 == batch.cond["label"].numpy()).all()


def test_image_arrays_of_8_bits(tmp_path: Path) -> None:
    values = RNG.integers(0, 255, (12, 6, 6)).astype(np.uint8)
    features = datasets.Features({"pixels": datasets.Array2D((6, 6), "uint8"), "label": datasets.Value("int64")})
    columns = {"pixels": list(values), "label": [5, 7] * 6}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "d"))
    run = recipe_for(str(tmp_path / "d"))
    train, held = run.data.load()
    assert train.pixels.shape[1:] == (6, 6, 1) and train.names == ("5", "7")
    found = {tuple(tile.flatten().tolist()) for part in (train, held) for tile in part.pixels}
    assert found == {tuple(tile.flatten().tolist()) for tile in values}


@pytest.mark.parametrize("form", ["disk", "parquet", "parts"])
def test_arrays_of_one_shape(tmp_path: Path, form: str) -> None:
    values = RNG.normal(size=(20, 2, 9)).astype(np.float32)
    features = datasets.Features({"wave": datasets.Array2D((2, 9), "float32"), "kind": datasets.Value("string")})
    data = datasets.Dataset.from_dict({"wave": list(values), "kind": ["up", "down"] * 10}, features=features)
    path = tmp_path / "d"
    if form == "disk":
        data.save_to_disk(str(path))
    elif form == "parquet":
        path = tmp_path / "d.parquet"
        data.to_parquet(str(path))
    else:
        path.mkdir()
        data.select(range(10)).to_parquet(str(path / "0.parquet"))
        data.select(range(10, 20)).to_parquet(str(path / "1.parquet"))
    run = recipe_for(str(path))
    assert isinstance(run.data, HubArrays)
    train, held = run.data.load()
    found = np.concatenate([train.values, held.values])
    assert sorted(found.flatten().tolist()) == sorted(values.flatten().tolist())
    named = HubArrays(str(path), label="kind").load()[0]
    assert named.names == ("down", "up") and named.labels is not None


def test_a_table_with_names_of_classes(tmp_path: Path) -> None:
    features = datasets.Features({"age": datasets.Value("int64"), "who": datasets.ClassLabel(names=["kid", "adult"])})
    data = datasets.Dataset.from_dict({"age": list(range(40)), "who": [int(i > 18) for i in range(40)]}, features)
    data.save_to_disk(str(tmp_path / "d"))
    data.to_parquet(str(tmp_path / "t.parquet"))
    for path in ("d", "t.parquet"):
        run = recipe_for(str(tmp_path / path))
        assert isinstance(run.data, TableFile)
        train, held = run.data.load()
        assert set(train["who"]) == {"kid", "adult"} and len(train) + len(held) == 40
    datasets.DatasetDict(train=data, test=data.select(range(5))).save_to_disk(str(tmp_path / "pair"))
    assert [len(part) for part in TableFile(str(tmp_path / "pair")).load()] == [40, 5]


def test_parquet_images_by_the_names_of_their_features(tmp_path: Path) -> None:
    images().to_parquet(str(tmp_path / "d.parquet"))
    run = recipe_for(str(tmp_path / "d.parquet"))
    assert (run.data.image, run.data.label, run.data.resize) == ("img", "fine", None)
    train, held = run.data.load()
    assert train.names == ("ant", "bee", "cow") and len(train) + len(held) == 30


def test_columns_of_unknown_features_are_named(tmp_path: Path) -> None:
    features = datasets.Features({"speech": datasets.List(datasets.Value("float32")), "age": datasets.Value("int64")})
    datasets.Dataset.from_dict({"speech": [[0.1], [0.2, 0.3]], "age": [3, 4]}, features).save_to_disk(
        str(tmp_path / "d")
    )
    with pytest.raises(ValueError, match="'speech' of List, and what no recipe learns is refused.*remove_columns"):
        recipe_for(str(tmp_path / "d"))
    described = {"a": {"_type": "Audio"}, "b": {"_type": "Image"}, "c": [{"_type": "Value"}]}
    assert columns_of(described).unknown == {"a": "Audio", "c": "list"} and columns_of(described).images == ("b",)


def test_damaged_folders(tmp_path: Path) -> None:
    images(4).save_to_disk(str(tmp_path / "d"))
    for file in (tmp_path / "d").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match="cannot be read as a Hugging Face data set"):
        splits(str(tmp_path / "d"))


def test_names_of_the_hub() -> None:
    assert hub_name("hf:owner/name") == ("owner/name", None) and hub_name("hf:a/b/c") == ("a/b", "c")
    assert hub_name("hf:mnist") == ("mnist", None)
    assert is_name("nobody/nothing-such") and not is_name("tests/nothing") and not is_name("nowhere/people.csv")
    for bad in ("hf:", "hf:a//b", "hf:a/b/c/d"):
        with pytest.raises(ValueError, match="is no name of a data set"):
            hub_name(bad)
    with pytest.raises(ValueError, match="no such path here, and the data set nobody/nothing-such.*save_to_disk"):
        recipe_for("nobody/nothing-such")


def test_data_sets_are_data_of_fit(tmp_path: Path) -> None:
    from beeline.core.rng import Rng

    np.save(tmp_path / "a.npy", RNG.normal(size=(20, 2, 8)))
    assert as_microbatches(ArrayFile(str(tmp_path / "a.npy")), Rng(0)).microbatch(0, 5).x1.shape == (5, 2, 1, 8)
