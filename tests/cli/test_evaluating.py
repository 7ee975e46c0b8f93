"""``beeline evaluate --features`` end to end."""

import json
from pathlib import Path

import numpy as np
import pytest

from beeline.cli.main import run
from beeline.config import build as config
from beeline.core.rng import Rng
from beeline.evaluation.statistics import Statistics
from beeline.recipes import images
from beeline.runs.run import train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures of the user's own, with a network that learned next to nothing."""
    folder = tmp_path_factory.mktemp("evaluating")
    rng = Rng(0)
    pixels = rng.integers(256, 200 * 64 * 3).reshape(200, 8, 8, 3).numpy().astype(np.uint8)
    np.savez(folder / "pictures.npz", images=pixels)
    np.savez(folder / "small.npz", images=pixels[:, :4, :4])
    recipe = config.change(
        images.images(str(folder / "pictures.npz")),
        {"training.steps": 1, "training.batch_size": 4, "sampler.steps": 2, "network.width": 8},
    )
    train(recipe, folder / "run", log=lambda entry: None)
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["evaluate", *arguments]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and captured.out == ""
    return " ".join(captured.err.split())


def test_scores_report_and_statistics(place, capsys):
    stats, page = place / "stats.npz", place / "page.html"
    bundle = str(place / "run")
    common = ["-n", "60", "--features", "RandomFeatures(8)", "--json"]
    assert run(["evaluate", bundle, *common, "--save-reference", str(stats), "--out", str(page)]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    scores = {score["name"]: score for score in report["scores"]}
    assert set(scores) >= {"Frechet distance", "KID", "memorisation (data space)", "memorisation (8 random features)"}
    frechet = scores["Frechet distance"]
    assert frechet["n_made"] == 60 and frechet["n_real"] > 100 and frechet["evaluator"] == "8 random features"
    assert len(report["details"]["memorisation"]["pairs"]) == 8
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64") == 24 and "nearest training datum in data space" in html
    # the stored statistics give the same distance
    assert Statistics.load(stats).n == frechet["n_real"]
    assert run(["evaluate", bundle, *common, "--reference", str(stats)]) == 0
    (again,) = json.loads(capsys.readouterr().out)
    assert again["scores"][0]["value"] == pytest.approx(frechet["value"], rel=1e-6)
    assert [s["name"] for s in again["scores"]][1].startswith("memorisation")
    # a file of pictures
    assert run(["evaluate", bundle, *common, "--reference", str(place / "pictures.npz")]) == 0
    (other,) = json.loads(capsys.readouterr().out)
    assert other["scores"][0]["n_real"] == 200


def test_several_runs_are_compared_by_features(place, capsys):
    bundle, page = str(place / "run"), place / "compared.html"
    common = ["-n", "30", "--features", "RandomFeatures(8)", "--json"]
    assert run(["compare", bundle, bundle, *common, "--out", str(page)]) == 0
    reports = json.loads(capsys.readouterr().out)
    values = [{score["name"]: score["value"] for score in report["scores"]} for report in reports]
    assert len(values) == 2 and values[0] == values[1] and "KID" in values[0], "the same noise gives the same scores"
    assert page.read_text(encoding="utf-8").count("run") > 2
    assert run(["compare", bundle, bundle, "-n", "30", "--weights", "no.pth"]) == 2
    assert "without --features" in capsys.readouterr().err


def test_the_table_names_features_and_numbers(place, capsys):
    assert run(["evaluate", str(place / "run"), "-n", "30", "--features", "RandomFeatures(8)"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Frechet distance: of 30 generated and" in shown and "8 features: it grows as samples become fewer" in shown


def test_refusals_come_before_sampling(place, capsys):
    bundle = str(place / "run")
    assert "valid names: classifier, clip, dinov2, inception" in refused(capsys, bundle, "--features", "fid")
    assert "nothing is downloaded unasked" in refused(capsys, bundle, "--features", "inception", "--weights", "no.pth")
    assert "needs at least 9 samples" in refused(capsys, bundle, "--features", "RandomFeatures(8)", "-n", "5")
    assert "belongs; add --features" in refused(capsys, bundle, "--reference", "train")
    assert "neither train, held-out" in refused(
        capsys, bundle, "--features", "RandomFeatures(8)", "--reference", "nowhere"
    )
    small = ["--features", "RandomFeatures(8)", "--reference", str(place / "small.npz")]
    assert "resize them to that shape" in refused(capsys, bundle, *small)
    assert ".npz or .safetensors" in refused(
        capsys, bundle, "--features", "RandomFeatures(8)", "--save-reference", str(place / "a.pkl")
    )
    assert "is no number of samples" in refused(capsys, bundle, "-n", "0")
    assert "labels are needed" in refused(capsys, bundle, "--features", "classifier")
