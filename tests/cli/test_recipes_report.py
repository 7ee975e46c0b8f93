"""Objectives replaced in a recipe, and the report of a network with conditions that the data do not have."""

from __future__ import annotations

from pathlib import Path

from beeline.cli import commands
from beeline.fields.flow import Flow
from beeline.objectives.heads import run_sampler
from beeline.sampling.guidance.temperature import Temperature
from beeline.solvers.runge_kutta import HEUN

TINY = ["training.steps=2", "training.batch_size=16", "network.width=16", "sampler.steps=2"]


def test_report_of_a_network_with_conditions_beyond_the_data(tmp_path: Path) -> None:
    run = commands.recipe("guidance-free", TINY)
    commands.train(run, tmp_path / "run", resume=False, quiet=True, command="beeline train guidance-free")
    assert "Samples" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_replaced_objective_takes_over_the_null_condition_and_sets_its_guidance() -> None:
    for name, where in (("ModelGuidance", "objective"), ("LatentNoise", ""), ("Aligned", "objective")):
        objective = commands.recipe("digits", [f"objective={name}"]).objective
        inner = getattr(objective, where) if where else objective
        assert inner.drop is not None and inner.drop.null == 10
    own = commands.recipe("digits", ["objective=FlowMatching(drop=Drop(0.3,null=10))"]).objective
    assert own.drop.probability == 0.3
    assert commands.recipe("digits", ["objective=FlowMatching()", "objective.drop=none"]).objective.drop is None
    run = commands.recipe("digits", ["objective=GuidanceFree"])
    assert run_sampler(run.objective, run.sampler, Flow(None)).guidance == Temperature(1.5)
    assert run_sampler(run.objective, run.sampler, Flow(None)).solver == HEUN
