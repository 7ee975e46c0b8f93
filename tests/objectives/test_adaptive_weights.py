"""Learned weights over time and pruning: their minima, unbiasedness, and exact resume."""

import math

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.evaluation.heldout import HeldOut
from beeline.objectives.losses.adaptive_weights import Balanced, BinMeans, Importance, TimeNet, Uncertain
from beeline.objectives.matching import FlowMatching
from beeline.times.samplers import LogitNormal
from beeline.training import checkpoint
from beeline.training.config import Training
from beeline.training.feed.data_pruning import DataPruning, PrunedFeed
from beeline.training.feed.microbatches import FromDistribution, InMemory
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import Constant


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x, t, cond=None):
        return self.layers(torch.cat([x, t[:, None]], 1))


class Hard(nn.Module):
    """A field without useful parameters, whose error grows with time."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, x, t, cond=None):
        return 10 * t[:, None].square() * torch.ones_like(x) + 0 * self.nothing


DATA = torch.zeros(64, 2)


def test_the_learned_variance_is_the_loss_of_its_time():
    with Rng(0).ambient():
        nets = {"network": Hard(), "uncertainty": TimeNet(64)}
    objective = Uncertain()
    optimizer = torch.optim.Adam(nets["uncertainty"].parameters(), 0.05)
    for n in range(300):
        optimizer.zero_grad()
        objective(nets, Batch(torch.zeros(512, 2)), Rng(1).fork(n)).value.backward()
        optimizer.step()
    t = torch.tensor([0.1, 0.5, 0.9])
    # the velocity is -x0 for data at zero: E|10 t^2 + x0|^2 = 100 t^4 + 1 per coordinate
    assert torch.allclose(nets["uncertainty"](t).exp(), 100 * t**4 + 1, rtol=0.35)


def test_balanced_weights_are_the_inverse_of_the_loss():
    with Rng(0).ambient():
        nets = {"network": Hard(), "balance": BinMeans(5, 10.0)}
    objective = Balanced(bins=5)
    first = objective(nets, Batch(DATA), Rng(0))
    plain = objective.objective(nets["network"], Batch(DATA), Rng(0))
    assert torch.equal(first.per_sample, plain.per_sample)  # no losses yet
    nets["balance"].settle(lambda v: v)
    for n in range(50):
        objective(nets, Batch(torch.zeros(512, 2)), Rng(1).fork(n))
        nets["balance"].settle(lambda v: v)
    t = torch.arange(5) / 5 + 0.1
    w = nets["balance"].weight(t, 1.0)
    edges = torch.arange(6) / 5
    exact = 1 / (1 + 100 * (edges[1:] ** 5 - edges[:-1] ** 5))  # the mean over a bin of width 1/5
    assert torch.allclose(w, exact / exact.mean(), rtol=0.15)
    assert math.isclose(float(w.mean()), 1, rel_tol=1e-5)


def test_importance_sampling_has_the_same_mean_with_less_variance():
    nets = {"network": Hard(), "importance": BinMeans(10, 30.0)}
    objective = Importance(bins=10, floor=0.1)
    batch = Batch(torch.zeros(512, 2))
    for n in range(150):
        objective(nets, batch, Rng(1).fork(n))
        nets["importance"].settle(lambda sums: sums)
    # s = mean of (m + z)^2 over two coordinates, m = 10 t^2: E[s] = m^2 + 1 and E[s^2] = (m^2 + 1)^2 + 2 m^2 + 1
    t = (torch.arange(1000) + 0.5) / 1000
    m2 = 100 * t**4
    root = ((m2 + 1) ** 2 + 2 * m2 + 1).reshape(10, 100).mean(1).sqrt()
    mass = torch.tensor(nets["importance"].density(0.1).mass)
    assert torch.allclose(mass, 0.9 * root / root.sum() + 0.01, rtol=0.15)
    # the same mean as with even times, with a third of the standard deviation
    exact = float((m2 + 1).mean())
    measured = objective.objective
    with torch.no_grad():
        drawn = torch.stack([objective(nets, batch, Rng(2).fork(n)).value for n in range(200)])
        even = torch.stack([measured(nets["network"], batch, Rng(2).fork(n)).value for n in range(200)])
    assert float(drawn.mean()) == pytest.approx(exact, rel=0.02)
    assert drawn.std() < even.std() / 3


@pytest.mark.parametrize("objective", [Uncertain(), Balanced(), Importance()])
def test_adaptive_weights_train_with_fit_and_resume_bit_for_bit(objective, tmp_path):
    def run(name, steps, **more):
        with Rng(0).ambient():
            net = Field()
        training = Training(steps=steps, microbatches=2, batch_size=16, lr=Constant(1e-2), ema=EMA(3.0))
        look = HeldOut(objective, Batch(DATA), train=Batch(DATA), every=100)
        made = fit(net, objective, DATA + 1, training, rng=Rng(0), log=lambda e: None, checkpoint_dir=tmp_path / name,
                   callbacks=(look,), **more)  # fmt: skip
        assert isinstance(made, Field)
        return checkpoint.read(checkpoint.newest(tmp_path / name))

    a = run("a", 12)
    run("b", 6)
    b = run("b", 12, resume=tmp_path / "b")
    assert any(objective.name in group for group in a.tensors)
    for group in a.tensors:
        for name, tensor in a.tensors[group].items():
            assert torch.equal(tensor, b.tensors[group][name]), (group, name)


def test_the_held_out_loss_does_not_depend_on_learned_weights():
    field = lambda x, t, cond=None: -x  # noqa: E731
    batch = Batch(DATA)
    assert HeldOut(Uncertain(), batch)(field) == HeldOut(FlowMatching(), batch)(field)
    assert Balanced().spec.path == FlowMatching().path and Uncertain().objective == FlowMatching()


def test_wrappers_need_a_weight():
    with pytest.raises(BeelineError, match="has no 'weight'"):
        Uncertain(objective=lambda *a: None)
    with pytest.raises(BeelineError, match="at least 1 bin"):
        Balanced(bins=0)


# pruning


def plan(**more):
    return Training(
        **{
            "steps": 40,
            "microbatches": 2,
            "batch_size": 16,
            "lr": Constant(1e-2),
            "data_pruning": DataPruning(0.5, 0.25, 0.0),
        }
        | more
    )


def test_importance_refuses_an_objective_with_other_times():
    with pytest.raises(BeelineError, match="use times=Uniform"):
        Importance(FlowMatching(times=LogitNormal()))
    with pytest.raises(BeelineError, match="floor=0.0"):
        Importance(floor=0.0)


def test_pruning_is_unbiased_and_skips_easy_data_only():
    feed = PrunedFeed(DataPruning(0.5, 0.0), Batch(torch.arange(100.0)[:, None]), Rng(0))
    feed.scores = torch.cat([torch.zeros(60), torch.ones(40)])
    counts, total = torch.zeros(100), torch.zeros(100)
    for i in range(400):
        feed.count = i
        epoch = feed._epoch(0, True)
        counts[epoch.order] += 1
        total[epoch.order] += epoch.weight
        assert len(epoch.order.unique()) == len(epoch.order)
    assert (counts[60:] == 400).all() and (total[60:] == 400).all()
    assert abs(counts[:60].mean() / 400 - 0.5) < 0.02 and abs(total[:60].mean() / 400 - 1) < 0.04
    assert len(feed._epoch(0, False).order) == 100


@pytest.mark.parametrize("bins", [16, 1])
def test_scores_are_relative_to_the_losses_at_the_same_time(bins):
    # odd data have twice the loss of even ones, which grows 16 times from t = 0 to 1
    feed = PrunedFeed(DataPruning(0.5, 0.0, 0.0, bins), Batch(torch.arange(64.0)[:, None]), Rng(0))
    training = plan(steps=10_000, microbatches=2, batch_size=64)
    for n in range(60):
        feed.begin(n, training)
        errors = {}
        for k in range(2):
            t = Rng(1).fork(n, k).uniform(32, torch.empty(0))
            microbatch = feed.microbatch(2 * n + k, 32)
            errors[k] = (1 + microbatch.x1[:, 0] % 2) * (1 + (16 * t).floor()) * microbatch.weight, t
        feed.observe(n, training, errors, lambda seen: seen)
    even, odd = feed.scores[::2], feed.scores[1::2]
    if bins == 16:
        assert float(even.max()) < float(odd.min()) and 1.6 < float(odd.mean() / even.mean()) < 2.4
    else:
        assert float(even.max()) > float(odd.min())  # without bins the time decides


class PerDatum:
    """A loss that is high for odd data, with a zero gradient."""

    def __call__(self, net, batch, rng):
        error = batch.x1[:, 0] % 2 + 0 * net.nothing
        weight = torch.ones_like(error) if batch.weight is None else batch.weight
        seen.append((batch.x1[:, 0].clone(), weight.clone()))
        return Loss((error * weight).mean(), {}, (error * weight).detach(), torch.zeros(len(error)))


seen = []


def test_pruning_in_training_skips_half_of_the_easy_data_and_ends_with_all_data():
    seen.clear()
    data = torch.arange(64.0)[:, None]
    fit(Hard(), PerDatum(), data, plan(steps=80, ema=None), rng=Rng(0), log=lambda e: None)
    x, w = (torch.cat(part) for part in zip(*seen, strict=True))
    assert sorted(x[:64].tolist()) == list(range(64)) and (w[:64] == 1).all()  # the first epoch has all data
    pruned = x[64 : 60 * 16]
    assert 0.25 < float((pruned % 2 == 0).float().mean()) < 0.42  # a third instead of a half
    assert set(w[64 : 60 * 16][pruned % 2 == 0].tolist()) == {2.0} and (w[64:][x[64:] % 2 == 1] == 1).all()
    assert sorted(x[-64:].tolist()) != [] and (w[-64:] == 1).all()


def test_pruning_resumes_bit_for_bit(tmp_path):
    def run(name, steps, **more):
        with Rng(0).ambient():
            net = Field()
        data = Rng(1).normal(torch.empty(50, 2))
        fit(net, FlowMatching(), data, plan(steps=40, checkpoint_every=17), rng=Rng(0), log=stop_at(steps), **more)

    def stop_at(step):
        import signal

        return lambda entry: signal.raise_signal(signal.SIGINT) if entry.get("step") == step else None

    run("a", 1000, checkpoint_dir=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run("b", 21, checkpoint_dir=tmp_path / "b")
    run("b", 1000, checkpoint_dir=tmp_path / "b", resume=tmp_path / "b")
    a, b = (checkpoint.read(checkpoint.newest(tmp_path / n)) for n in "ab")
    assert a.state["notes"] == b.state["notes"]
    for group in a.tensors:
        for name, tensor in a.tensors[group].items():
            assert torch.equal(tensor, b.tensors[group][name]), (group, name)


def test_pruning_that_cannot_work_is_refused():
    with pytest.raises(BeelineError, match="share=1.0"):
        DataPruning(1.0)
    with pytest.raises(BeelineError, match="needs data in memory, but the data are FromDistribution"):
        DataPruning().feed(FromDistribution(None, Rng(0)))
    assert DataPruning().feed(InMemory(Batch(DATA), Rng(0))).scores.isinf().all()
