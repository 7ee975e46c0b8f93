"""Every format from the command line: train for a few steps, then sample."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Picture

from beeline.cli.main import run

RNG = np.random.default_rng(0)
SMALL = ["--set", "training.steps=3", "--set", "training.batch_size=4"]
UNET = [*SMALL, "--set", "network.width=8", "--set", "network.multipliers=[1]", "--set", "network.blocks=1"]


def png(value: int) -> bytes:
    out = io.BytesIO()
    Picture.fromarray(np.full((8, 8, 3), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def shards(path: Path) -> str:
    path.mkdir()
    for s in range(2):
        with tarfile.open(path / f"data-{s:02d}.tar", "w") as archive:
            for i in range(8):
                for ending, content in (("png", png(8 * s + i)), ("cls", [b"cat", b"dog"][i % 2])):
                    info = tarfile.TarInfo(f"{s}{i}.{ending}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return str(path / "data-{00..01}.tar")


def hub_images(path: Path) -> str:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(16)], "label": [i % 2 for i in range(16)]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(path))
    return str(path)


def hub_parquet(path: Path) -> str:
    datasets = pytest.importorskip("datasets")
    datasets.load_from_disk(hub_images(path / "saved")).to_parquet(str(path / "d.parquet"))
    return str(path / "d.parquet")


def hub_table(path: Path) -> str:
    datasets = pytest.importorskip("datasets")
    rows = {"x": RNG.normal(size=60).tolist(), "kind": ["a", "b"] * 30}
    datasets.Dataset.from_dict(rows).save_to_disk(str(path))
    return str(path)


def parts(path: Path) -> str:
    path.mkdir()
    frame = pd.DataFrame({"x": RNG.normal(size=40), "kind": ["a", "b"] * 20})
    frame[:20].to_csv(path / "0.csv", index=False)
    frame[20:].to_csv(path / "1.csv.gz", index=False)
    return str(path)


def array(shape: tuple[int, ...], dtype: str = "float32") -> Callable[[Path], str]:
    def write(path: Path) -> str:
        path.mkdir()
        np.save(path / "a.npy", (50 + 20 * RNG.normal(size=shape)).astype(dtype))
        return str(path / "a.npy")

    return write


def labelled(path: Path) -> str:
    path.mkdir()
    names = np.array(["cat", "dog"] * 8)
    np.savez(path / "a.npz", waves=RNG.normal(size=(16, 2, 10)), labels=names)
    return str(path / "a.npz")


@pytest.mark.parametrize(
    ("make", "more", "out", "label"),
    [
        (shards, UNET, "s.npz", "dog"),
        (hub_images, UNET, "s.npz", "dog"),
        (hub_parquet, UNET, "s.npz", "dog"),
        (labelled, UNET, "s.npz", "dog"),
        (hub_table, SMALL, "s.csv", None),
        (parts, SMALL, "s.csv", None),
        (array((16,)), SMALL, "s.npy", None),
        (array((16, 3)), SMALL, "s.npy", None),
        (array((16, 2, 10)), UNET, "s.npy", None),
        (array((16, 5, 6, 6)), UNET, "s.npy", None),
        (array((16, 6, 6, 3)), UNET, "s.npy", None),
        (array((16, 5, 6, 6), "int16"), UNET, "folder", None),
    ],
)
def test_train_and_sample(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], str],
    more: list[str],
    out: str,
    label: str | None,
) -> None:
    data = make(tmp_path / "data")
    place = str(tmp_path / "run")
    assert run(["train", data, *more, "--out", place, "--no-report", "--json"]) == 0
    capsys.readouterr()
    condition = [] if label is None else ["--condition", f"label={label}"]
    to = tmp_path / out
    few = ["--set", "sampler.steps=2"] if out != "s.csv" else []
    assert run(["sample", place, "-n", "4", *condition, *few, "--out", str(to), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 4
    if to.suffix == ".npy":
        given = np.load(data)
        made = np.load(to)
        assert made.shape[1:] == (given.shape[1:] or (1,)) and abs(made.mean() - 50) < 40
    elif to.suffix == ".npz":
        found = np.load(to)
        assert set(found["labels"]) == {1} and next(found[k] for k in found if k != "labels").shape[0] == 4
    elif to.suffix == ".csv":
        assert list(pd.read_csv(to).columns) == ["x", "kind"]
    else:
        assert np.load(to / "00003.npy").dtype == np.int16


@pytest.mark.parametrize("shape", [(40, 2, 10), (40, 5, 6, 6)])
def test_a_report_shows_arrays_by_their_previews(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...]
) -> None:
    data, place = array(shape)(tmp_path / "data"), tmp_path / "run"
    assert run(["train", data, *UNET, "--set", "sampler.steps=2", "--out", str(place), "--json"]) == 0
    capsys.readouterr()
    page = (place / "report.html").read_text(encoding="utf-8")
    assert "<h2>Samples" in page and "were to be shown" not in page
