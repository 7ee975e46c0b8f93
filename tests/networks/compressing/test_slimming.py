"""Units that fade in training: exact removal, exact gates, and which of them stay."""

import copy

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.progress import at_progress
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.adapting import Slimming
from beeline.fields.flow import Flow, Network
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.delta import LoRA
from beeline.networks.compressing.compressor import Call, Probe
from beeline.networks.compressing.prune import Narrow, Ordered
from beeline.networks.compressing.quantize import int8
from beeline.networks.compressing.removal.slimming import Slimmed
from beeline.networks.compressing.removal.units import units_of
from beeline.networks.dit import DiT, MMDiT
from beeline.networks.transformer.feeds import SwiGLU
from beeline.networks.transformer.mixing.windows import SlicedAttention, WindowsWithLatents
from beeline.networks.transformer.plans.elastic import SubNetwork, extracted
from beeline.training.config import Training
from beeline.training.fit import fit
from tests.second_device import DEVICE, second_device

X, T = Rng(1).normal(torch.empty(6, 1, 8, 8)), torch.linspace(0, 1, 6)


def dit(**more):
    with Rng(2).ambient():
        net = DiT((1, 8, 8), width=32, heads=4, depth=2, **more)
        for p in net.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
    return net


TEXT = {"text": {"length": 5, "size": 4}}
WORDS = {"text": Rng(6).normal(torch.empty(6, 5, 4))}


def joint(**more):
    with Rng(2).ambient():
        net = MMDiT((1, 8, 8), width=32, heads=4, depth=2, conditions=TEXT, **more)
        for p in net.parameters():
            p.data.add_(0.2 * torch.randn_like(p))
    return net


@pytest.mark.parametrize("more", [{"dual": 1}, {"closed": True}], ids=repr)
def test_heads_that_streams_mix_together_go_together(more):
    net, probe = joint(**more).requires_grad_(False), Probe([Call(X, T, WORDS)])
    heads = [unit.last for name, unit in units_of(net, "test").items() if ".mix." in name]
    for k, last in enumerate(heads):  # other heads are important in the two streams of a block
        last.weight[:, 8 * k : 8 * k + 16] *= 0.1
    made = Ordered().apply(net, None, probe, Rng(0))
    assert (made(X, T, WORDS) - net(X, T, WORDS)).abs().max() <= 1e-5
    assert (SubNetwork(made, 0.5)(X, T, WORDS) - extracted(made, 0.5)(X, T, WORDS)).abs().max() <= 1e-5
    slimmed = Slimmed(copy.deepcopy(net))
    for done in (0.1, 0.3, 0.5):
        after(slimmed, done)
    assert (slimmed.slim()(X, T, WORDS) - slimmed(X, T, WORDS)).abs().max() <= 1e-5
    assert (slimmed(X, T, WORDS) - net(X, T, WORDS)).abs().max() > 1e-2


def after(net, done):
    with at_progress(done):
        net.settle(lambda total: total)
    return {name: unit.last.gate.clone() for name, unit in units_of(net.field, "test").items()}


@pytest.mark.parametrize("inside", [lambda: dit(), lambda: dit(feed=SwiGLU()), lambda: Adapted(dit(), LoRA(2))])
def test_what_has_faded_is_taken_away_without_a_change(inside):
    with Rng(3).ambient():
        net = Slimmed(inside(), 0.5, periods=2, start=0.1, end=0.6)
        for p in net.parameters():
            p.data.add_(0.02 * torch.randn_like(p))
    before = net(X, T)
    for done in (0.1, 0.35, 0.6):
        gates = after(net, done)
    for gate in gates.values():
        assert int((gate == 1).sum()) == round(len(gate) / 2) and set(gate.tolist()) == {0.0, 1.0}
    small = net.slim()
    assert (small(X, T) - net(X, T)).abs().max() <= 2e-6 < (before - net(X, T)).abs().max()
    own = sum(p.numel() for p in small.parameters())
    assert own < sum(p.numel() for p in dit().parameters()) and not any("felt" in k for k in small.state_dict())


def test_gates_fall_linearly_in_the_period_of_their_unit():
    net = Slimmed(dit(), 0.5, periods=4, start=0.2, end=0.6)
    name, found = "block.0.mlp.3", []
    for done in (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.55, 0.6, 1.0):
        found.append(after(net, done)[name].sort().values)
    assert bool((found[0] == 1).all()) and bool((found[1] == 1).all()), "the first period begins with whole gates"
    assert found[2][:16].tolist() == pytest.approx([0.5] * 16) and bool((found[2][16:] == 1).all())
    assert bool((found[3][:16] == 0).all()) and int((found[3] == 1).sum()) == 112
    assert int((found[6] == 0).sum()) == 48 and int((found[6] == 1).sum()) == 64
    assert torch.equal(found[7], found[8]) and int((found[7] == 0).sum()) == 64
    again = Slimmed(dit(), 0.5, periods=4, start=0.2, end=0.6)
    again.load_state_dict(net.state_dict())
    assert torch.equal(after(again, 1.0)[name].sort().values, found[8])


def test_what_is_felt_is_the_squared_gradient_of_the_gates_of_rows():
    net = Slimmed(dit()).train()
    (net(X, T) ** 2).sum().backward()
    other, name = Slimmed(dit()), "block.1.mix.out"
    gate = torch.ones(len(X), 4, requires_grad=True)
    layer = units_of(other.field, "test")[name].last
    layer.register_forward_pre_hook(lambda _, given: (given[0] * gate.repeat_interleave(8, 1)[:, None],))
    (g,) = torch.autograd.grad((other.eval()(X, T) ** 2).sum(), gate)
    felt = units_of(net.field, "test")[name].last.felt
    assert torch.allclose(felt, g.square().sum(0), rtol=1e-4)


@pytest.mark.parametrize("delta", [None, LoRA(2)])
def test_a_flow_is_trained_to_fewer_parts(delta):
    flow = Flow(Network(dit()))
    method = Slimming(0.5, periods=2, delta=delta)
    with Rng(4).ambient():
        net = method.networks(flow)["student"]
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert all(".changes." in name for name in trained) if delta else len(trained) == len(list(net.parameters()))
    start = copy.deepcopy(net)
    how = Training(steps=10, batch_size=6)
    made = fit(net, method.objective(flow), Batch(X), how, rng=Rng(5), log=lambda entry: None)
    small = method.student(flow, {"student": made})[0].field
    assert (small(X, T) - made(X, T)).abs().max() <= 2e-6 < (start(X, T) - made(X, T)).abs().max()
    assert small.backbone.field.block[0].mix.heads == 2
    early = method.student(flow, {"student": start})[0].field  # units that do not fade yet are taken away as well
    assert early.backbone.field.block[0].mix.heads == 2


def test_settings_that_make_no_sense_are_refused():
    for more in ({"share": 1.0}, {"start": 0.6}, {"periods": 0}):
        with pytest.raises(BeelineError, match="set 0 <= start < end <= 1"):
            Slimmed(dit(), **more)
    with pytest.raises(BeelineError, match="without a flow transformer"):
        Slimmed(torch.nn.Linear(2, 2))


def test_parts_of_weights_in_few_bits_and_of_adapters_are_refused():
    plain, none = dit().requires_grad_(False), Probe([Call(X, T, None)])
    small = int8().apply(plain, int8().plan(plain, none), none, Rng(0))
    for use in (Slimmed, lambda net: Narrow(0.5).apply(net, None, none, Rng(0))):
        with pytest.raises(
            BeelineError, match=r"'block\.0\.mix\.out' stores its weight in few bits.*take parts away first"
        ):
            use(small)
    with pytest.raises(BeelineError, match=r"'block\.0\.mix' has weights beside .* such as mixer=Attention"):
        Narrow(0.5).plan(dit(mixer=WindowsWithLatents()), none)
    with pytest.raises(BeelineError, match="mixer=SlicedAttention, whose heads are not alike"):
        Ordered().plan(dit(mixer=SlicedAttention()), none)
    with pytest.raises(BeelineError, match="merge the adapter first"):
        Narrow(0.5).apply(Adapted(dit(), LoRA(2)), None, none, Rng(0))


def test_gates_on_another_device():
    with second_device():
        net = Slimmed(dit(), periods=1).to(DEVICE).train()
        (net(X.to(DEVICE), T.to(DEVICE)) ** 2).sum().backward()
        gates = after(net, 1.0)
        assert all(gate.device.type == DEVICE.type for gate in gates.values())
        assert (net.slim()(X.to(DEVICE), T.to(DEVICE)) - net.eval()(X.to(DEVICE), T.to(DEVICE))).abs().max() <= 2e-6
