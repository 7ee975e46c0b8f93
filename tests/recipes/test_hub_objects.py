"""bl.train on objects of the Hugging Face library."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from beeline.data.hub.hub_arrays import HubArrays
from beeline.data.hub.hub_images import HubImages
from beeline.data.hub.hub_stream import HubStream
from beeline.data.tables.files import TableFile
from beeline.recipes import training
from beeline.recipes.hub_objects import hub_path
from beeline.recipes.training import train
from beeline.runs.bundle import Bundle
from beeline.runs.run import Run

datasets = pytest.importorskip("datasets")
RNG = np.random.default_rng(0)


def images(n: int = 40) -> Any:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    pictures = [Picture.fromarray(np.full((8, 8, 3), 5 * i, np.uint8)) for i in range(n)]
    return datasets.Dataset.from_dict({"image": pictures, "label": [i % 2 for i in range(n)]}, features=features)


def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of two steps with a small network, in place of those of a budget."""
    from dataclasses import replace

    from beeline.runs.budget import Fitted

    def fitted(run: Run, *rest: Any, **more: Any) -> Fitted:
        small = {"is": "networks.MLP", "width": 16, "depth": 1}
        short = replace(run.training, steps=2, batch_size=4, early_stopping=None)
        return Fitted(
            replace(run, network=run.network if "Tab" in run.network["is"] else small, training=short), 1.0, 1
        )

    monkeypatch.setattr(training, "fit_budget", fitted)


def test_a_data_set_is_saved_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_steps(monkeypatch)
    bundle = train(datasets.DatasetDict(train=images(), test=images(6)), out=tmp_path / "run", device="cpu")
    assert isinstance(bundle, Bundle) and bundle.modality.names == ("cat", "dog")
    assert (tmp_path / "run-data" / "dataset_dict.json").is_file()
    made = bundle.sample(3, cond={"label": "dog"})
    assert made.labels.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="labels were given beside a Dataset"):
        train(images(), [1, 2], out=tmp_path / "other")


def test_a_stream_of_images_is_not_stored_and_is_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_steps(monkeypatch)
    monkeypatch.setattr(HubStream, "__init__", short_start(HubStream.__init__))
    stream = images().to_iterable_dataset(num_shards=2)
    bundle = train(stream, out=tmp_path / "run", device="cpu")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    again = train(stream, out=tmp_path / "run", device="cpu", resume=True)
    assert again.weights == bundle.weights


def short_start(init: Any) -> Any:
    def changed(self: Any, path: str, **settings: Any) -> None:
        init(self, path, **{"held": 4, "first": 8, **settings})

    return changed


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (lambda: images(), HubImages),
        (lambda: datasets.Dataset.from_dict({"x": [1.5, 2.5], "y": ["a", "b"]}), TableFile),
        (lambda: datasets.Dataset.from_dict({"x": [1.5, 2.5], "y": ["a", "b"]}).to_iterable_dataset(), TableFile),
        (
            lambda: datasets.Dataset.from_dict(
                {"wave": list(RNG.normal(size=(6, 2, 5)))},
                features=datasets.Features({"wave": datasets.Array2D((2, 5), "float64")}),
            ),
            HubArrays,
        ),
    ],
)
def test_the_recipe_follows_from_the_features(tmp_path: Path, data: Any, kind: type) -> None:
    from beeline.recipes.automatic import recipe_for

    path = hub_path(data(), None, tmp_path / "run")
    assert path is not None and isinstance(recipe_for(path).data, kind)
    recipe_for(path).data.load()


def test_other_objects_and_places(tmp_path: Path) -> None:
    assert hub_path(np.zeros(3), None, tmp_path / "run") is None
    (tmp_path / "run-data").mkdir()
    (tmp_path / "run-data" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="exists and is no data set"):
        hub_path(images(), None, tmp_path / "run")
    assert (tmp_path / "run-data" / "mine.txt").is_file()
    parts = datasets.IterableDatasetDict({"a": images().to_iterable_dataset()})
    with pytest.raises(ValueError, match="splits a, none of which is named train"):
        hub_path(parts, None, tmp_path / "run")
