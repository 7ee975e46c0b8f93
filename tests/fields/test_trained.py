"""Students refuse other steps, evaluations and guidance than they were trained for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.distillation.decoding import ParallelDecoding
from beeline.distillation.finetune import PeRFlow
from beeline.distillation.games.matching import DMD2
from beeline.distillation.maps.presets import MeanFlow
from beeline.distillation.students import OneStep, Reflow
from beeline.fields.flow import Flow, Network
from beeline.fields.trained import Trained, trained_of
from beeline.networks.mlp import MLP
from beeline.runs.bundle import Bundle, load
from beeline.runs.run import trained_for
from beeline.sampling.guidance.guide import CFG
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.times.samplers import At

X = torch.zeros(3, 2)


def flow(trained: Trained | None) -> Flow:
    return Flow(Network(MLP(2, width=8, depth=1)), trained=trained)


def test_fixed_times_are_those_of_the_sampler() -> None:
    student = flow(Trained((0.0, 0.25, 0.5, 1.0)))
    Sampler(1, solver=EULER)(student, X), Sampler(2, solver=EULER)(student, X)
    Sampler(1, solver=EULER)(student, X, start=0.25, end=0.5)
    for sampler in (Sampler(4, solver=EULER), Sampler(3, solver=EULER)):
        with pytest.raises(BeelineError, match=r"the sampler has the times .* between \[0.0, 0.25, 0.5, 1.0\] alone"):
            sampler(student, X)
    with pytest.raises(BeelineError, match="takes 2 evaluations in 1 steps"):
        Sampler(1, solver=HEUN)(student, X)
    with pytest.raises(BeelineError, match="the sampler has the times"):
        Sampler(1, solver=EULER).invert(student, X)


def test_parts_may_be_divided_and_not_crossed() -> None:
    student = flow(Trained((0.0, 0.5, 1.0), inside=True))
    Sampler(4, solver=HEUN)(student, X), Sampler(2, solver=EULER).invert(student, X)
    Sampler(1, solver=EULER)(student, X, start=0.5, end=0.8)
    with pytest.raises(BeelineError, match=r"crosses the time \[0.5\]"):
        Sampler(3, solver=HEUN)(student, X)


def test_further_guidance_is_refused() -> None:
    student = flow(Trained(guided=True))
    Sampler(3)(student, X)
    with pytest.raises(BeelineError, match="further guidance"):
        Sampler(3, guidance=CFG(2.0, 0))(student, X)
    assert not Trained(guided=True).fixed and Trained((0.0, 1.0)).fixed


@pytest.mark.parametrize(
    ("method", "steps", "expected"),
    [
        (OneStep(), 1, Trained((0.0, 1.0))),
        (OneStep(Sampler(4, guidance=CFG(2.0, 0))), 1, Trained((0.0, 1.0), guided=True)),
        (Reflow(), 4, None),
        (Reflow(Sampler(4, guidance=CFG(2.0, 0))), 4, Trained(guided=True)),
        (PeRFlow(2), 2, Trained((0.0, 0.5, 1.0), inside=True)),
        (PeRFlow(2, times=At(0.0)), 2, Trained((0.0, 0.5, 1.0))),
        (ParallelDecoding(intervals=8).for_evaluations(2), 2, Trained((0.0, 0.5, 1.0))),
        (MeanFlow(), 1, None),
        (MeanFlow(guidance=CFG(2.0, 0)), 1, Trained(guided=True)),
        (DMD2().for_evaluations(2), 2, Trained((0.0, 0.5, 1.0))),
    ],
)
def test_what_the_methods_fix(method: Any, steps: int, expected: Trained | None) -> None:
    assert trained_for(method, Sampler(steps, solver=EULER)) == expected


def test_a_bundle_keeps_it(tmp_path: Path) -> None:
    for name, trained in (("a", None), ("b", Trained((0.0, 1 / 3, 1.0), guided=True))):
        Bundle(flow(trained)).save(tmp_path / name)
        assert load(tmp_path / name).flow.trained == trained
    file = tmp_path / "b" / "flow.json"
    data = json.loads(file.read_text())
    assert "trained" not in json.loads((tmp_path / "a" / "flow.json").read_text())
    assert data["trained"] == {"times": [0.0, 1 / 3, 1.0], "inside": False, "guided": True}


@pytest.mark.parametrize("plain", [{"times": [0.0, 1.0]}, {"times": "x", "inside": False, "guided": False}])
def test_damaged_entries_are_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(BeelineError, match="not what a bundle writes"):
        trained_of(plain)


def test_times_have_to_rise() -> None:
    for times in ((0.5,), (0.5, 0.2), (0.0, 1.5)):
        with pytest.raises(BeelineError, match="rising times"):
            Trained(times)


def test_a_student_of_a_student_is_not_bound_to_its_steps() -> None:
    teacher = replace(flow(Trained((0.0, 1.0))), field=nn.Identity())
    made, sampler = Reflow().student(teacher, {"student": nn.Identity()})
    assert trained_for(Reflow(), sampler) is None and isinstance(made, bl.Flow)
