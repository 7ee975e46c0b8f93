"""Score games: fixed points, the order of moves, generation and noising, and what is trained when."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from beeline.core.declared import as_map
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.data.distributions.mixtures import Gaussian
from beeline.evaluation.heldout import HeldOut
from beeline.fields.flow import Flow, Network, evaluate_field
from beeline.networks.mlp import MLP
from beeline.objectives.games.adversarial import Adversarial, Hinge, OwnCleaner
from beeline.objectives.games.distance import SampleDistance
from beeline.objectives.games.game import ScoreGame
from beeline.objectives.games.generation import (
    BackwardSimulation,
    Fresh,
    FromNoisedData,
    MapRollout,
    OneJump,
    Phases,
    SharedTimes,
)
from beeline.objectives.games.terms import (
    Fisher,
    GuidanceAugmentation,
    NoiseUnits,
    ScoreDifference,
    ScoreIdentity,
    ScoreImplicit,
    ScoreUnits,
    TermBase,
    TermSum,
)
from beeline.objectives.matching import FlowMatching
from beeline.paths.affine import Cosine, Linear
from beeline.paths.interpolant import EncodeDecode
from beeline.paths.part import PartOfPath
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER
from beeline.training.checks import Interrupted
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.plan import plan, step_seconds
from tests.objectives.exact import assert_minimum

TARGET = Gaussian((0.5, -1.0), std=(0.5, 0.7))


class Exact(nn.Module):
    """The exact velocity of the target, as a network."""

    def __init__(self):
        super().__init__()
        self.none = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t, cond=None):
        return TARGET.field()(x, t) + 0 * self.none


class Affine(nn.Module):
    """A one-step student: v(z, 0) = mean + (std - 1) z."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor([0.5, 0.7], dtype=torch.float64))

    def forward(self, x, t, cond=None):
        return self.mean + (self.std - 1) * x


def net(seed=0, **more):
    with Rng(seed).ambient():
        made = Network(MLP(2, width=16, depth=2, **more))
    with torch.no_grad():
        for i, p in enumerate(made.parameters()):
            p += 0.05 * Rng(seed).fork(i).normal(p)
    return made


def batch(n=64, dtype=torch.float32):
    return Batch(TARGET.sample(n, Rng(1), dtype=dtype))


def quiet(entry):
    pass


TERMS = [ScoreDifference(), ScoreDifference(weight=NoiseUnits()), ScoreDifference(weight=ScoreUnits()),
         ScoreIdentity(), ScoreImplicit(), Fisher()]  # fmt: skip


@pytest.mark.parametrize("term", TERMS)
def test_a_student_of_the_right_distribution_does_not_move(term):
    student, fake = Affine(), Exact()
    game = ScoreGame(Flow(Exact()), term=term)
    loss = game.student_loss(student, fake, None, batch(256, torch.float64), Rng(0))
    for gradient in torch.autograd.grad(loss.value, list(student.parameters())):
        assert gradient.abs().max() < 1e-12
    with torch.no_grad():
        student.mean += 0.3
    loss = game.student_loss(student, fake, None, batch(256, torch.float64), Rng(0))
    # the fake network is that of the teacher still, so score differences see nothing, and the identities a bias alone
    assert torch.isfinite(loss.value)


def test_the_gradient_of_a_game_is_that_of_the_divergence():
    """With the exact fake network and score units: E over noise of h (s_fake - s_T) a dx/dtheta, against autograd."""

    class Own(nn.Module):
        def forward(self, x, t, cond=None):
            return Gaussian((0.8, -0.8), std=(0.6, 0.6)).field()(x, t)

    student = Affine()
    with torch.no_grad():
        student.mean.copy_(torch.tensor([0.8, -0.8]))
        student.std.copy_(torch.tensor([0.6, 0.6]))
    from beeline.times.samplers import At

    game = ScoreGame(Flow(Exact()), term=ScoreDifference(weight=ScoreUnits()), noising=Fresh(At(0.5)))
    loss = game.student_loss(student, Own(), None, Batch(torch.empty(100_000, 2, dtype=torch.float64)), Rng(0))
    found = torch.autograd.grad(loss.value, [student.mean, student.std])
    mean, std = (p.detach().clone().requires_grad_(True) for p in (student.mean, student.std))
    ours, theirs = 0.25 * std**2 + 0.25, 0.25 * torch.tensor([0.5, 0.7]) ** 2 + 0.25  # variances at t = 1/2
    gap = 0.25 * (mean - torch.tensor([0.5, -1.0])) ** 2
    kl = 0.5 * ((ours + gap) / theirs - 1 + (theirs / ours).log()).sum() / 2  # per coordinate
    exact = torch.autograd.grad(kl, [mean, std])
    for a, b in zip(found, exact, strict=True):
        assert torch.allclose(a, b, atol=0.004)


def moves(entries):
    """The steps in which the student, the fake network and the critic moved."""
    return [{name for name in ("student", "fake", "critic") if (f"{name}.loss" in e["terms"] or
             (name == "student" and "loss" in e["terms"]))} for e in entries if "loss" in e]  # fmt: skip


@pytest.mark.parametrize("ratio", [1, 5])
def test_the_order_of_moves_also_after_resume(ratio, tmp_path):
    teacher = Flow(net())
    training = Training(steps=12, batch_size=8, checkpoint_every=7)
    game = ScoreGame(teacher, adversarial=Adversarial(weight=0.1), ratio=ratio)

    def run(steps, folder, **more):
        entries = []
        made = fit({"student": copy.deepcopy(teacher.field)}, game, batch().x1, replace(training, steps=steps),
                   rng=Rng(3), log=entries.append, checkpoint_dir=folder, **more)  # fmt: skip
        return made, entries

    whole, entries = run(12, tmp_path / "whole")
    found = moves(entries)
    assert [i for i, who in enumerate(found) if "student" in who] == list(range(0, 12, ratio))
    assert all({"fake", "critic"} <= who for who in found)

    def stop(entry):
        if entry.get("step") == 8:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        fit({"student": copy.deepcopy(teacher.field)}, game, batch().x1, training, rng=Rng(3), log=stop,
            checkpoint_dir=tmp_path / "halves")  # fmt: skip
    resumed, later = run(12, tmp_path / "halves", resume=tmp_path / "halves")
    assert moves(later) == found[-len(moves(later)):]  # fmt: skip
    assert set(whole) == {"student", "fake", "critic"} == set(resumed)
    for name in whole:
        for a, b in zip(whole[name].parameters(), resumed[name].parameters(), strict=True):
            assert torch.equal(a, b)


def test_others_are_frozen_while_one_moves():
    seen = []

    class Looks(TermBase):
        def __init__(self, fake, teacher):
            self.networks = (fake, teacher)

        def __call__(self, situation):
            seen.append([any(p.requires_grad for p in n.parameters()) for n in self.networks])
            return ScoreIdentity()(situation)

    teacher, student, fake = net(), net(1), net(2)
    game = ScoreGame(Flow(teacher), term=Looks(fake, teacher))

    class Game:
        def players(self, student, fake):
            return game.players(student=student, fake=fake)

    fit({"student": student, "fake": fake}, Game(), batch().x1, Training(steps=2, batch_size=8), rng=Rng(0), log=quiet)
    assert seen and not any(any(flags) for flags in seen)
    assert all(p.requires_grad for n in (teacher, student, fake) for p in n.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_states_of_backward_simulation_are_those_of_the_sampler():
    teacher, student = Flow(net()), net(1)
    how, data = BackwardSimulation(3), batch(40)
    made = how(student, teacher, data, Rng(5))
    z = teacher.source.sample(data.x1, Rng(5).fork("source"))
    known = []
    Sampler(3, solver=EULER)(Flow(student), z, watch=lambda x, t: known.append(x))
    for k, state in enumerate(known[:3]):
        mine = (made.t - k / 3).abs() < 1e-6
        assert mine.any() and torch.allclose(made.x[mine], state[mine], atol=1e-6)
    v = student(made.x, made.t)
    assert torch.allclose(made.x1, made.x + (1 - made.t)[:, None] * v, atol=1e-6) and made.x1.requires_grad
    assert how.sampler(teacher).evaluations == 3
    jump = OneJump()(student, teacher, data, Rng(5))
    assert torch.allclose(jump.x1, z + student(z, torch.zeros(40)), atol=1e-6)
    noised = FromNoisedData(4)(student, teacher, data, Rng(5))
    assert torch.allclose(noised.x, Linear().point(z, data.x1, noised.t).x)
    assert set(noised.t.tolist()) <= {0, 0.25, 0.5, 0.75}


@pytest.mark.parametrize("path", [Linear(), Cosine()])
def test_shared_times_are_the_next_states_of_the_student(path):
    teacher, student = Flow(net(), path), net(1)
    made = BackwardSimulation(3)(student, teacher, batch(40), Rng(5))
    at = SharedTimes()(made, teacher.source, Rng(6))
    inner = made.s < 0.99
    noise, data = path.ends(made.x, student(made.x, made.t), made.t)
    wanted = path.point(noise, data, made.s.clamp(max=0.9))
    assert inner.any() and not inner.all()
    assert torch.allclose(at.x[inner], wanted.x[inner], atol=1e-5)
    assert torch.allclose(at.v[inner], wanted.v[inner], atol=1e-4)
    assert torch.equal(at.t[inner], made.s[inner])
    fresh = Fresh()(made, teacher.source, Rng(6))
    assert torch.equal(at.x[~inner], fresh.x[~inner])


def test_phases_end_at_the_times_of_the_grid():
    teacher, student, ends = Flow(net()), net(1), set()
    for key in range(8):
        made = Phases(2)(student, teacher, batch(16), Rng(key))
        ends.add(made.end)
        step = made.x + (made.s - made.t)[:, None] * student(made.x, made.t)
        assert torch.allclose(made.x1, step, atol=1e-6)
        at = Fresh()(made, teacher.source, Rng(0))
        assert (at.t < made.end).all() and torch.isfinite(at.v).all()
    assert ends == {0.5, 1.0}
    with pytest.raises(BeelineError, match="straight path"):
        Phases(2)(student, Flow(net(), Cosine()), batch(4), Rng(0))


def test_the_minimum_on_a_part_of_the_path_is_the_original_field():
    """Flow matching of states x_s of the straight path, on PartOfPath(s), against the exact field of the data."""
    from tests.objectives.exact import PLAIN

    end = 0.6

    class Early:
        def __call__(self, n, like, rng):
            return 0.02 + 0.55 * rng.uniform(n, like)

        def log_prob(self, t):
            return torch.zeros_like(t)

    def states(n, rng):
        x1 = PLAIN.sample(n, rng, dtype=torch.float64)
        return Batch((1 - end) * rng.fork("start").normal(x1) + end * x1)

    assert_minimum(FlowMatching(PartOfPath(end), times=Early()), PLAIN.field(), states)


def test_a_part_of_the_path_has_the_marginals_of_the_path():
    path, t = PartOfPath(0.6), torch.linspace(0, 0.59, 9, dtype=torch.float64)
    a, b, da, db = path.coefficients(t)
    x_s_variance = 0.6**2 * 0.5**2 + 0.4**2  # data with deviation 0.5
    assert torch.allclose(a**2 * x_s_variance + b**2, t**2 * 0.25 + (1 - t) ** 2)
    slow = torch.func.jvp(path.b, (t,), (torch.ones_like(t),))[1]
    assert torch.allclose(db, slow) and torch.allclose(da, torch.full_like(t, 1 / 0.6))
    assert torch.allclose(path.half_variance_slope(t), b * db)
    later = path.coefficients(torch.tensor([0.7, 1.0]))
    assert [part.tolist() for part in later] == [[1, 1], [0, 0], [0, 0], [0, 0]]


def test_a_rollout_of_an_exact_map_ends_at_its_datum():
    class Map(nn.Module):
        is_flow_map = True

        def __init__(self):
            super().__init__()
            self.off = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x, t, cond=None, s=None):
            t, s = (part[:, None] for part in (t, s))  # x_t = z (1 + t): straight, so the jump is (s - t) z
            return x / (1 + t) + self.off + 0 * s

    student, data = Map(), batch(30, torch.float64)
    for key in range(6):
        made = MapRollout(4)(student, Flow(student), data, Rng(key))
        z = Flow(None).source.sample(data.x1, Rng(key).fork("source"))
        assert torch.allclose(made.x1, 2 * z, atol=1e-12) and made.x1.requires_grad
    with pytest.raises(BeelineError, match="no flow map"):
        MapRollout(4)(net(), Flow(net()), batch(4), Rng(0))
    assert as_map(lambda x, t: x).is_flow_map


def test_the_critic_takes_features_of_the_named_network():
    teacher, student, fake = Flow(net()), net(1), net(2)
    data = batch(16)
    blocks = ("backbone.block.0", "backbone.block.1")
    for term in (Adversarial(weight=1.0), Adversarial(1.0, on_fake=True, blocks=blocks),
                 Adversarial(1.0, Hinge(), OwnCleaner(), r1=0.5, same_noise=False)):  # fmt: skip
        game = ScoreGame(teacher, term=None, adversarial=term, ratio=1)
        nets = game.networks()
        assert set(nets) == ({"fake", "critic"} if term.on_fake else {"critic"})
        assert len(nets["critic"].parts) == max(1, len(term.blocks))
        losses = {p.name: p for p in game.players(student=student, **nets)}
        value = losses["critic"].loss(data, Rng(0))
        assert value.value.requires_grad and ("r1" in value.terms) == bool(term.r1)
        moved = torch.autograd.grad(losses["student"].loss(data, Rng(0)).value, list(student.parameters()))
        assert all(torch.isfinite(g).all() for g in moved) and any(g.abs().max() > 0 for g in moved)
    with pytest.raises(BeelineError, match="no module 'block.7'"):
        ScoreGame(teacher, term=None, adversarial=Adversarial(blocks=("block.7",))).networks()
    with pytest.raises(BeelineError, match="comes from a critic"):
        from beeline.objectives.games.divergences import ForwardKL

        ScoreGame(teacher, term=ScoreDifference(ForwardKL()))
    with pytest.raises(BeelineError, match="nothing to learn"):
        ScoreGame(teacher, term=None)
    with pytest.raises(BeelineError, match="affine path"):
        ScoreGame(Flow(net(), EncodeDecode())).student_loss(student, fake, None, data, Rng(0))


def test_guidance_augmentation_needs_no_second_network():
    with Rng(0).ambient():
        inner = Network(MLP(2, width=16, depth=1, conditions={"label": {"classes": 2}}))
    with torch.no_grad():
        for i, p in enumerate(inner.parameters()):
            p += 0.1 * Rng(0).fork(i).normal(p)
    teacher = Flow(inner, null={"label": 2})
    data = Batch(batch(8).x1, cond={"label": torch.arange(8) % 2})
    game = ScoreGame(teacher, term=GuidanceAugmentation(3.0), ratio=1)
    assert game.networks() == {} and [p.every for p in game.players(network=net())] == [1]
    student = copy.deepcopy(inner)
    loss = game.student_loss(student, None, None, data, Rng(0))
    assert loss.value > 0
    both = ScoreGame(teacher, term=TermSum((ScoreDifference(), GuidanceAugmentation(3.0)), (1.0, 0.5)))
    assert set(both.networks()) == {"fake"}
    with pytest.raises(BeelineError, match="one"):
        TermSum((ScoreDifference(),), (1.0, 2.0))


def test_the_held_out_loss_is_the_distance_of_samples():
    distance = SampleDistance(Flow(Exact()), Sampler(1, solver=EULER))
    data = batch(300, torch.float64)
    good, bad = distance(Affine(), data, Rng(0)).value, distance(lambda x, t: 0 * x, data, Rng(0)).value
    assert abs(good) < 0.02 < 0.3 < bad
    game = ScoreGame(Flow(net()))
    heldout = HeldOut(game, batch(64))
    found = heldout(net(1))
    assert found.value == pytest.approx(found.by_bin[-1]) and found.mean is None
    assert game(net(1), batch(64), Rng(0)).per_sample.shape == (64,)


def test_the_plan_and_the_trial_know_all_networks():
    game = ScoreGame(Flow(net()), adversarial=Adversarial())
    students = {"student": net(1)}
    training = Training(steps=12, batch_size=8)
    made = plan(students, game, batch().x1, training, rng=Rng(0), trial=3)
    weights = sum(p.numel() for n in (net(), net(), game.networks()["critic"]) for p in n.parameters())
    assert made.parameters == weights and made.step_seconds > 0
    assert step_seconds(students, game, batch().x1, training, Rng(0), 3) > 0


def test_the_fake_network_learns_the_student(tmp_path):
    """With a frozen student, the minimum of the fake network is the velocity of its samples."""
    game = ScoreGame(Flow(net()), ratio=10**6)
    student = Affine().float()
    nets = fit({"student": student}, game, batch().x1, Training(steps=250, batch_size=128), rng=Rng(0), log=quiet)
    exact = Gaussian(tuple(student.mean.tolist()), std=tuple(student.std.tolist()))
    x, t = 0.7 * Rng(2).normal(torch.empty(500, 2)), Rng(3).uniform(500, torch.empty(0))
    error = (evaluate_field(nets["fake"], x, t) - exact.field()(x, t)).square().mean().sqrt()
    start = (evaluate_field(net(), x, t) - exact.field()(x, t)).square().mean().sqrt()
    assert error < 0.4 * start


def test_bfloat16_on_the_cpu():
    """Under autocast, and with data in bfloat16: losses are in float32, and gradients finite."""
    teacher = Flow(net())
    for term in (ScoreDifference(), ScoreIdentity(), ScoreImplicit()):
        game = ScoreGame(teacher, term=term, adversarial=Adversarial())
        narrow = Batch(batch(16).x1.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            for player in game.players(student=net(1), **game.networks()):
                loss = player.loss(narrow, Rng(0))
                assert loss.value.dtype == torch.float32
                loss.value.backward()
                assert all(torch.isfinite(p.grad).all() for p in player.parameters if p.grad is not None)
