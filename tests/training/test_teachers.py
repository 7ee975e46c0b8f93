"""Networks that an objective holds: frozen while it trains, in no checkpoint, counted in plans."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.objectives.matching import FlowMatching
from beeline.objectives.windows import TwoHops, Windowed
from beeline.training.checks import Diverged
from beeline.training.config import Training
from beeline.training.distributed.teachers import frozen, frozen_bytes
from beeline.training.fit import fit
from beeline.training.plan import plan

DATA = Batch(Rng(1).normal(torch.empty(64, 2)) + 1)


def network(width: int = 8, seed: int = 0) -> Network:
    with Rng(seed).ambient():
        net = Network(MLP(2, width=width, depth=1))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):  # the last layer starts at zero
            p.add_(Rng(seed).fork(i).normal(p), alpha=0.1)
    return net


def settings(**more: Any) -> Training:
    return Training(**{"steps": 6, "batch_size": 8, "checkpoint_every": 3, "ema": None} | more)


def flags(net: nn.Module) -> list[bool]:
    return [m.training for m in net.modules()] + [p.requires_grad for p in net.parameters()]


@dataclass(frozen=True)
class Watched:
    """The distance of a field from a teacher, with a gradient through the teacher to its input."""

    teacher: Flow
    fail: bool = False

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        net = self.teacher.field
        assert not any(flags(net))
        t = rng.fork("t").uniform(len(batch.x1), batch.x1)
        u = field(batch.x1, t)
        error = (net(batch.x1 + u, t) - 1).square().mean(1) * (torch.nan if self.fail else 1.0)
        return Loss(error.mean(), {"loss": error.detach().mean()}, error.detach(), t)


@pytest.mark.parametrize("fail", [False, True])
def test_a_teacher_is_frozen_in_training_and_its_flags_are_restored(fail: bool) -> None:
    teacher = network(seed=1)
    teacher.train()
    next(teacher.parameters()).requires_grad_(False)
    before, weights = flags(teacher), copy.deepcopy(teacher.state_dict())
    student = network()
    start = copy.deepcopy(student.state_dict())
    if fail:
        with pytest.raises(Diverged):
            fit(student, Watched(Flow(teacher), fail), DATA, settings(), log=lambda entry: None)
    else:
        fit(student, Watched(Flow(teacher), fail), DATA, settings(), log=lambda entry: None)
        assert any(not torch.equal(a, start[k]) for k, a in student.state_dict().items())
    assert flags(teacher) == before and all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(a, weights[k]) for k, a in teacher.state_dict().items())


def test_checkpoints_hold_no_tensor_of_a_teacher_and_a_run_resumes_exactly(tmp_path: Any) -> None:
    def run(**more: Any) -> Tensor:
        teacher = Flow(network(width=24, seed=1))
        objective = TwoHops(teacher, FlowMatching())
        made = fit(network(), objective, DATA, settings(), rng=Rng(3), log=lambda entry: None, **more)
        return torch.cat([p.detach().flatten() for p in made.parameters()])

    whole = run(checkpoint_dir=tmp_path)
    size = sum(p.numel() for p in network().parameters())
    for file in tmp_path.rglob("*.safetensors"):
        with safe_open(file, framework="pt") as found:
            shapes = [found.get_slice(key).get_shape() for key in found.keys()]  # noqa: SIM118
        assert all(24 not in shape for shape in shapes)
        assert sum(torch.Size(shape).numel() for shape in shapes) <= 3 * size + 32  # weights and two moments
    assert torch.equal(run(resume=tmp_path / "step-00000003"), whole)


def test_a_network_that_is_teacher_and_student_is_trained_and_named() -> None:
    net = network()
    notes: list[Any] = []
    before = copy.deepcopy(net.state_dict())
    wrapped = Network(net.backbone)  # another module around the same weights
    with frozen(Windowed(Flow(wrapped), 2, 1), {"network": net}):
        assert all(p.requires_grad for p in net.parameters()) and all(m.training for m in net.modules())
        assert not wrapped.training
    fit(net, Windowed(Flow(wrapped), 2, 1), DATA, settings(), log=notes.append)
    assert any(not torch.equal(a, before[k]) for k, a in net.state_dict().items())
    assert "the objective holds weights of ['network']" in str(notes[0]["note"])


def test_no_note_for_a_teacher_of_its_own() -> None:
    notes: list[Any] = []
    fit(network(), Windowed(Flow(network()), 2, 1), DATA, settings(), log=notes.append)
    assert not any("holds weights" in str(entry.get("note")) for entry in notes)


def test_a_plan_counts_the_teacher_and_its_activations() -> None:
    small, large = Flow(network(8, seed=1)), Flow(network(256, seed=1))
    student = network()
    made = {flow: plan(student, Watched(flow), DATA, settings(), rng=Rng(0), trial=2) for flow in (small, large)}
    nets = {"network": student}
    for flow, found in made.items():
        weights = sum(p.numel() * p.element_size() for p in flow.field.parameters())
        assert found.teacher == frozen_bytes(Watched(flow), nets) == weights
        assert found.peak == found.weights + found.optimizer + found.averages + weights + max(
            found.activations, found.gradients + found.extra
        )
        assert any(line.startswith("  teacher") for line in found.lines())
    assert made[small].weights == made[large].weights and made[small].gradients == made[large].gradients
    assert made[large].activations > made[small].activations + 8 * 256 * 4  # of a microbatch of 8 data
    assert plan(student, FlowMatching(), DATA, settings(), rng=Rng(0), trial=0).teacher == 0
    assert all(p.requires_grad for p in large.field.parameters())
