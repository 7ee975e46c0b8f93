"""What is trained when: projections, sampled layers, chosen places, low-rank gradients and evolution, exactly."""

import copy

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.adapting import Adaptation
from beeline.distillation.personal.layers import SampledLayers
from beeline.fields.flow import Flow, Network
from beeline.networks.adapters.adapted import Adapted, adapted
from beeline.networks.adapters.delta import LoRA, changed_layers
from beeline.networks.adapters.members.low_rank import Difference
from beeline.networks.adapters.members.sparse import Sparse
from beeline.networks.adapters.starts import placed
from beeline.networks.mlp import MLP
from beeline.objectives.matching import FlowMatching
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.evolving import Evolution, evolved
from beeline.training.optim.optimizers import AdamW
from beeline.training.optim.sparse import LowRankGradients, SparseProjection

DATA = Batch(Rng(0).normal(torch.empty(64, 2)) + 2)


def flow(depth=3):
    with Rng(1).ambient():
        net = Network(MLP(2, width=16, depth=depth))
        for p in net.parameters():
            p.data += 0.2 * torch.randn_like(p)
    return Flow(net)


def trained(net, steps=4, callbacks=(), **more):
    how = Training(steps=steps, batch_size=32, ema=None, **more)
    return fit(net, FlowMatching(), DATA, how, rng=Rng(2), log=lambda entry: None, callbacks=callbacks)


def test_a_projection_keeps_the_largest_changes_and_no_others():
    start = flow().field
    dense = trained(copy.deepcopy(start).requires_grad_(True))
    sparse = trained(copy.deepcopy(start).requires_grad_(True), optimizer=SparseProjection(keep=0.1, every=4))
    never = trained(copy.deepcopy(start).requires_grad_(True), optimizer=SparseProjection(keep=0.1, every=5))
    for w, full, few, same in zip(*(net.parameters() for net in (start, dense, sparse, never)), strict=True):
        assert torch.equal(full, same), "without a projection it is the other optimizer, bit for bit"
        count = max(1, round(0.1 * w.numel()))
        kept = (full - w).abs().flatten().topk(count).indices
        wanted = w.detach().flatten().clone()
        wanted[kept] = full.detach().flatten()[kept]
        assert torch.equal(few.flatten(), wanted)


def test_projections_continue_from_a_checkpoint():
    w = [nn.Parameter(torch.arange(8.0)) for _ in range(2)]
    rates = [Rng(k).normal(torch.empty(8)) for k in range(4)]
    how = SparseProjection(keep=0.25, every=2)
    steppers = [how.build([p], 0.1) for p in w]
    for k, g in enumerate(rates):
        if k == 3:  # the second goes on in a new process
            again = nn.Parameter(w[1].detach().clone())
            state = copy.deepcopy(steppers[1].state_dict())
            w[1], steppers[1] = again, how.build([again], 0.1)
            steppers[1].load_state_dict(state)
        for p, stepper in zip(w, steppers, strict=True):
            p.grad = g.clone()
            stepper.step()
    assert torch.equal(*w) and int((w[0] != torch.arange(8.0)).sum()) == 2


def test_a_sparse_change_beside_an_unchanged_flow():
    base = flow()
    method = Adaptation(Difference())
    how = SparseProjection(keep=0.05, every=2)
    made = trained(method.networks(base)["student"], optimizer=how)
    for layer in changed_layers(made).values():
        d = layer.changes[0].numbers["difference"]
        assert int((d != 0).sum()) == max(1, round(0.05 * d.numel()))


def test_low_rank_gradients_are_adam_in_their_directions():
    g = Rng(3).normal(torch.empty(12, 3)) @ Rng(4).normal(torch.empty(3, 8))
    for shape in (g, g.mT.contiguous()):
        p, q = nn.Parameter(torch.zeros(shape.shape)), nn.Parameter(torch.zeros(3, min(shape.shape)))
        stepper = LowRankGradients(3, every=100).build([p], 0.1)
        tall = len(shape) > shape.shape[1]
        for k in range(4):
            p.grad = shape * (1 + 0.1 * k)
            stepper.step()
        basis = stepper.state[p]["basis"]
        assert torch.allclose(basis.mT @ basis, torch.eye(3), atol=1e-5)
        q = nn.Parameter(torch.zeros(len(shape), 3) if tall else torch.zeros(3, shape.shape[1]))
        adam = AdamW().build([q], 0.1)
        for k in range(4):
            q.grad = (shape @ basis if tall else basis.mT @ shape) * (1 + 0.1 * k)
            adam.step()
        assert torch.allclose(p, q @ basis.mT if tall else basis @ q, atol=1e-5)
        assert sum(v.numel() for k, v in stepper.state[p].items() if k != "basis") == 2 * q.numel()
    w, v = (nn.Parameter(torch.ones(5)) for _ in range(2))
    for p, how in ((w, LowRankGradients(2)), (v, AdamW())):
        stepper, p.grad = how.build([p], 0.1), torch.arange(5.0)
        stepper.step()
    assert torch.allclose(w, v), "vectors by Adam"


@pytest.mark.parametrize("seed", range(3))
def test_evolution_reaches_the_optimum_of_a_turned_quadratic(seed):
    turn = torch.linalg.qr(Rng(seed).normal(torch.empty(20, 20, dtype=torch.float64)))[0]
    curve, best = torch.logspace(0, 2, 20, dtype=torch.float64), Rng(seed + 9).normal(turn[0])
    calls = []

    def loss(z):
        calls.append(1)
        return float((curve * (turn @ (z - best)).square()).sum())

    found = Evolution(evaluations=6000).minimise(loss, torch.zeros(20), Rng(seed))
    assert loss(found) < 1e-6 and len(calls) <= 6001
    easy = Evolution(evaluations=3000).minimise(lambda z: float((z - best).square().sum()), torch.zeros(20), Rng(seed))
    assert (easy - best).square().sum() < 1e-6


def test_few_numbers_of_an_adapter_evolve_and_the_base_stays():
    base = flow(1)
    with Rng(5).ambient():
        net = adapted(base.field, LoRA(1))
    before = copy.deepcopy(base.field.state_dict())
    loss = lambda n: float(FlowMatching()(n, DATA, Rng(6)).value.detach())  # noqa: E731
    with torch.no_grad():
        first = loss(net)
        made = evolved(net, loss, Rng(7), Evolution(evaluations=320), size=10)
    assert loss(made) < 0.95 * first
    changed = dict(made.backbone.field.named_parameters())
    assert all(torch.equal(changed[k.removeprefix("backbone.")], v) for k, v in before.items())
    with pytest.raises(BeelineError, match="0 trainable"):
        evolved(nn.Linear(2, 2).requires_grad_(False), loss, Rng(0))


def test_only_drawn_layers_move_and_useless_ones_are_drawn_least():
    with Rng(5).ambient():
        net = adapted(flow(6).field, LoRA(2))
    start = copy.deepcopy(net)
    layers = SampledLayers(lambda n: 0.0, 2, Rng(3), every=100, trials=0)
    trained(net, steps=3, callbacks=[layers])
    pairs = zip(changed_layers(net).items(), changed_layers(start).values(), strict=True)
    moved = {name for (name, a), b in pairs
             if not torch.equal(a.changes[0].numbers["up"], b.changes[0].numbers["up"])}  # fmt: skip
    first = SampledLayers(lambda n: 0.0, 2, Rng(3), every=100, trials=0)
    first.watch({"network": start})
    assert moved == set(first.active) and len(moved) == 2
    useful = set(list(changed_layers(net))[:3])

    def loss(network):  # the first three layers are needed, each by its amount
        return float(
            sum(1 - layer.changes[-1].amount for name, layer in changed_layers(network).items() if name in useful)
        )

    scored = SampledLayers(loss, 3, Rng(4), every=1, trials=4, rate=1.0)
    scored.watch({"network": net})
    for step in range(1, 40):
        scored.evaluate(net, None, step)
    assert scored.importance[:3].min() > scored.importance[3:].max()
    assert all(layer.changes[-1].amount == 1.0 for layer in changed_layers(net).values())
    with pytest.raises(BeelineError, match="count=9"):
        SampledLayers(loss, 9, Rng(0)).watch({"network": net})


@pytest.mark.parametrize("columns", [False, True])
def test_places_are_where_the_loss_depends_on_the_weights(columns):
    base = MLP(2, width=16, depth=2)
    net = Adapted(base, Sparse(0.25, columns=columns))
    x = Rng(8).normal(torch.empty(32, 16))
    layer = next(iter(changed_layers(net).values()))
    name = next(iter(changed_layers(net)))

    def loss(i):
        seen = x * (torch.arange(16) < 4)  # only the first four inputs are used
        return sum((seen @ m.weight.mT).square().mean() for m in changed_layers(net).values())

    placed(net, loss, batches=2)
    places = layer.changes[0].get_buffer("_places")
    assert set((places if columns else places % 16).tolist()) <= set(range(4)), name
    assert not layer._parameters["weight"].requires_grad
    with pytest.raises(BeelineError, match="Sparse"):
        placed(Adapted(MLP(2, width=16), LoRA(2)), loss)
