"""Distillations by score games: whole runs from a small teacher, by the command and in Python."""

import json

import pytest
import torch
from torch import nn

import beeline as bl
from beeline.cli.main import run
from beeline.config import build as config
from beeline.config.entries import GAME_DISTILLATIONS
from beeline.core.declared import as_map
from beeline.core.errors import BeelineError
from beeline.core.progress import at_progress
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.games.composed import RCM, SelfForcing, SplitTimes, merged
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.objectives.games.generation import BackwardSimulation, CausalRollout, MapRollout
from beeline.objectives.guided import GuidanceDistilled
from beeline.objectives.matching import FlowMatching
from beeline.paths.affine import Polynomial
from beeline.recipes import images
from beeline.runs.bundle import load
from beeline.runs.run import Distilled, train
from beeline.sampling.frame_by_frame import FrameByFrame
from beeline.times.composed import Frames
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.plan import step_seconds

SHORT = Training(steps=3, batch_size=8)


def quiet(entry):
    pass


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The digits with labels that are dropped at times, so that guidance is possible."""
    out = tmp_path_factory.mktemp("games") / "teacher"
    small = {"training.steps": 3, "training.batch_size": 8, "network.width": 16, "network.depth": 2}
    train(config.change(images.digits(), {**small, "objective.drop": "Drop(0.1)"}), out, log=quiet)
    return out


OTHERS = {"SelfForcing", "GuidanceDistillation"}  # of frames; of twenty steps


def method(name):
    return config.parse(name, "distillations")


@pytest.mark.parametrize("name", [n for n in GAME_DISTILLATIONS if n not in OTHERS])
def test_every_game_trains_a_student_whose_bundle_holds_it_alone(name, teacher, tmp_path):
    how = method(name)
    student = train(Distilled(str(teacher), how, SHORT), tmp_path / "student", log=quiet)
    again = load(tmp_path / "student")
    assert student.sampler.evaluations == again.sampler.evaluations <= 4
    known, mine = (sum(p.numel() for p in load(b).flow.field.parameters()) for b in (teacher, tmp_path / "student"))
    assert mine == known or (again.flow.field.is_flow_map and mine < 1.5 * known)  # with a second time
    labels = {"label": torch.arange(4)}
    made = again.draw(again.start(range(4)), labels)
    assert torch.isfinite(made).all()
    log = [json.loads(line) for line in (tmp_path / "student/log.jsonl").read_text().splitlines()]
    assert "heldout" in log[-1] and log[-1]["heldout"]["ema"]["value"] > 0
    assert list((tmp_path / "student/samples").glob("*.png")) or len(how.networks(again.flow)) > 1  # previews
    with pytest.raises(BeelineError, match="not independent"):
        again.flow.score(made, torch.full((4,), 0.5), labels)


class Running(nn.Module):
    """Every frame is the sum of its noise and of the frame before: v is exact for a student that knows it."""

    def __init__(self):
        super().__init__()
        self.off = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t, cond=None):
        t = t[:, None].expand(x.shape[:2]) if t.ndim == 1 else t
        before = torch.cat([0 * x[:, :1], x[:, :-1]], 1)
        noise = x - t[:, :, None] * before  # x_t = z + t before, straight to z + before
        assert (torch.cat([torch.ones_like(t[:, :1]), t[:, :-1]], 1) >= t).all(), "a frame starts after those before it"
        return before + 0 * noise + self.off


@pytest.mark.parametrize("steps", [1, 3])
def test_a_causal_rollout_is_the_sampling_of_frames(steps):
    student, teacher = Running(), Flow(Running())
    data = Batch(torch.zeros(5, 4, 2, dtype=torch.float64))
    how = CausalRollout(steps)
    made = how(student, teacher, data, Rng(3))
    z = teacher.source.sample(data.x1, Rng(3).fork("source"))
    assert torch.allclose(made.x1, z.cumsum(1), atol=1e-12) and made.x1.requires_grad
    assert torch.allclose(how.sampler(teacher)(Flow(student), z), z.cumsum(1), atol=1e-12)
    gradient = torch.autograd.grad(made.x1[:, -1].sum(), student.off)[0]
    share = 1.0 if steps == 1 else None  # a graph through the last evaluation alone, and none through earlier frames
    assert 0 < gradient <= 10.0 and (share is None or torch.allclose(gradient, torch.tensor(10.0, dtype=torch.float64)))
    with pytest.raises(BeelineError, match="frames"):
        CausalRollout(2)(student, teacher, Batch(torch.zeros(5, 4)), Rng(0))


@pytest.mark.parametrize("what", ["jumps", "frames", "guidance"])
def test_all_processes_of_a_step_evaluate_a_network_equally_often(what):
    """A sharded network is gathered in every evaluation, so that processes with fewer of them would wait for ever."""
    calls = []

    def field(x, t, cond=None, s=None):
        calls.append(1)
        return 0 * x

    def count(rng):
        calls.clear()
        data = torch.zeros(2, 3, 1)
        if what == "jumps":
            MapRollout(6)(as_map(field), Flow(None), Batch(data), rng)
        elif what == "frames":
            CausalRollout(4)(field, Flow(None), Batch(data), rng)
        else:
            teacher = Flow(field, null={"label": 2})
            student = lambda x, t, cond: x  # noqa: E731
            GuidanceDistilled(teacher, rollout=6)(student, Batch(data, cond={"label": torch.arange(2)}), rng)
        return len(calls)

    steps = []
    for n in range(12):
        with at_progress(0.5, Rng(n)):
            found = {count(Rng(9).fork(process)) for process in range(6)}
        assert len(found) == 1
        steps.append(found.pop())
    assert len(set(steps)) > 1


def test_self_forcing_of_short_sequences(tmp_path):
    """Sums of four random steps: a teacher with times per frame, a student in two steps a frame."""
    steps = Rng(0).normal(torch.empty(256, 4, 1))
    data = Batch(steps.cumsum(1))
    with Rng(0).ambient():
        net = Network(MLP(shape=(4, 1), width=32, depth=2, frames=4))
    quick = Training(steps=60, batch_size=64)
    net = fit(net, FlowMatching(times=Frames(count=4, clean=0.2)), data, quick, rng=Rng(1), log=quiet)
    how = SelfForcing(ratio=1, steps=2)
    nets = fit(how.networks(Flow(net)), how.objective(Flow(net)), data, quick, rng=Rng(2), log=quiet)
    flow, sampler = how.student(Flow(net), nets)
    made = sampler(flow, Rng(4).normal(torch.empty(64, 4, 1)))
    assert made.shape == (64, 4, 1) and torch.isfinite(made).all()
    bl.Bundle(flow, sampler).save(tmp_path / "bundle")
    again = load(tmp_path / "bundle")
    assert isinstance(again.sampler, FrameByFrame)


def test_two_copies_are_merged_by_their_weights():
    with Rng(0).ambient():
        a, b = (Network(MLP(2, width=8, depth=1)) for _ in range(2))
    made = merged(a, b, 0.3)
    for name, p in made.named_parameters():
        assert torch.allclose(p, 0.3 * dict(a.named_parameters())[name] + 0.7 * dict(b.named_parameters())[name])
    assert all(torch.equal(p, q) for p, q in zip(merged(a, a, 0.3).parameters(), a.parameters(), strict=True))
    game = SplitTimes(steps=4).objective(Flow(a))
    parts = [
        p.generation(b, Flow(a), Batch(torch.zeros(64, 2)), Rng(0)).t.unique().tolist()
        for p in (game.noisy, game.clean)
    ]
    assert parts == [[0.0, 0.25], [0.5, 0.75]]
    with pytest.raises(BeelineError, match="2 or more"):
        SplitTimes(steps=1)
    with pytest.raises(BeelineError, match="none of them"):
        BackwardSimulation(2, part=(0.6, 0.9))


def test_a_map_with_a_game_adds_their_gradients():
    with Rng(0).ambient():
        teacher = Flow(Network(MLP(2, width=8, depth=1)))
    how = RCM(ratio=2)
    objective, student = how.objective(teacher), how.networks(teacher)["student"]
    with torch.no_grad():
        for i, p in enumerate(student.parameters()):
            p += 0.1 * Rng(1).fork(i).normal(p)
    data, fake = Batch(Rng(2).normal(torch.empty(16, 2))), objective.spec.networks()["fake"]
    first, second = objective.players(student=student, fake=fake)
    assert (first.every, second.every, second.name) == (2, 1, "fake")
    both = torch.autograd.grad(first.loss(data, Rng(3)).value, list(student.parameters()), allow_unused=True)
    own = objective.objective(student, data, Rng(3).fork("objective")).value
    game = objective.game.student_loss(student, fake, None, data, Rng(3)).value
    parts = [torch.autograd.grad(v, list(student.parameters()), allow_unused=True) for v in (own, game)]
    for total, a, b in zip(both, *parts, strict=True):
        a, b = (torch.zeros_like(total) if g is None else g for g in (a, b))
        assert torch.allclose(total, a + 0.01 * b, atol=1e-6)


def test_distilled_guidance_in_a_run(teacher, tmp_path):
    how = method("GuidanceDistillation(into=IntoAdapters(2), rollout=2, steps=2)")
    made = train(Distilled(str(teacher), how, SHORT), tmp_path / "student", log=quiet)
    labels = {"label": torch.arange(4)}
    again = load(tmp_path / "student")
    assert torch.equal(again.draw(again.start(range(4)), labels), made.draw(made.start(range(4)), labels))
    assert again.sampler.guidance.scale == 1.5


def test_the_whole_command(teacher, tmp_path, capsys):
    short = ["--no-report", "--set", "training.steps=2", "--set", "training.batch_size=8"]
    many = ["distill", str(teacher), "DMD(guidance=CFG(2.0))", "--evaluations", "3", "--out", str(tmp_path / "three")]
    assert run([*many, *short]) != 0
    assert "its student takes one" in capsys.readouterr().err
    guided = ["distill", str(teacher), "DMD2(guidance=CFG(2.0))", "--evaluations", "2", "--out", str(tmp_path / "two")]
    assert run([*guided, *short]) == 0
    made = bl.load(tmp_path / "two")
    assert made.sampler.evaluations == 2 and made.flow.null == {}
    assert len(made.sample(2, cond={"label": torch.tensor([1, 2])}, seed=0)) == 2


def test_a_budget_is_measured_with_all_networks(teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def measured(*given, **more):
        seen.append(step_seconds(*given[:-1], 2))
        return 10.0

    with pytest.raises(BeelineError, match="give at least"):
        bl.distill(str(teacher), "DMD", budget="5s", measure=measured)
    assert seen and seen[0] > 0


def test_teachers_that_a_game_cannot_take_are_refused():
    net = Network(MLP(2, width=8, depth=1), Polynomial(2))
    with pytest.raises(BeelineError, match="slope at t = 0"):
        method("DMD").objective(Flow(net, Polynomial(2)))
    game = method("DMD(guidance=CFG(2.0))").objective(Flow(net, null={}))
    with pytest.raises(BeelineError, match="condition dropout"):
        game.student_loss(net, net, None, Batch(torch.zeros(2, 2)), Rng(0))
