"""The recipe that follows from a path, and runs fitted to a time."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from beeline.cli.main import run
from beeline.data.image_files import ImageFile
from beeline.data.point_files import PointFile
from beeline.data.tables.files import TableFile
from beeline.recipes.automatic import recipe_for
from beeline.recipes.points import two_moons
from beeline.runs.budget import LEAST_BATCH, SHARE, SIZES, duration, fit_budget


def picture(path: Path, side: tuple[int, int] = (12, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.full((*side, 3), 99, dtype=np.uint8)).save(path)


def test_a_csv_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("age,city\n3,Bern\n4,Oslo\n")
    made = recipe_for(str(tmp_path / "people.csv"))
    assert isinstance(made.data, TableFile) and made.network["is"] == "networks.TabularMLP"


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.zeros((6, 2), np.float32), PointFile),
        (np.zeros((6, 8, 8), np.uint8), ImageFile),
        (np.zeros((6, 8, 8, 3), np.uint8), ImageFile),
        (np.zeros((6, 3), np.uint8), PointFile),
    ],
)
def test_an_array_is_points_or_images(tmp_path: Path, array: np.ndarray, kind: type) -> None:
    np.save(tmp_path / "a.npy", array)
    assert isinstance(recipe_for(str(tmp_path / "a.npy")).data, kind)


@pytest.mark.parametrize(
    ("sides", "resize"),
    [
        ([(12, 12), (12, 12)], None),  # one small size is kept
        ([(40, 50), (70, 33)], 32),  # the smallest side, in multiples of 8
        ([(200, 300), (100, 100)], 64),
        ([(9, 30), (10, 10)], 8),
    ],
)
def test_pictures_of_several_sizes_are_scaled(tmp_path: Path, sides: list, resize: int | None) -> None:
    for i, side in enumerate(sides):
        picture(tmp_path / "photos" / "red" / f"{i}.png", side)
    assert recipe_for(str(tmp_path / "photos")).data.resize == resize
    assert recipe_for(str(tmp_path / "photos"), side=16).data.resize in (None, 8, 16)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nothing", "does not exist"),
        ("empty", "holds no files and nothing that a recipe reads"),
        ("words", r"holds 1 files \(1 .docx\) and nothing that a recipe reads"),
        ("one.png", "single picture"),
        ("talk.wav", "is a recording, and no recipe reads audio; cut the recordings"),
        ("broken.parquet", "is no Parquet file"),
    ],
)
def test_what_no_recipe_reads_is_refused(tmp_path: Path, name: str, match: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.docx").write_text("x")
    picture(tmp_path / "one.png")
    (tmp_path / "talk.wav").write_bytes(b"RIFF")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=match):
        recipe_for(str(tmp_path / name))


def test_durations() -> None:
    assert [duration(t) for t in ("90s", "20m", "1.5h", "1h30m", "1d")] == [90, 1200, 5400, 5400, 86400]
    for text in ("", "20", "m", "0s", "-3m", "2 weeks"):
        with pytest.raises(ValueError, match="the budget is"):
            duration(text)


def a_step(net: torch.nn.Module, *rest: object, limit: float) -> float:
    """A microsecond for every parameter: the same on every machine."""
    return 1e-6 * sum(p.numel() for p in net.parameters())


def test_a_budget_decides_steps_and_network() -> None:
    device = torch.device("cpu")
    short, middle, long = (fit_budget(two_moons(), s, device, measure=a_step) for s in (600, 2400, 3e5))
    widths = [size["width"] for size in SIZES["networks.MLP"]]
    assert [fitted.run.network["width"] for fitted in (short, middle, long)] == sorted(widths)
    assert long.run.training.steps == 20_000  # more are not worth taking
    for seconds, fitted in ((600, short), (2400, middle)):
        assert 0.5 * seconds < fitted.seconds <= SHARE * seconds
        assert fitted.step_seconds == pytest.approx(1e-6 * fitted.parameters)
    fixed = fit_budget(two_moons(), 60, device, network=False, measure=a_step)
    assert fixed.run.network == two_moons().network


def by_batch(fixed: float) -> Any:
    """Seconds of a step of ``fixed`` and one millisecond for every datum, and the batch sizes that were tried."""
    tried: list[int] = []

    def measure(net: object, objective: object, data: object, training: Any, *rest: object, limit: float) -> float:
        tried.append(training.batch_size)
        return fixed + 1e-3 * training.batch_size

    return measure, tried


def test_few_steps_take_smaller_batches() -> None:
    measure, tried = by_batch(fixed=0.01)
    fitted = fit_budget(two_moons(), 60, torch.device("cpu"), measure=measure)
    size = fitted.run.training.batch_size
    assert tried == [two_moons().training.batch_size, LEAST_BATCH, size] and size < tried[0]
    assert fitted.step_seconds == pytest.approx(0.01 + 1e-3 * size)
    assert 0.8 * SHARE * 60 < fitted.seconds <= SHARE * 60


def test_a_batch_is_kept_where_a_smaller_one_is_not_faster() -> None:
    """As on an accelerator, which takes as long for 8 data as for a few hundred."""
    measure, tried = by_batch(fixed=two_moons().training.batch_size * 5e-3)
    fitted = fit_budget(two_moons(), 60, torch.device("cpu"), measure=measure)
    assert fitted.run.training.batch_size == two_moons().training.batch_size and tried[-1] == LEAST_BATCH


def test_an_accelerator_takes_the_largest_network_that_is_as_fast() -> None:
    def constant(*rest: object, limit: float) -> float:
        return 0.02

    small, large = (fit_budget(two_moons(), 60, torch.device(d), measure=constant) for d in ("cpu", "meta"))
    widths = sorted(size["width"] for size in SIZES["networks.MLP"])
    assert (small.run.network["width"], large.run.network["width"]) == (widths[0], widths[-1])


def test_a_budget_too_short_names_the_least() -> None:
    with pytest.raises(ValueError, match="too short.*give at least"):
        fit_budget(two_moons(), 0.1, torch.device("cpu"), measure=a_step)


def test_train_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "points.npy"
    np.save(file, np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32))
    out = tmp_path / "run"
    words = ["train", str(file), "--set", "training.steps=20", "--out", str(out), "--no-report", "--json"]
    assert run(words) == 0
    assert json.loads(capsys.readouterr().out)["bundle"] == str(out / "bundle")
    assert run(["sample", str(out), "-n", "5", "--out", str(tmp_path / "s.npy")]) == 0
    assert np.load(tmp_path / "s.npy").shape == (5, 2)


def test_train_refuses_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "nowhere/people.csv", "--budget", "1m"]) == 2
    assert "nowhere/people.csv does not exist" in capsys.readouterr().err
    assert run(["train", "digits", "--budget", "soon"]) == 2
    assert "is no duration" in capsys.readouterr().err


def test_labels_beside_points_are_conditions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "p.npz", x=rng.normal(size=(60, 2)), labels=np.arange(60) % 3)
    made = recipe_for(str(tmp_path / "p.npz"))
    assert made.data.label == "labels" and made.objective.drop is not None
    train, held = made.data.load()
    assert train.values.shape[1] == 2 and set(train.labels) == {0, 1, 2} and len(train) + len(held) == 60
    np.savez(tmp_path / "plain.npz", rng.normal(size=30))
    plain = recipe_for(str(tmp_path / "plain.npz")).data.load()[0]
    assert plain.labels is None and plain.values.shape[1] == 1
    np.savez(tmp_path / "two.npz", a=np.zeros((3, 2)), b=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="holds the arrays a, b"):
        recipe_for(str(tmp_path / "two.npz")).data.load()


@pytest.mark.parametrize("name", ["broken.npz", "broken.npy"])
def test_a_damaged_array_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((b"PK" if name.endswith("z") else b"\x93NUMPY") + b"\x00" * 40)
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        recipe_for(str(tmp_path / name))


def test_a_pipe_is_refused_before_it_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.npy")
    with pytest.raises(ValueError, match="is a pipe"):
        recipe_for(str(tmp_path / "p.npy"))


def test_large_images_of_an_array_are_scaled(tmp_path: Path) -> None:
    np.savez(tmp_path / "large.npz", images=np.zeros((4, 80, 70), np.uint8))
    np.savez(tmp_path / "small.npz", images=np.zeros((4, 28, 28), np.uint8))
    assert recipe_for(str(tmp_path / "large.npz")).data.resize == 64
    assert recipe_for(str(tmp_path / "small.npz")).data.resize is None


def test_steps_that_a_user_sets_decide_the_network() -> None:
    steps = two_moons().training.steps
    sizes = [fit_budget(two_moons(), s, torch.device("cpu"), steps=False, measure=a_step) for s in (300, 3e5)]
    assert [fitted.run.training.steps for fitted in sizes] == [steps, steps]
    assert sizes[0].parameters < sizes[1].parameters and sizes[1].seconds <= 3e5


def test_a_budget_is_not_fitted_in_several_processes_or_over_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.npy"
    np.save(file, np.zeros((20, 2)))
    assert run(["train", str(file), "--parallel", "ddp", "--out", str(tmp_path / "a")]) == 2
    assert "--set training.steps=N" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    assert run(["train", str(file), "--out", str(tmp_path / "b")]) == 2
    said = capsys.readouterr().err
    assert "nothing is overwritten" in said and "trying" not in said


def test_a_run_on_data_resumes_in_its_usual_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("p.npy", np.random.default_rng(0).normal(size=(200, 2)))
    words = ["train", "p.npy", "--no-report", "--json"]
    assert run([*words, "--set", "training.steps=20"]) == 0
    assert run([*words, "--resume"]) == 0
