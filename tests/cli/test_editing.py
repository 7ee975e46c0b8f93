"""``beeline edit``: files, folders, several targets, auto, reports, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Picture

import beeline as bl
from beeline.cli.main import run
from beeline.data.images import Image
from beeline.data.points import Points

SIZE = (1, 6, 6)


def network(net: Any) -> bl.Network:
    """An untrained network whose outputs are not zero."""
    made, rng = bl.Network(net), bl.Rng(0)
    for k, p in enumerate(made.parameters()):
        p.data = 0.3 * rng.fork(k).normal(p.data)
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained network of pictures with three labels, which has no null."""
    net = network(bl.networks.MLP(shape=SIZE, width=16, depth=1, conditions={"label": {"classes": 3}}))
    modality = Image(SIZE, classes=3, names=("a", "b", "c"))
    folder = tmp_path_factory.mktemp("edit") / "bundle"
    bl.Bundle(bl.Flow(net), bl.Sampler(4), modality).save(folder)
    return str(folder)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Four pictures with labels."""
    pixels = np.random.default_rng(0).integers(0, 255, (4, *SIZE[1:], 1), dtype=np.uint8)
    np.savez(tmp_path / "in.npz", images=pixels, labels=[0, 1, 0, 2])
    return tmp_path / "in.npz"


def edit(model: str, given: Path, *more: str, out: str = "out.npz", method: str = "FlowEdit") -> int:
    return run(["edit", model, method, str(given), "--out", str(given.parent / out), *more])


def test_the_labels_of_the_file_are_the_old_condition(model: str, given: Path) -> None:
    assert edit(model, given, "--to", "label=b") == 0
    before, after = np.load(given)["images"], np.load(given.parent / "out.npz")["images"]
    same = [bool((a == b).all()) for a, b in zip(before, after, strict=True)]
    assert same == [False, True, False, False]  # the second has that label
    assert list(np.load(given.parent / "out.npz")["labels"]) == [1, 1, 1, 1]


def test_several_targets_have_a_file_each_and_a_page(
    model: str, given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = given.parent / "page.html"
    assert edit(model, given, "--to", "label=b", "--to", "label=c", "--report", str(page), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"] == 8 and found["evaluations"] == 16 and found["report"] == str(page)
    assert (given.parent / "out-label=b.npz").exists() and (given.parent / "out-label=c.npz").exists()
    text = page.read_text()
    assert text.count("data:image/png") == 3 and 'src="http' not in text


def test_the_same_condition_moves_nothing(model: str, given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit(model, given, "--from", "label=c", "--to", "label=c", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["change"] == 0 and "nothing moves" in found["note"]
    assert (np.load(given)["images"] == np.load(given.parent / "out.npz")["images"]).all()


def test_a_bad_file_of_a_folder_is_named_and_the_others_are_edited(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 255, SIZE[1:], dtype=np.uint8)
        Picture.fromarray(pixels).save(folder / "a" / f"{k}.png")  # the folder is the class
    (folder / "a" / "bad.png").write_text("no picture")
    Picture.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "a" / "large.png")
    assert edit(model, folder, "--to", "label=b", out="out") == 2
    error = capsys.readouterr().err
    assert "2 of the files" in error and "bad.png" in error and "large.png" in error and "9 x 9" in error
    assert sorted(p.name for p in (tmp_path / "out" / "a").iterdir()) == ["0.png", "1.png"]


def test_auto_tries_methods_and_says_which_do_not_fit(
    model: str, given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(model, given, "--to", "label=b", "--json", method="auto") == 0
    found = json.loads(capsys.readouterr().out)
    made = {row["method"]: row for row in found["tried"] if "refused" not in row}
    assert found["method"] in made and {"FlowEdit(start=0.3)", "SDEdit(start=0.3)", "InvertAndSample"} <= set(made)
    most = max(row["success"] for row in made.values())
    good = [row for row in made.values() if row["success"] >= 0.9 * most]
    assert made[found["method"]]["change"] == min(row["change"] for row in good)
    assert any("attention" in row.get("refused", "") for row in found["tried"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--to", "label=7"), "7"),
        (("--to", "colour=b"), "colour"),
        (("--to", "label=b", "--preserve", "-1"), "preserve"),
        (("--to", "label=b", "--mask", "{}/large.png"), "mask"),
        (("--to", "label=b", "--mask", "{}/black.png"), "empty"),
        (("--to", "label=b", "--set", "method.strat=1"), "start"),
        (("--to", "label=b", "--set", "network.width=1"), "no setting of an edit"),
    ],
)
def test_mistakes(
    model: str, given: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    Picture.fromarray(np.full((9, 9), 255, np.uint8)).save(given.parent / "large.png")
    Picture.fromarray(np.zeros(SIZE[1:], np.uint8)).save(given.parent / "black.png")
    assert edit(model, given, *(word.format(given.parent) for word in more)) == 2
    assert message in capsys.readouterr().err
    assert not (given.parent / "out.npz").exists()


def test_mistakes_of_data_and_methods(model: str, given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = given.parent

    def refused(message: str, file: str = "in.npz", method: str = "FlowEdit", *more: str) -> None:
        assert edit(model, place / file, "--to", "label=b", *more, method=method) == 2
        assert message in capsys.readouterr().err

    refused("did you mean", method="FlowEdti")
    refused("attention", method="ReFlex")
    refused("there is no file", "none.npz")
    refused("auto", "in.npz", "auto", "--set", "method.start=0.5")
    np.save(place / "plain.npy", np.load(given)["images"])
    refused("no null to edit from", "plain.npy")
    np.save(place / "floats.npy", np.load(given)["images"] / 100.0)
    refused("8 bits", "floats.npy", "FlowEdit", "--from", "label=a")


def test_numbers_far_outside_the_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = network(bl.networks.MLP(2, width=8, depth=1, conditions={"label": {"classes": 2}}))
    modality = Points(columns=("x", "y"), mean=(0.0, 0.0), std=(1.0, 2.0), classes=2)
    model = str(bl.Bundle(bl.Flow(net), bl.Sampler(4), modality).save(tmp_path / "bundle"))
    pd.DataFrame({"x": [0.0, 1.0], "y": [1.0, 2.0], "label": [0, 1]}).to_csv(tmp_path / "in.csv", index=False)
    assert edit(model, tmp_path / "in.csv", "--to", "label=1", out="out.csv") == 0
    after = pd.read_csv(tmp_path / "out.csv")
    assert abs(after["x"][0]) > 1e-9 and after["x"][1] == pytest.approx(1.0) and list(after["label"]) == [1, 1]
    pd.DataFrame({"x": [0.0, 1e4], "y": [1.0, 2.0]}).to_csv(tmp_path / "far.csv", index=False)
    assert edit(model, tmp_path / "far.csv", "--from", "label=0", "--to", "label=1", out="o.csv") == 2
    assert "standard deviations" in capsys.readouterr().err


def test_the_noise_of_an_inversion_and_its_error(model: str, given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = given.parent / "noise.npz"
    words = ["invert", model, str(given), "--out", str(noise), "--set", "sampler.steps=40", "--json"]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    bundle = bl.load(model)
    own = {"label": np.load(given)["labels"].tolist()}  # those of the file are the condition
    known = bundle.invert(given, own, sampler=replace(bundle.sampler, steps=40))
    assert np.array_equal(np.load(noise)["noise"], known.noise.numpy())
    assert found["round_trip"] == pytest.approx(float(known.error.mean()))
    assert run(["invert", model, str(given), "--out", str(given.parent / "noise.png")]) == 2
    assert ".npz" in capsys.readouterr().err
