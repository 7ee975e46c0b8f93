"""Every distillation to a flow map: it is the teacher at first, is trained, sampled and saved, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import beeline as bl
from beeline.config import build as config
from beeline.config.entries import MAP_DISTILLATIONS
from beeline.core.declared import is_map
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.students import as_student_map
from beeline.fields.flow import Data, Network
from beeline.networks.mlp import MLP
from beeline.recipes import points
from beeline.runs.bundle import load
from beeline.runs.run import Distilled, train
from beeline.training.config import Training
from beeline.training.fit import fit

MIXTURE = GaussianMixture([[-1.5, 0.5], [1.0, -1.0]], 0.4, labels=[0, 1])
ONE = {"Bootstrapping", "TruncatedConsistency"}  # whose students take one step
FEW = Training(steps=2, batch_size=16, ema=None, watch_every=10)
METHODS: list[Any] = [
    pytest.param(config.build({"is": f"distillations.{name}"}), id=name) for name in MAP_DISTILLATIONS
]


def teacher(**more: Any) -> bl.Flow:
    """A network that is as good as untrained, with an output that is not zero."""
    with Rng(0).ambient():
        net = Network(MLP(2, width=16, depth=3, conditions={"label": {"classes": 2}}), **more)
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p += 0.1 * Rng(1).fork(i).normal(p)
    return bl.Flow(net.eval(), null={"label": 2})


def labelled(n: int) -> Batch:
    return MIXTURE.batch(n, Rng(0), dtype=torch.float32)


@pytest.mark.parametrize("method", METHODS)
def test_it_starts_from_the_teacher_is_trained_and_sampled(method: Any) -> None:
    flow, batch = teacher(), labelled(64)
    if type(method).__name__ == "TruncatedConsistency":
        with pytest.raises(ValueError, match="first run 'beeline distill BUNDLE Consistency'"):
            method.objective(flow)
        flow = bl.Flow(as_student_map(flow))
    if type(method).__name__ == "RectifiedMeanFlow":
        method = config.change(method, {"sampler.steps": 2})
    before = [p.detach().clone() for p in flow.field.parameters()]
    networks = method.networks(flow)
    x, t, cond = batch.x1[:4], torch.full((4,), 0.4), {"label": torch.arange(4) % 2}
    assert torch.allclose(networks["student"](x, t, cond), flow.field(x, t, cond), atol=1e-6)
    objective, data = method.objective(flow), method.data(flow, batch, Rng(0))
    made = fit(networks, objective, method.feed(flow, data, Rng(3)), FEW, rng=Rng(0), log=lambda entry: None)
    student, sampler = method.student(flow, made)
    with torch.no_grad():
        x1 = sampler(student, Rng(2).normal(x), cond)
    assert torch.isfinite(x1).all() and sampler.evaluations == 1 and not student.independent
    assert all(torch.equal(a, b) for a, b in zip(flow.field.parameters(), before, strict=True))
    if type(method).__name__ in ONE:
        with pytest.raises(ValueError, match="takes one step"):
            method.for_evaluations(2)
    else:
        more = method.for_evaluations(3).student(flow, made)[1]
        assert more.evaluations == 3 and torch.isfinite(more(student, x, cond)).all()


def test_a_teacher_that_is_exact_and_its_guidance_are_the_source_of_velocities() -> None:
    flow = teacher()
    guided = config.build({"is": "distillations.MeanFlow", "guidance": "CFG(3.0)"}).objective(flow)
    examples = guided.examples(as_student_map(flow), labelled(16), Rng(0))
    jumps = examples.jumps
    weak = {"label": torch.full((16,), 2)}
    strong = flow.field(jumps.x, jumps.t, jumps.cond)
    wanted = flow.field(jumps.x, jumps.t, weak) * -2 + 3 * strong
    diagonal = jumps.t == jumps.s
    assert bool(diagonal.any()) and torch.allclose(examples.target[diagonal], wanted[diagonal], atol=1e-5)


def test_teachers_that_cannot_become_maps_are_refused() -> None:
    method = config.build({"is": "distillations.MeanFlow"})
    with pytest.raises(ValueError, match="train the teacher with Velocity"):
        method.networks(teacher(prediction=Data()))
    with pytest.raises(ValueError, match="is a function, not a network|not a network"):
        method.networks(bl.Flow(MIXTURE.field()))


def test_a_run_of_a_distillation_is_saved_and_resumed_exactly(tmp_path: Path) -> None:
    small = {"data.n": 200, "training.steps": 3, "network.width": 16, "network.depth": 2, "training.batch_size": 16}
    train(config.change(points.two_moons(), small), tmp_path / "teacher", log=lambda entry: None, live=False)
    run = Distilled(str(tmp_path / "teacher"), config.build({"is": "distillations.AlphaFlow", "evaluations": 2}))
    run = config.change(run, {"training.steps": 4, "training.batch_size": 16, "training.checkpoint_every": 2})

    def stop(entry: dict[str, Any]) -> None:
        if entry.get("step") == 3:
            raise KeyboardInterrupt

    whole = train(run, tmp_path / "whole", log=lambda entry: None, live=False)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "parts", log=stop, live=False)
    parts = train(run, tmp_path / "parts", resume=True, log=lambda entry: None, live=False)
    again = load(tmp_path / "whole")
    x0, cond = whole.start(range(4)), {"label": torch.arange(4) % 2}
    assert is_map(again.flow.field) and again.sampler.evaluations == 2
    assert torch.equal(whole.draw(x0, cond), again.draw(x0, cond))
    assert torch.equal(whole.draw(x0, cond), parts.draw(x0, cond))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MeanFlow", "AlignYourFlowLagrangian", "Shortcut", "TraFlow"])
def test_students_learn_the_flow_map(name: str) -> None:
    """From an exact field, the error of one step falls below half of that of an Euler step."""
    mixture = GaussianMixture([[-1.5, 0.5], [1.0, -1.0]], 0.4)
    flow = bl.Flow(mixture.field())
    with Rng(0).ambient():
        net = bl.networks.MapNetwork(MLP(2, width=64, depth=3, span=True))
    method = config.build({"is": f"distillations.{name}"})
    batch = mixture.batch(4000, Rng(0), dtype=torch.float32)
    training = Training(steps=600, batch_size=128, ema=None, lr=2e-3)
    made = fit({"student": net}, method.objective(flow), batch, training, rng=Rng(0), log=lambda entry: None)
    x0 = Rng(1).normal(torch.empty(500, 2))
    exact = bl.Sampler(40)(flow, x0)
    with torch.no_grad():
        student, sampler = method.student(flow, made)
        error = (sampler(student, x0) - exact).square().mean().sqrt()
        euler = (bl.Sampler(1, solver=bl.solvers.EULER)(flow, x0) - exact).square().mean().sqrt()
    assert float(error) < float(euler) / 2
