"""Editors that are trained on pairs made by known operations, and flows of several views."""

from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.config.build import change
from beeline.core.errors import BeelineError
from beeline.networks.mlp import MLP
from beeline.objectives.editing.instructed import EditingField, Instructed
from beeline.objectives.editing.pairs import Inverted, Mirrored, Pasted, Shifted, Turned
from beeline.objectives.editing.views import Recomposed, ViewField, recomposed
from beeline.objectives.matching import FlowMatching
from beeline.recipes.translation import editor
from beeline.runs.run import train
from beeline.sampling.editing.outcome import edited
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.editing.trained import ResampledViews, TrainedEditor
from beeline.solvers.runge_kutta import EULER
from beeline.times.composed import Frames
from beeline.times.samplers import Uniform

OPERATIONS = (Inverted(), Shifted(1, -1), Turned(), Mirrored(), Pasted(((1.0, 0.0),) * 2))


def batch(n=400):
    return bl.Batch(bl.Rng(0).normal(torch.empty(n, 1, 2, 2)), cond={"label": torch.arange(n) % 3})


def test_pairs_are_those_of_the_operations_and_rows_without_a_source_generate():
    data = batch()
    made = Instructed(OPERATIONS, blank=0.3).pairs(data, bl.Rng(1))
    k, source, reference = (made.cond[name] for name in ("operation", "source", "reference"))
    other = data.x1.roll(-1, 0)
    for number, operation in enumerate(OPERATIONS):
        rows = k == number
        assert 30 < int(rows.sum()) < 90
        assert torch.equal(made.x1[rows], operation(data.x1, other)[rows]) and torch.equal(source[rows], data.x1[rows])
        assert torch.equal(reference[rows], other[rows] if number == 4 else 0 * other[rows])
    blank = k == len(OPERATIONS)
    assert 80 < int(blank.sum()) < 160 and bool((source[blank] == 0).all() and (reference[blank] == 0).all())
    assert torch.equal(made.x1[blank], data.x1[blank]) and torch.equal(made.cond["label"], data.cond["label"])


def exact(operations, classes=True):
    """The exact editor of data that are known: it leads to op(source) in a straight line."""

    class Exact(EditingField):
        def forward(self, y, t, cond=None):
            targets = torch.stack([o(cond["source"], cond["reference"]) for o in operations])
            target = targets[cond["operation"], torch.arange(len(y))]
            return (target - y) / (1 - t.view(-1, 1, 1, 1)).clamp(min=1e-6)

    with bl.Rng(0).ambient():
        net = MLP(shape=(3, 2, 2), width=8, depth=1, conditions={"operation": {"classes": len(operations)}})
    return bl.Flow(Exact(bl.Network(net), "source"))


@pytest.mark.parametrize("number", range(5))
def test_an_exact_editor_carries_out_the_operation(number):
    data, flow = batch(6), exact(OPERATIONS)
    edit = TrainedEditor(number, reference=torch.full((1, 2, 2), 7.0))
    made = edit(flow, data.x1, data.cond, data.cond, bl.Sampler(4, solver=EULER), bl.Rng(0))
    assert (made - OPERATIONS[number](data.x1, torch.full_like(data.x1, 7.0))).abs().max() < 1e-5
    inside = edited(edit, flow, data.x1, data.cond, data.cond, bl.Sampler(4), bl.Rng(0), region=GivenRegion((1.0, 0.0)))
    assert torch.equal(inside.x[..., 1], data.x1[..., 1])


def test_what_is_not_given_is_blank():
    run = Instructed(OPERATIONS)
    with bl.Rng(0).ambient():
        inner = bl.Network(MLP(shape=(1, 2, 2), width=8, depth=1, conditions={"label": {"classes": 3}}))
    net = run.wrap(inner, batch(4), bl.Rng(2))
    for p in net.parameters():
        p.data = bl.Rng(p.numel()).normal(p.data)
    data, t = batch(4), torch.full((4,), 0.5)
    zero = torch.zeros_like(data.x1)
    whole = {**data.cond, "source": zero, "reference": zero, "operation": torch.full((4,), 5)}
    assert torch.equal(net(data.x1, t, whole), net(data.x1, t, data.cond))
    assert not torch.equal(net(data.x1, t, {**whole, "source": zero + 1}), net(data.x1, t, whole))
    from beeline.testing.components import check_objective

    check_objective(run, net, batch(16))


RUN = (batch(2).x1, None, None, bl.Sampler(2), bl.Rng(0))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Instructed(()), "no operations"),
        (lambda: Turned()(torch.zeros(1, 1, 2, 3), None), "square"),
        (lambda: Shifted(1)(torch.zeros(1, 2), None), "give pictures"),
        (lambda: Pasted((1.0, 0.0, 0.0))(torch.zeros(1, 2), torch.zeros(1, 2)), "mask of shape"),
        (lambda: TrainedEditor(9)(exact(OPERATIONS), *RUN), "counted from 0"),
        (lambda: TrainedEditor(0)(bl.Flow(lambda x, t: x), *RUN), "not trained"),
        (lambda: ResampledViews((3,))(bl.Flow(lambda x, t: x), *RUN), "views"),
        (lambda: Recomposed()(lambda x, t: x, batch(4), bl.Rng(0)), "give \\(picture"),
    ],
)  # fmt: skip
def test_refusals(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def views(n, seed=0):
    """Pictures [n,4,1,3] with their layers, of which two numbers determine all."""
    rng = bl.Rng(seed)
    behind = rng.fork("behind").normal(torch.empty(n, 1, 1)).expand(n, 1, 3) * 0.5
    opacity = torch.where(torch.arange(3) == rng.fork("at").integers(3, n)[:, None], 1.0, -1.0)[:, None]
    front = torch.full((n, 1, 3), 1.5)
    made = torch.stack([behind, behind, front, opacity], 1)
    made[:, 0] = recomposed(made)
    return made


def test_recomposition_of_true_layers_is_exact_and_its_term_vanishes():
    x = views(50)
    assert torch.equal(recomposed(x), x[:, 0]) and bool((x[:, 0].amax(2) == 1.5).all())

    def truth(state, t, cond=None):  # knows the data: the loss is that of a perfect prediction
        return (x - state) / (1 - t[:, :, None, None]).clamp(min=1e-6)

    objective = Recomposed(strength=2.0, objective=FlowMatching(times=Frames(Uniform(), 4)))
    loss = objective(truth, bl.Batch(x), bl.Rng(0))
    assert loss.terms["recomposition"] < 1e-9 and loss.value < 1e-4
    wrong = objective(lambda s, t, cond=None: truth(s, t) + 1, bl.Batch(x), bl.Rng(0))
    without = replace(objective, strength=0.0)(lambda s, t, cond=None: truth(s, t) + 1, bl.Batch(x), bl.Rng(0))
    assert torch.allclose(wrong.value - without.value, 2 * wrong.terms["recomposition"]) and wrong.value > without.value


def test_given_views_stay_and_every_view_has_its_time():
    seen = []

    def record(x, t, cond):
        seen.append(cond["times"].clone())
        return 0 * x

    x = bl.Rng(0).normal(torch.empty(3, 4, 1, 3))
    made = ResampledViews((0, 2))(
        bl.Flow(ViewField(record, "times")), x, None, None, bl.Sampler(4, solver=EULER), bl.Rng(1)
    )
    assert torch.equal(made[:, [0, 2]], x[:, [0, 2]]) and not torch.equal(made[:, 1], x[:, 1])
    assert [round(float(t[0, 1]), 2) for t in seen] == [0.0, 0.25, 0.5, 0.75] and all(
        bool((t[:, 0] == 1).all()) for t in seen
    )


@pytest.mark.slow
def test_an_editor_of_digits_learns_its_operations(tmp_path):
    run = change(editor(), {"training.steps": 1200, "network.width": 128})
    bundle = train(run, tmp_path / "run")
    held = bundle.modality.encode(run.data.load()[1])
    x, cond = held.x1[:100], {k: v[:100] for k, v in held.cond.items()}
    reference = x.roll(1, 0)
    for number, operation in enumerate(run.objective.operations):
        shown = reference if isinstance(operation, Pasted) else None
        made = TrainedEditor(number, shown)(bundle.flow, x, cond, cond, bl.Sampler(16), bl.Rng(0))
        error = (made - operation(x, reference)).abs().mean()
        random = (x.roll(7, 0) - operation(x, reference)).abs().mean()  # another datum
        assert error < 0.5 * random, (number, float(error), float(random))
    again = bl.load(tmp_path / "run")
    sample = again.edit(TrainedEditor(0), run.data.load()[1].rows(range(5)), to={"label": 3}, cond={"label": 3})
    assert float(sample.outcome.change.mean()) > 0.5  # an operation is carried out with equal conditions
    assert len(again.sample(4, cond={"label": 2})) == 4  # without a source it generates
