"""Objectives that put more around a run's network: each is named in a recipe, trained, saved and drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from beeline import config
from beeline.bundle import load
from beeline.core.rng import Rng
from beeline.learn.heads import Head, place
from beeline.recipes import images, points
from beeline.run import Run, train

SMALL = {"training.steps": 2, "training.lot": 8, "sampler.steps": 2, "network.width": 16, "network.depth": 2}


def quiet(entry: dict[str, Any]) -> None:
    """A log that says nothing."""


def run_of(recipe: Run, objective: str, **more: Any) -> Run:
    run: Run = config.change(recipe, {**SMALL, "objective": objective, **more})
    return run


def moons() -> Run:
    made: Run = config.change(points.two_moons(), {"data.n": 200})
    return made


BY_NAME = [
    (images.digits, "Separable", "networks.Helped"),
    (moons, "EncodedSource", "networks.Helped"),
    (images.digits, "EncodedSource", "networks.Helped"),
    (moons, "DeepSupervision", "networks.Deep"),
    (images.digits, "DeepSupervision", "networks.Deep"),
    (moons, "ConstantAccelerationMatching(coupling=Independent())", "networks.Accelerating"),
]


@pytest.mark.parametrize(("recipe", "objective", "kind"), BY_NAME)
def test_named_in_a_recipe_trained_saved_and_drawn_from(recipe: Any, objective: str, kind: str, tmp_path: Path) -> None:
    run = run_of(recipe(), objective)
    bundle = train(run, tmp_path / "run", log=quiet)
    again = load(tmp_path / "run")
    assert config.describe(again.flow.field)["is"] == kind
    label = torch.arange(3) if again.modality.conditions else None
    cond = None if label is None else {"label": label}
    x0 = bundle.start(range(3))
    made = again.draw(x0, cond)
    assert torch.isfinite(made).all() and torch.equal(made, bundle.draw(x0, cond))
    assert config.build(config.describe(run)) == run


def test_the_extra_weights_are_learned(tmp_path: Path) -> None:
    """A second step of training changes the probe, and the run's seed alone decides where it starts."""
    nets = [
        train(run_of(images.digits(), "Separable", **{"training.steps": n}), tmp_path / str(n), log=quiet).flow.field
        for n in (1, 3)
    ]
    probes = [net.helper.layers[0].weight for net in nets]
    assert probes[0].shape == (10, 16) and not torch.equal(*probes)


def test_a_flow_without_a_path_has_no_score(tmp_path: Path) -> None:
    run = run_of(moons(), "ConstantAccelerationMatching(coupling=Independent())")
    assert not train(run, tmp_path / "run", log=quiet).flow.independent


REFUSED = [
    (moons, "Separable(by=kind)", {}, "the class as the condition 'kind'"),
    (images.digits, "ConstantAccelerationMatching(coupling=Independent())", {}, "benchmarks/claims/c034.py"),
    (moons, "ConstantAccelerationMatching", {}, "pairs"),
    (moons, "LatentNoise", {}, "benchmarks/claims/c543.py"),
    (moons, "Classify", {}, "benchmarks/claims/c522.py"),
    (moons, "Hierarchical", {}, "benchmarks/claims/c070.py"),
    (moons, "PyramidMatching", {}, "benchmarks/claims/c111.py"),
    (moons, "Dispersed(EncodedSource(), 'backbone.block.0')", {}, "the other way round"),
]


@pytest.mark.parametrize(("recipe", "objective", "more", "words"), REFUSED)
def test_what_a_recipe_cannot_say_is_refused(
    recipe: Any, objective: str, more: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        train(run_of(recipe(), objective, **more), tmp_path / "run", log=quiet)


def test_features_that_are_pictures_are_refused(tmp_path: Path) -> None:
    run = config.change(images.digits(), {"objective": "DeepSupervision", "training.steps": 1})
    run = config.change(run, {"network": {"is": "networks.DiT", "width": 16, "depth": 1, "heads": 2}})
    with pytest.raises(ValueError, match=r"vectors \[B,D\]"):
        train(run, tmp_path / "run", log=quiet)


def test_the_programs_named_exist() -> None:
    from beeline.catalogue import CATALOGUE, member

    programs = [getattr(member(f"objectives.{name}"), "program", None) for name in CATALOGUE["objectives"]]
    root = Path(__file__).parent.parent
    assert len([p for p in programs if p]) == 5
    assert all((root / p).is_file() for p in programs if p)


def test_a_head_starts_at_zero_and_a_place_needs_blocks() -> None:
    with Rng(0).ambient():
        assert not Head(3, (2,), width=4, still=True)(torch.ones(2, 3)).any()
    assert place(None, "named") == "named"
    with pytest.raises(ValueError, match="no repeated blocks"):
        place(torch.nn.Linear(2, 2))
