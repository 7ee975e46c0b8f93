"""Mixtures of changes of a layer against explicit sums of the outputs of each change."""

import copy

import pytest
import torch

from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Network
from beeline.networks.adapters.adapted import Adapted, adapted, merged
from beeline.networks.adapters.amounts import GIVEN
from beeline.networks.adapters.delta import LoRA, changed_layers
from beeline.networks.adapters.inside import backbone_of
from beeline.networks.adapters.members.low_rank import AdapterBias, DoRA
from beeline.networks.adapters.members.mixture import Constant, Mixture, Task, Token, fixed, mixture, regated
from beeline.networks.dit import DiT
from beeline.networks.mlp import MLP
from beeline.networks.unet import UNet
from beeline.objectives.matching import FlowMatching
from beeline.training.compute import recomputed
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine

X, T = Rng(0).normal(torch.empty(3, 1, 8, 8)), torch.tensor([0.1, 0.5, 0.9])
LABELS = {"label": torch.tensor([0, 2, 3])}  # the last is the null


def base(kind=DiT):
    with Rng(2).ambient():
        more = {"heads": 2, "depth": 2} if kind is DiT else {}
        net = Network(kind((1, 8, 8), width=16, conditions={"label": {"classes": 3}}, **more))
        for p in net.parameters():
            p.data += 0.1 * torch.randn_like(p)
    return net


def shaken(net, seed=4, only=""):
    with torch.no_grad(), Rng(seed).ambient():
        for name, p in net.named_parameters():
            if ".changes." in name and only in name:
                p.add_(0.2 * torch.randn_like(p))
    return net


def expert(net, seed, delta=LoRA(2)):
    with Rng(seed).ambient():
        return shaken(adapted(net, delta), seed)


def gates_of(net, value, where="gate/logits"):
    for layer in changed_layers(net).values():
        layer.changes[-1].numbers[where].data.copy_(value)
    return net


@pytest.mark.parametrize("kind", [DiT, UNet])
def test_one_task_with_all_of_one_change_has_its_output(kind):
    net = base(kind)
    deltas = (LoRA(2), DoRA(1)) if kind is DiT else (LoRA(2), LoRA(1))
    one, two = expert(net, 5, deltas[0]), expert(net, 6, deltas[1])
    made = mixture([one, two], Task(3))
    assert {n.rsplit(".", 1)[1] for n, p in made.named_parameters() if p.requires_grad} == {"gate/logits"}
    onehot = torch.full((3, 1, 2), -200.0)
    onehot[[0, 1, 2], 0, [0, 1, 1]] = 200.0
    gates_of(made, onehot)
    out = made(X, T, LABELS)
    assert torch.equal(out[:1], one(X, T, LABELS)[:1]) or torch.allclose(out[0], one(X, T, LABELS)[0], atol=1e-6)
    assert torch.allclose(out[1], two(X, T, LABELS)[1], atol=1e-6)
    mean = fixed(made)  # what the null takes: 1/3 and 2/3
    assert torch.allclose(mean(X, T, LABELS)[2], out[2], atol=1e-5)
    assert torch.allclose(made(X, T), merged(mean)(X, T), atol=1e-5), "no condition is the null"
    assert torch.allclose(merged(fixed(made, 1))(X, T, LABELS), two(X, T, LABELS), atol=1e-5)
    with pytest.raises(BeelineError, match="fixed"):
        merged(made)
    again = regated(fixed(made, 0), Task(1))
    assert {n.rsplit(".", 1)[1] for n, p in again.named_parameters() if p.requires_grad} == {"gate/logits"}
    gates_of(again, onehot[:1])
    assert torch.allclose(again(X, T, LABELS), one(X, T, LABELS), atol=1e-5)
    off = copy.deepcopy(made)
    off.backbone = made.backbone.at(0.0)
    assert torch.equal(off(X, T, LABELS), net(X, T, LABELS))
    again = config.build(config.describe(made))
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(X, T, LABELS), out)


def test_a_layer_is_the_sum_of_outputs_of_its_changes_by_token_and_by_block_of_outputs():
    u = Rng(1).normal(torch.empty(2, 5, 6))
    for gate in (Token(), Token(compete=True), Task(2, heads=4)):
        with Rng(3).ambient():
            net = Adapted(torch.nn.Sequential(torch.nn.Linear(6, 8)), Mixture((LoRA(2), AdapterBias()), gate), ["0"])
        layer = shaken(net).field[0]
        delta, p, w, b = layer.changes[0].delta, layer.changes[0].parts(layer.own), layer.own, layer._parameters["bias"]
        assert set(k.split("/")[0] for k in p) == {"0", "1", "gate"}
        label = torch.tensor([1, 0])
        first = {k[2:]: v for k, v in p.items() if k.startswith("0/")}
        second = {k[2:]: v for k, v in p.items() if k.startswith("1/")}
        outs = [
            u @ delta.experts[k].weight(w, q).mT + delta.experts[k].bias(b, w, q) for k, q in enumerate((first, second))
        ]
        if isinstance(gate, Task):
            g = p["gate/logits"].softmax(-1)[label].repeat_interleave(2, 1)[:, None]  # [2,1,8,2]
        else:
            z = u @ p["gate/router"].mT
            g = (z.softmax(-1) if gate.compete else z.sigmoid())[..., None, :]
        plain = u @ w.mT + b
        wanted = plain + sum(g[..., k] * (outs[k] - plain) for k in range(2))
        token = GIVEN.set(({"label": label},))  # as the adapted network does
        assert torch.allclose(layer(u), wanted, atol=1e-5)
        quarter = net.at(0.25).field[0](u)
        assert torch.allclose(quarter, 0.75 * plain + 0.25 * wanted, atol=1e-5)
        GIVEN.reset(token)


def test_starts_and_other_deltas_beside_a_mixture():
    net = base()
    for gate in (Constant(), Token(), Task(3)):
        with Rng(5).ambient():
            made = adapted(net, Mixture((LoRA(1), LoRA(2)), gate))
        assert (made(X, T, LABELS) - net(X, T, LABELS)).abs().max() < 1e-5
        one = expert(net, 7)
        with Rng(5).ambient():
            after = adapted(one, Mixture((LoRA(1),), gate))
        assert (after(X, T, LABELS) - one(X, T, LABELS)).abs().max() < 1e-5
        before = expert(after, 8)  # a delta after the mixture
        assert (before(X, T, LABELS) - one(X, T, LABELS)).abs().max() > 1e-3
    with Rng(5).ambient():
        heads = fixed(shaken(adapted(net, Mixture((LoRA(1), LoRA(2)), Task(3, heads=4)))), 1)
        again = config.build(config.describe(heads))
    again.load_state_dict(heads.state_dict())
    assert torch.equal(again(X, T, LABELS), heads(X, T, LABELS)), "shares of blocks of outputs are stored"
    trained = {n.rsplit(".", 1)[1] for n, p in fixed(made).named_parameters() if p.requires_grad}
    assert trained == {"0/up", "0/down", "1/up", "1/down"}, "the mean of an inventory is trained on"


def test_gradients_with_recomputed_blocks_see_the_condition():
    with Rng(5).ambient():
        net = shaken(adapted(base(), Mixture((LoRA(1), LoRA(2)), Task(3))))
    plain = torch.autograd.grad(net(X, T, LABELS).square().sum(), [p for p in net.parameters() if p.requires_grad])
    with recomputed(net, 1):
        again = torch.autograd.grad(net(X, T, LABELS).square().sum(), [p for p in net.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, again, strict=True))


def test_gates_alone_are_trained_by_the_engine():
    with Rng(2).ambient():
        net = Network(MLP(2, width=8, depth=1, conditions={"label": {"classes": 3}}))
        net.backbone.out.weight.data.normal_()
    batch = Batch(Rng(1).normal(torch.empty(64, 2)), cond={"label": torch.arange(64) % 3})
    for gate in (Token(), Task(3)):
        made = mixture([expert(net, 5), expert(net, 6)], gate)
        before = {k: v.clone() for k, v in made.state_dict().items()}
        how = Training(steps=3, batch_size=32, lr=WarmupCosine(1e-2, 1), ema=None)
        after = fit(made, FlowMatching(), batch, how, rng=Rng(0), log=lambda entry: None).state_dict()
        moved = {k.rsplit(".", 1)[1] for k, v in before.items() if not torch.equal(v, after[k])}
        assert moved == {"gate/logits"} or moved == {"gate/router"}


def test_refused():
    net = base()
    one, other = expert(net, 5), expert(base(), 5)
    with torch.no_grad():
        next(iter(changed_layers(other).values())).own.add_(1)
    with pytest.raises(BeelineError, match="another base"):
        mixture([one, other])
    with pytest.raises(BeelineError, match="amount 1"):
        half = copy.deepcopy(one)
        half.backbone = one.backbone.at(0.5)
        mixture([one, half])
    with pytest.raises(BeelineError, match="adapted with Mixture"):
        fixed(one)
    with pytest.raises(BeelineError, match="outside of its Adapted"):
        layer = next(iter(changed_layers(backbone_of(mixture([one], Task(2)))).values()))
        layer(torch.zeros(1, layer.in_features))
    token = GIVEN.set(({"label": torch.zeros(3, 2, dtype=torch.long)},))
    with pytest.raises(BeelineError, match="one label for every row"):
        layer(torch.zeros(3, layer.in_features))
    GIVEN.reset(token)
    with pytest.raises(BeelineError, match="convolution"):
        with Rng(5).ambient():
            adapted(base(UNet), Mixture(gate=Token()))(X, T, LABELS)
    with pytest.raises(BeelineError, match="no mixtures"):
        Mixture((Mixture(gate=Token()),))


def test_a_condition_of_another_name_is_refused():
    net = Adapted(
        MLP(2, width=8, depth=1, conditions={"label": {"classes": 3}}), Mixture(gate=Task(3, condition="kind"))
    )
    with pytest.raises(BeelineError, match=r"reads the condition 'kind'.*given \['label'\]"):
        net(torch.zeros(2, 2), torch.zeros(2), {"label": torch.tensor([0, 1])})
