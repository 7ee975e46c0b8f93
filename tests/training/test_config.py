"""Training settings: batches and microbatches, learning rates as numbers, and refused settings."""

import inspect

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import beeline as bl
from beeline.cli import commands
from beeline.config.build import change, describe
from beeline.couplings.basic import Paired
from beeline.evaluation.heldout import HeldOut
from beeline.recipes.learning import ring
from beeline.training.feed.microbatches import InMemory
from beeline.training.feed.sources import as_microbatches
from beeline.training.logs.run_log import read_log
from beeline.training.optim.learning_rate import Constant, WarmupCosine
from beeline.training.optim.optimizers import AdamW, OptimizerBase

DATA = bl.Rng(0).normal(torch.empty(48, 2))


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x, t, cond=None):
        return self.layers(torch.cat([x, t[:, None]], 1))


def field():
    with bl.Rng(0).ambient():
        return Field()


def curve(training, data=DATA, objective=None):
    """The losses of a run."""
    entries = []
    bl.fit(field(), objective or bl.objectives.FlowMatching(), data, training, rng=bl.Rng(5), log=entries.append)
    return torch.tensor([e["loss"] for e in entries if "loss" in e])


# batch size and microbatches


class Recording:
    """A data source that records the microbatches it is asked for."""

    def __init__(self):
        self.inside, self.requests = InMemory(bl.Batch(DATA), bl.Rng(1)), []

    def microbatch(self, number, size):
        self.requests.append((number, size))
        return self.inside.microbatch(number, size)


@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_a_step_sees_batch_size_data_in_equal_parts(microbatches):
    data = Recording()
    training = bl.Training(steps=3, batch_size=16, microbatches=microbatches)
    assert training.microbatch_size == 16 // microbatches
    curve(training, data)
    assert data.requests == [(k, 16 // microbatches) for k in range(3 * microbatches)]
    rows = torch.cat([data.inside.rows(number, size) for number, size in data.requests])
    assert torch.equal(rows, torch.cat([data.inside.rows(n, 16) for n in range(3)]))  # the data of a step are the same


def test_the_number_of_microbatches_does_not_change_the_loss_of_a_deterministic_objective():
    data = bl.Batch(DATA, x0=bl.Rng(1).normal(DATA))
    objective = bl.objectives.FlowMatching(coupling=Paired(), times=bl.times.At(0.3))  # no noise and no random times
    curves = [
        curve(bl.Training(steps=12, batch_size=16, microbatches=m, lr=1e-2, ema=None), data, objective)
        for m in (1, 2, 4)
    ]
    for other in curves[1:]:
        assert (curves[0] - other).abs().max() < 1e-6
    assert curves[0].diff().abs().min() > 1e-4  # the weights change


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"batch_size": 10, "microbatches": 4}, "batch_size is 10, which cannot be divided into 4 equal microbatches"),
        ({"batch_size": 4, "microbatches": 8}, "cannot be divided into 8 equal"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"microbatches": 0}, "microbatches=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"microbatches": True}, "microbatches=True"),
    ],
)
def test_invalid_batches_are_refused(settings, match):
    with pytest.raises(bl.BeelineError, match=match):
        bl.Training(**settings)


# the learning rate as a number


def test_a_number_is_a_constant_learning_rate(tmp_path):
    assert bl.Training(lr=1e-3).lr_schedule == Constant(1e-3)
    assert bl.Training(lr=WarmupCosine(1e-2)).lr_schedule == WarmupCosine(1e-2)
    short = {"steps": 4, "batch_size": 8}
    assert torch.equal(curve(bl.Training(lr=1e-2, **short)), curve(bl.Training(lr=Constant(1e-2), **short)))
    run = change(ring(), {"training.lr": "1e-3"})  # as --set training.lr=1e-3
    assert run.training.lr == 1e-3
    path = tmp_path / "ring.yaml"
    path.write_text(yaml.safe_dump(describe(run)))
    assert commands.recipe(str(path)) == run
    path.write_text(path.read_text().replace("lr: 0.001", "lr: 1e-3"))  # text for YAML 1.1, as a user may write it
    assert "lr: 1e-3" in path.read_text() and commands.recipe(str(path)) == run


class Bare:
    """An optimizer without the members that OptimizerBase has."""

    def build(self, parameters, lr, matrices=None):
        return torch.optim.SGD(parameters, lr)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lr": -1.0}, "peak learning rate is -1.0"),
        ({"lr": 0}, "peak learning rate is 0.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": True}, "lr=True"),
        ({"lr": "fast"}, r"str has no __call__\(step, steps\), branch\(steps\), peak.*LRScheduleBase"),
        ({"lr": lambda step, steps: 1e-3}, r"function has no branch\(steps\), peak.*LRScheduleBase"),
        ({"optimizer": Bare()}, "Bare has no averages, lr_free.*OptimizerBase"),
        ({"ema": "EMA"}, r"str has no decay\(step\)"),
    ],
)
def test_invalid_components_are_refused_by_member(settings, match):
    with pytest.raises(bl.BeelineError, match=match):
        bl.Training(**settings)


def test_an_optimizer_needs_only_build_beside_its_base():
    class Plain(OptimizerBase, Bare):
        pass

    assert len(curve(bl.Training(steps=3, batch_size=8, lr=1e-2, optimizer=Plain()))) == 3


# fit


def test_fit_takes_its_documented_arguments(tmp_path):
    names = ["networks", "objective", "data", "training", "rng", "device", "parallel"]
    keywords = ["callbacks", "checkpoint_dir", "resume"]
    assert {*names, *keywords} <= set(inspect.signature(bl.fit).parameters)
    assert list(inspect.signature(bl.fit).parameters)[:4] == names[:4]
    objective = bl.objectives.FlowMatching()
    heldout = HeldOut(objective, bl.Batch(DATA[:16]), every=2)
    made = None
    for resume, steps in ((None, 2), (tmp_path, 4)):
        training = bl.Training(steps=steps, batch_size=8, microbatches=2, optimizer=AdamW(), lr=1e-3)
        made = bl.fit(
            field(), objective, DATA, training, rng=bl.Rng(1), device="auto", callbacks=(heldout,),
            checkpoint_dir=tmp_path, resume=resume, log=lambda entry: None,
        )  # fmt: skip
    assert isinstance(made, Field) and not made.training


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"training": {"steps": 2}}, "fit got dict as its fourth argument"),
        ({"parallel": "ddp"}, "str has no norm.*Parallel needs; give one of"),
        ({"callbacks": [print]}, "has no due.*CallbackBase"),
        ({"data": "text"}, "data of type str"),
    ],
)
def test_fit_refuses_wrong_arguments(arguments, match):
    given = {"data": DATA, "training": bl.Training(steps=1, batch_size=2), **arguments}
    with pytest.raises(bl.BeelineError, match=match):
        bl.fit(field(), bl.objectives.FlowMatching(), **given)


def test_arrays_are_data():
    training = bl.Training(steps=2, batch_size=8)
    assert torch.equal(curve(training, DATA.numpy()), curve(training))
    assert torch.equal(curve(training, DATA.double().numpy()), curve(training))  # float64 is the default of NumPy
    with pytest.raises(bl.BeelineError, match="int64"):
        curve(training, np.ones((4, 2), dtype=np.int64))


class Squares(torch.utils.data.Dataset):
    """A data set of random transforms of points, with labels."""

    def __init__(self, n=24, label=True):
        self.n, self.label = n, label

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        x = torch.tensor([float(i), float(i) ** 2]) + torch.rand(2)
        return (x, i % 3) if self.label else x


def test_torch_data_sets_and_loaders_are_data():
    data = as_microbatches(Squares(), bl.Rng(0))
    first, again = data.microbatch(3, 7), as_microbatches(Squares(), bl.Rng(0)).microbatch(3, 7)
    assert torch.equal(first.x1, again.x1)  # random transforms are functions of the number
    assert torch.equal(first.x1[:, 0].floor().long(), data.rows(3, 7))
    assert torch.equal(first.cond["label"], data.rows(3, 7) % 3)
    state = torch.get_rng_state()
    rows = torch.cat([data.rows(n, 6) for n in range(4)])
    assert sorted(rows.tolist()) == list(range(24))  # every item once per epoch
    training = bl.Training(steps=3, batch_size=8, microbatches=2)
    loader = torch.utils.data.DataLoader(Squares(label=False), batch_size=5)
    assert torch.equal(curve(training, Squares(label=False)), curve(training, loader))
    assert torch.equal(state, torch.get_rng_state())
    workers = bl.Training(steps=3, batch_size=8, microbatches=2, workers=1)
    assert torch.equal(curve(training, loader), curve(workers, loader))
    named = torch.utils.data.DataLoader(
        Squares(), collate_fn=lambda items: {"x1": torch.stack([x for x, _ in items]), "weight": torch.ones(len(items))}
    )
    assert as_microbatches(named, bl.Rng(0)).microbatch(0, 4).weight.shape == (4,)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([torch.zeros(2)])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (Stream(), "Stream is an IterableDataset"),
        (Squares(0), "Squares is empty"),
        (torch.utils.data.TensorDataset(torch.arange(6)), "gives torch.int64 tensors"),
        (torch.utils.data.TensorDataset(*3 * [torch.zeros(6, 2)]), "gives list.*pairs"),
    ],
)
def test_data_sets_that_cannot_be_used_are_refused(data, match):
    with pytest.raises(bl.BeelineError, match=match):
        curve(bl.Training(steps=1, batch_size=2), data)


def test_a_data_set_of_beeline_is_encoded_training_data():
    points = ring().data
    raw, _ = points.load()
    encoded = points.modality().fit(raw).encode(raw)
    assert torch.equal(as_microbatches(points, bl.Rng(0)).batch.x1, encoded.x1)


# logs of the first version


def test_logs_of_version_0_1_have_a_learning_rate(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 0.5, "rate": 0.001}\n{"step": 2, "loss": 0.4, "lr": 0.002}\n')
    assert [entry["lr"] for entry in read_log(path)] == [0.001, 0.002]
