"""Branches: no change at first, their formulas, and what they do to the cost of a network."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.distillation.adapting import BranchTraining
from beeline.fields.flow import Flow, Network
from beeline.networks.adapters.adapted import Adapted, adapted, merged
from beeline.networks.adapters.amounts import PerLayer, Window
from beeline.networks.adapters.delta import LoRA, layers_of
from beeline.networks.attention import attend
from beeline.networks.branches.bottlenecks import Bottleneck, InputLink
from beeline.networks.branches.branched import branched
from beeline.networks.branches.dispatch import Dispatch
from beeline.networks.branches.frequency import Frequency, low_part
from beeline.networks.branches.laplace import PLaplace, message_weights
from beeline.networks.controls.features import T2IAdapter
from beeline.networks.controls.with_control import controlled
from beeline.networks.dit import DiT, MMDiT, UViT
from beeline.networks.mlp import MLP
from beeline.networks.transformer.blocks import modulated
from beeline.networks.transformer.experts import Experts
from beeline.networks.transformer.mixers import LinearAttention
from beeline.networks.transformer.plans.depths import Depths
from beeline.networks.unet import UNet

X, T = Rng(0).normal(torch.empty(3, 1, 8, 8)), torch.tensor([0.1, 0.5, 0.9])
BRANCHES = [pytest.param(config.parse(f"branches.{name}(rank=4)"), id=name) for name in CATALOGUE["branches"]]
BRANCHES.append(pytest.param(Bottleneck(4, both=True, norm=True), id="both"))


def shaken(net, size=0.1):
    with Rng(1).ambient(), torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(size * torch.randn_like(p))
    return net.eval()


def base(kind=DiT, **more):
    with Rng(2).ambient():
        return shaken(Network(kind((1, 8, 8), **{"width": 16, "heads": 2, "depth": 2, **more})))


def made_of(net, branch, amount=1.0):
    with Rng(3).ambient():
        return branched(net, branch, amount).eval()


def moved(net, branch):
    return shaken(made_of(net, branch), 0.3)


@pytest.mark.parametrize("kind", [DiT, UViT])
@pytest.mark.parametrize("branch", BRANCHES)
def test_every_branch_starts_at_the_network_and_leaves_it(branch, kind):
    net = base(kind)
    before, plain = net(X, T), copy.deepcopy(net.state_dict())
    made = made_of(net, branch)
    with torch.no_grad():
        assert torch.equal(made(X, T), before), "the start"
    assert torch.equal(made(X, T), before)
    own = {k.replace("backbone.field", "backbone"): v for k, v in made.state_dict().items() if ".branches." not in k}
    assert own.keys() == plain.keys() and all(torch.equal(plain[k], v) for k, v in own.items()), "names are kept"
    shaken(made, 0.3)
    changed = made(X, T)
    assert (changed - before).abs().max() > 1e-3
    assert torch.allclose(made(X[1:2], T[1:2]), changed[1:2], atol=1e-6), "rows do not meet"
    made.train()(X, T).square().sum().backward()
    made.eval()
    for name, p in made.named_parameters():
        assert (p.grad is not None and bool(p.grad.any())) == p.requires_grad == (".branches." in name), name
    off = copy.deepcopy(made)
    off.backbone = made.backbone.at(0.0)
    assert torch.equal(off(X, T), before), "inactive is identical bit for bit"
    assert all(torch.equal(plain[k], v) for k, v in net.state_dict().items())
    with Rng(9).ambient():
        again = config.build(config.describe(made)).eval()
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(X, T), changed)
    with pytest.raises(BeelineError, match="to be merged.*no weight of them can express.*LoRA"):
        merged(made)


def test_a_bottleneck_stands_beside_the_two_parts_of_a_block():
    net = base()
    made = moved(net, Bottleneck(4, scale=0.5, both=True)).backbone
    h, told, out = net.backbone.stages(X, T)
    for k, block in enumerate(net.backbone.block):
        e, layout = told[k]
        parts = layout.spread(block.tell(e)).chunk(6, -1)
        mixing, feeding = (
            made.field.block[k].branches[part][0].funnel for part in ("mixing", "feeding")
        )  # outside of the gates
        u = h + parts[2] * block.mix(modulated(h, *parts[:2]), layout) + 0.5 * mixing(h)
        h = u + parts[5] * block.mlp(modulated(u, *parts[3:5]), layout)[0] + 0.5 * feeding(u)
    assert torch.allclose(made(X, T), out(h, *told[-1]), atol=1e-5)


def test_a_bottleneck_stands_beside_blocks_of_one_part():
    with Rng(2).ambient():
        net = shaken(MLP(2, width=16, depth=2))
    x = X[:, 0, 0, :2]
    made = moved(net, Bottleneck(4))
    h, told, out = net.stages(x, T)
    for k, block in enumerate(net.block):
        h = block(h, *told[k]) + made.field.block[k].branches["whole"][0].funnel(h)
    assert torch.allclose(made(x, T), out(h), atol=1e-6)
    joint = base(MMDiT, conditions={"label": {"classes": 3}}, single=1)
    cond = torch.tensor([0, 1, 2])
    assert (moved(joint, Bottleneck(4))(X, T, cond) - joint(X, T, cond)).abs().max() > 1e-3


def test_links_of_conditions_have_their_own_tokens():
    net, cond = base(MMDiT, conditions={"label": {"classes": 3}}), torch.tensor([0, 1, 2])
    made = moved(net, InputLink(4, data=False))
    assert {n.split(".")[2] for n, p in made.named_parameters() if p.requires_grad} == {"text"}
    tokens, known = (n.text.tokens(cond, X)[0] for n in (made.backbone.field, net.backbone))
    link = made.backbone.field.text.branches["tokens"][0].funnel
    assert torch.allclose(tokens, known + link(known), atol=1e-6)
    both = moved(net, InputLink(4)).backbone.field
    assert torch.allclose(
        both.inp(torch.ones(4)), net.backbone.inp(torch.ones(4)) + both.inp.branches["whole"][0].funnel(
            net.backbone.inp(torch.ones(4))), atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("grid", [(8,), (6, 5), (3, 4, 2)])
def test_low_and_high_frequencies_are_orthogonal_parts(grid):
    n = int(torch.tensor(grid).prod())
    z = Rng(0).normal(torch.empty(2, n, 3, dtype=torch.float64))
    low = low_part(z, grid, 0.3)
    high = z - low
    assert (low * high).sum((1,)).abs().max() < 1e-12 and torch.allclose(low_part(low, grid, 0.3), low, atol=1e-12)
    assert torch.allclose(low.square().sum() + high.square().sum(), z.square().sum(), atol=1e-10)
    constant = torch.ones(1, n, 1, dtype=torch.float64)
    assert torch.allclose(low_part(constant, grid, 0.3), constant, atol=1e-12)
    assert low_part(z, grid, 0.499 if n % 2 else 0.45).shape == z.shape


def test_what_acts_on_high_frequencies_is_given_to_their_funnel():
    net = base()
    module = made_of(net, Frequency(4, last=1)).backbone.modules_beside[0]
    with Rng(5).ambient():
        z = torch.randn(32, 16, 16)
    high = z - low_part(z, (4, 4), 0.3)
    with Rng(6).ambient():
        wanted = 0.1 * (high @ torch.randn(16, 4)).relu() @ torch.randn(4, 16)
    layout = net.backbone.stages(X, T).told[0][1]
    adam = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(100):
        loss = (module.added(net, None, z, layout) - wanted).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    made = [f(p) for f, p in zip(module.experts, (z, z - high, high), strict=True)]
    sizes = [(m * module.shares(z)[..., k, None]).square().mean() for k, m in enumerate(made)]
    assert loss < 0.5 * wanted.square().mean() and sizes[2] > 2 * max(sizes[:2])


def test_tokens_that_skip_a_feed_are_not_evaluated():
    net = base(depth=1, width=32)
    made = moved(net, Dispatch(rank=1))
    (module,) = made.backbone.modules_beside
    h, told, _ = net.backbone.stages(X, T)
    block = net.backbone.block[0]
    parts = told[0][1].spread(block.tell(told[0][0])).chunk(6, -1)
    u = block.mixing(h, parts[:3], told[0][1])
    with torch.no_grad():
        module.gate.bias -= module.logits(u, parts[3:]).median()
    opened = module.logits(u, parts[3:]) > 0
    assert 0.45 < opened.float().mean() < 0.55
    masked = made(X, T)
    counts = []
    for field in (net, made):
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            out = field(X, T)
        counts.append(flops.get_total_flops())
    assert torch.allclose(out, masked, atol=1e-5)
    skipped = int((~opened).sum()) * 2 * 2 * 32 * 128
    own = opened.numel() * 2 * (2 * 32 + 32)
    assert counts[0] - counts[1] == skipped - own
    with torch.no_grad():
        module.gate.bias -= 100.0
        assert made(X, T).isfinite().all(), "no token is open"


@pytest.mark.slow
def test_shares_of_tokens_come_to_the_rate():
    flow = Flow(base())
    method = BranchTraining(Dispatch(rate=0.5, rank=4))
    with Rng(3).ambient():
        net = method.networks(flow)["student"]
        objective, gates = (
            method.objective(flow),
            torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 2e-2),
        )
        for step in range(200):
            loss = objective(net.train(), Batch(torch.randn(16, 1, 8, 8)), Rng(step))
            gates.zero_grad()
            loss.value.backward()
            gates.step()
    assert abs(float(loss.terms["rate"])) < 5e-3
    with torch.no_grad():
        later = objective(net.eval(), Batch(Rng(4).normal(torch.empty(64, 1, 8, 8))), Rng(0))
    assert later.terms["rate"] < 0.2**2, "nearly so without noise, of 0.25 at first"


def test_messages_are_those_of_attention_for_p_two_and_monotone_in_p():
    net = base()
    module = made_of(net, PLaplace(p=2.0, mu=0.0)).backbone.modules_beside[0]
    layout, mix = net.backbone.stages(X, T).told[0][1], net.backbone.block[0].mix
    u = Rng(4).normal(torch.empty(3, 16, 16))
    q, k, v = mix.divided(u)
    known = attend(layout.turned(q), layout.turned(k), v).transpose(1, 2).flatten(2)
    assert torch.allclose(module.passed(mix, u, layout), known, atol=1e-6)
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0]]).repeat_interleave(8, 0)
    values = centres + 0.3 * Rng(0).normal(torch.empty(16, 2))
    weights = Rng(1).normal(torch.empty(16, 16)).softmax(-1)
    inside = []
    for p in (1.2, 1.6, 2.0, 2.5, 3.0):
        w = message_weights(weights, values, p)
        inside.append(float((w / w.sum(-1, keepdim=True))[:8, :8].sum() / 8))
    assert inside == sorted(inside, reverse=True) and inside[0] > 0.7 > 0.55 > inside[2] > 0.3 > inside[-1]


def test_branches_deltas_controls_and_amounts_meet():
    net = base()
    branch = moved(net, Bottleneck(4)).backbone
    near = branch.at(Window(0.0, 0.3))
    assert torch.allclose(near(X, T)[:1], branch(X, T)[:1], atol=1e-6)
    assert torch.allclose(near(X, T)[1:], branch.at(0.0)(X, T)[1:], atol=1e-6)
    first = branch.at(PerLayer({"block.0": 1.0}, others=0.0))(X, T)
    assert (first - branch(X, T)).abs().max() > 1e-4 < (first - branch.at(0.0)(X, T)).abs().max()
    half = branch.at(0.5)
    assert {m.amount for m in half.modules_beside} == {0.5}
    two = moved(branch, InputLink(4))
    assert torch.allclose(two.at(0.0)(X, T), branch(X, T), atol=1e-6)
    inside = moved(shaken(adapted(net.backbone, LoRA(2), ["inp"])), InputLink(4))
    around = shaken(Adapted(copy.deepcopy(inside), LoRA(2), ["inp", "mlp.0"]))
    assert set(layers_of(branch)) == {f"field.{name}" for name in layers_of(net.backbone)}, "funnels are left out"
    assert torch.allclose(around.merged()(X, T), around(X, T), atol=1e-5), "the branch stays beside merged weights"
    hinted = controlled(branch, T2IAdapter(8))
    assert torch.equal(hinted(X, T), branch(X, T))
    plain = made_of(base(plan=Depths()), Bottleneck(4))
    assert plain(X, T).shape == X.shape


@pytest.mark.parametrize(
    ("kind", "more", "branch", "words"),
    [
        (UNet, {"heads": None}, Bottleneck(), "given to a UNet.*use MLP, DiT"),
        (DiT, {"mixer": LinearAttention()}, PLaplace(), "probabilities.*mixer=Attention"),
        (DiT, {"plan": Depths()}, Frequency(), "whole grid of tokens.*plan=Plain"),
        (DiT, {"feed": Experts(2)}, Dispatch(), "feed=Experts.*FeedForward"),
        (DiT, {}, InputLink(data=False), "stand nowhere.*MMDiT"),
        (MMDiT, {"conditions": {"label": {"classes": 3}}}, Bottleneck(both=True), "JointBlock.*wiring=PreNorm"),
    ],
)
def test_networks_without_the_place_are_refused(kind, more, branch, words):
    with Rng(0).ambient():
        sizes = {"width": 16, "heads": 2, "depth": 2} | more
        net = kind((1, 8, 8), **{k: v for k, v in sizes.items() if kind is not UNet or k == "width"})
    with pytest.raises(BeelineError, match=words):
        branched(net, branch)
