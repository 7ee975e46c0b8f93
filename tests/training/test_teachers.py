"""Networks that an objective holds: frozen while it trains, in no checkpoint, counted in plans."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from beeline.core.progress import progress
from beeline.core.protocols.objectives import Player
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.objectives.matching import FlowMatching
from beeline.objectives.windows import TwoHops, Windowed
from beeline.training.callbacks import CallbackBase
from beeline.training.checks import Diverged
from beeline.training.config import Training
from beeline.training.distributed.teachers import frozen, frozen_bytes
from beeline.training.early_stopping import EarlyStopping
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
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


def test_without_patience_the_weights_of_the_best_step_are_kept(tmp_path: Any) -> None:
    @dataclass(frozen=True)
    class Rising(CallbackBase):
        """A score that is best after step 4."""

        every = 2
        name = "score"
        scores = True

        def evaluate(self, raw: nn.Module, ema: nn.Module | None, step: int) -> dict[str, Any]:
            return {"distance": abs(step - 4)}

        def score(self, found: Any) -> float:
            return float(found["distance"])

    def run(steps: int, **more: Any) -> Tensor:
        notes: list[Any] = []
        stopping = {"early_stopping": EarlyStopping(None, every=2)} if more else {}
        training = settings(steps=steps, lr=1e-2, **stopping)
        made = fit(network(), FlowMatching(), DATA, training, rng=Rng(3), log=notes.append, **more)
        assert bool(more) == any("whose weights are kept" in str(entry.get("note")) for entry in notes)
        return torch.cat([p.detach().flatten() for p in made.parameters()])

    four = run(4)
    assert torch.equal(run(8, callbacks=[Rising()], checkpoint_dir=tmp_path), four)
    assert torch.equal(run(8, callbacks=[Rising()], checkpoint_dir=tmp_path, resume=tmp_path), four)
    assert torch.equal(run(8, callbacks=[Rising()]), four)  # in a temporary directory


class Pair(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with Rng(seed).ambient():
            self.layer = nn.Linear(2, 2)


@dataclass(frozen=True)
class Duel:
    """Two players, of which the second breaks at step 7 until the run has returned."""

    broken: list[bool]
    seen: list[Tensor]  # weights of the first player before its move in that step

    def players(self, **networks: nn.Module) -> list[Player]:
        def loss(name: str) -> Any:
            def value(batch: Batch, rng: Rng) -> Loss:
                net = networks[name]
                error = (net.layer(batch.x1) - rng.normal(batch.x1)).square().mean(1)  # type: ignore[operator,union-attr]
                done = round(progress() * 10)
                if name == "a" and done == 6:
                    self.seen.append(net.layer.weight.detach().clone())  # type: ignore[operator,union-attr]
                if name == "b" and done == 6 and not self.broken:
                    self.broken.append(True)
                    error = error * torch.nan
                return Loss(error.mean(), {"loss": error.detach().mean()}, error.detach(), error.detach())

            return value

        every = {"a": 2, "b": 1}
        return [Player(name, loss(name), list(net.parameters()), every[name]) for name, net in networks.items()]


def test_several_players_return_to_the_last_good_state(tmp_path: Any) -> None:
    notes: list[Any] = []
    training = settings(steps=10, max_recoveries=1, ema=EMA(5.0), lr=1e-2)
    nets = {"a": Pair(0), "b": Pair(1)}
    broken: list[bool] = []
    seen: list[Tensor] = []
    made = fit(nets, Duel(broken, seen), DATA, training, rng=Rng(3), log=notes.append, checkpoint_dir=tmp_path)
    assert broken == [True] and any("returned to step 6" in str(e.get("note")) for e in notes)
    steps = [e["step"] for e in notes if "loss" in e]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] and all(torch.isfinite(p).all() for p in made["b"].parameters())
    rates = {e["step"]: e["lr"] for e in notes if "loss" in e}
    assert rates[6] == 1e-2 and rates[7] == 5e-3
    # the first player moved in the broken step, and starts from the checkpoint again
    assert len(seen) == 2 and torch.equal(*seen)
    with pytest.raises(Diverged):
        fit({"a": Pair(0), "b": Pair(1)}, Duel([], []), DATA, settings(steps=10, max_recoveries=0), log=lambda e: None)
