"""The benchmarks of small changes and small models, on digits of 8 x 8 with few steps, and their pages."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import beeline as bl
from benchmarks import adapt, chain, chart, compress, controls, report
from benchmarks.fewstep_parts import costs, worlds

TINY = replace(worlds.MNIST, teacher_steps=4, batch=8, classifier=4, features=16)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found, folder = worlds.digits(), tmp_path_factory.mktemp("digits")
    x, test = (((part[:, 0] + 1) * 127.5).byte().numpy() for part in (found.x, found.test))
    np.savez(folder / "mnist.npz", x_train=x, y_train=found.label, x_test=test, y_test=found.test_label)
    return folder / "mnist.npz"


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with marks in place of the documentation."""
    page = tmp_path / "docs" / "guides" / "small.md"
    page.parent.mkdir(parents=True)
    page.write_text("".join(f"before <!-- begin of {n}; generated --> old <!-- end of {n} --> after\n" for n in MARKS))
    for other in ("compressing", "control"):
        (page.parent / f"{other}.md").write_text(page.read_text())
    monkeypatch.setattr(report, "DOCS", tmp_path / "docs")
    return page


MARKS = ("compress", "chain", "adapt", "controls")


def run(module: Any, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(worlds, "MNIST", TINY)
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, words)])
    module.main()


@pytest.mark.slow
def test_the_chain_is_measured_and_written(
    digits: Path, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {chain.ONE: chain.LINKS[chain.ONE], chain.NARROW: chain.LINKS[chain.NARROW]}
    monkeypatch.setattr(chain, "LINKS", {**few, "one step, narrow, int8": (chain.NARROW, "int8()", False)})
    monkeypatch.setattr(chain, "ROUNDS", 1)
    monkeypatch.setattr("beeline.runs.compressing.job.CALLS", 4)
    monkeypatch.setattr(chain, "PICTURE", tmp_path / "chain.svg")
    words = ("--mnist", digits, "--models", tmp_path / "models", "--pairs", 20, "--steps", 3, "--samples", 80)
    out = tmp_path / "chain.json"
    run(chain, monkeypatch, *words, "--output", out)
    found = report.read(out)["figures"]
    teacher, one, narrow, last = (found[name] for name in (*chain.CHAIN[:3], "one step, narrow, int8"))
    assert teacher["bytes"] == one["bytes"] > narrow["bytes"] > 2 * last["bytes"]
    assert teacher["speed"] == 1 and one["speed"] > 8 and narrow["speed"] > 8
    run(chain, monkeypatch, "--page", "--output", out)
    assert (
        f"| one step, narrow, int8 | {last['bytes']:,} |" in pages.read_text()
        and chain.NARROW in chain.PICTURE.read_text()
    )


@pytest.mark.slow
def test_controls_are_measured_and_written(
    digits: Path, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "HINTS", ("Edges()",))
    out = tmp_path / "controls.json"
    words = ("--mnist", digits, "--models", tmp_path / "models", "--steps", 3, "--samples", 80, "--output", out)
    run(controls, monkeypatch, *words, "--only", "T2IAdapter")
    found = report.read(out)["figures"]["Edges()"]
    assert set(found) == {controls.NONE, "T2IAdapter()"} and found["T2IAdapter()"]["weights"] > 0
    run(controls, monkeypatch, "--page", "--output", out)
    assert f"| {found[controls.NONE]['error']:.3f} |" in (pages.parent / "control.md").read_text()


def test_a_text_is_written_between_its_marks(pages: Path) -> None:
    report.fill(pages, "chain", "new")
    report.fill(pages, "chain", "newer")
    assert pages.read_text().splitlines()[1:6] == [
        "before <!-- begin of chain; generated -->", "", "newer", "", "<!-- end of chain --> after",
    ]  # fmt: skip


def test_a_chart_has_every_point_at_its_place() -> None:
    points = [chart.Point("a", 1, 10), chart.Point("b < c", 10, 100), chart.Point("d", 100, 1000)]
    text = chart.drawn(points, "x", "y", [[0, 2]])
    spots = [[float(part.split("'")[1]) for part in line.split("<circle ")[1].split(" ")[:2]]
             for line in text.splitlines() if "<circle" in line]  # fmt: skip
    assert text == chart.drawn(points, "x", "y", [[0, 2]]) and "b &lt; c" in text
    assert spots[1] == pytest.approx([(p + q) / 2 for p, q in zip(spots[0], spots[2], strict=True)], abs=0.1)


def test_only_methods_that_none_beats_are_on_the_page() -> None:
    def row(size: int, error: float) -> dict[str, Any]:
        return {"bytes": size, "error": error, "distance": 1.0, "share": size / 9, "ratio": 1.0, "speed": 1.0}

    text = compress.best({"good": row(4, 0.1), "bad": row(5, 0.2), "large": row(9, 0.0)}, {"good": {"speed": 3.0}})
    assert [line.split("`")[1] for line in text.splitlines()[2:]] == ["large", "good"] and "3.00 x" in text


def test_a_delta_gets_the_setting_and_layers_with_most_weights_within_a_share() -> None:
    teacher, row = costs.teacher(), adapt.Row("LoRA({})", (1, 2, 3), (("mix.qkv",), ("inp",)))
    each = {layer: out + into for layer, out, into in (("mix.qkv", 192, 64), ("inp", 64, 16))}
    assert row.chosen(teacher, 4 * each["mix.qkv"] + 1)[0] == "LoRA(1) in mix.qkv"
    assert row.chosen(teacher, 4 * each["mix.qkv"] - 1)[0] == "LoRA(3) in inp"
    name, method = row.chosen(teacher, 1)
    assert name == "LoRA(1) in inp" and adapt.trained(method.networks(teacher)["student"]) == each["inp"]


@pytest.mark.slow
def test_a_flow_is_adapted_and_the_page_is_written(
    digits: Path, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt, "ROWS", (adapt.Row("LoRA({})"), adapt.Row("Difference()", places=((),))))
    monkeypatch.setattr(adapt, "PICTURE", tmp_path / "adapt.svg")
    monkeypatch.setattr(adapt, "RATES", (1e-3, 1e-2))
    monkeypatch.setattr(adapt, "PROBED", 2)
    out = tmp_path / "adapt.json"
    words = ("--mnist", digits, "--models", tmp_path / "models", "--steps", 3, "--samples", 80, "--seconds", 0.3)
    words = (*words, "--style", "inverted", "--share", "0.5", "--output", out)
    for more in (("--part", "0/2"), ("--part", "1/2"), ("--long",)):
        run(adapt, monkeypatch, *words, *more)
    found = report.read(out)["figures"]["inverted"]
    low = found["LoRA(1)"]
    assert low["old_inactive_change"] == 0 and low["share"] < 0.05 and found[f"LoRA(1){adapt.LONG}"]["steps"] >= 1
    assert found[adapt.FULL]["old_inactive_change"] is None and found[adapt.FULL]["share"] == 1
    run(adapt, monkeypatch, "--page", "--output", out)
    assert "| `LoRA(1)` |" in pages.read_text() and "LoRA(1)" in adapt.PICTURE.read_text()


@pytest.mark.parametrize("style", adapt.STYLES)
def test_a_style_can_be_undone(style: str) -> None:
    do, undo = adapt.STYLES[style]
    x = bl.Rng(0).normal(torch.empty(2, 1, 4, 4))
    assert torch.equal(undo(do(x)), x) and not torch.equal(do(x), x)
