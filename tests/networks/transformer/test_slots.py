"""The slots of the flow transformer against explicit forms, and what every combination of them keeps."""

import itertools

import pytest
import torch

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Network
from beeline.networks.dit import DiT, MMDiT, UViT
from beeline.networks.published.presets import SD3, FiT, Flux, PixArt
from beeline.networks.transformer.blocks import (
    AdaLNZero,
    JointBlock,
    ParallelBlock,
    Peri,
    PeriBlock,
    PreNorm,
    PreNormBlock,
    Sizes,
)
from beeline.networks.transformer.experts import PEER, Experts, TopK
from beeline.networks.transformer.feeds import Cauchy, FeedForward
from beeline.networks.transformer.layout import Asked, Layout, collected_notes
from beeline.networks.transformer.mixers import Attention, FlowAttention, LinearAttention, OneStream
from beeline.networks.transformer.positions import Rotary, SinCos, rotation
from beeline.objectives.alignment import Noted
from beeline.objectives.matching import FlowMatching

KINDS = [DiT, MMDiT, UViT]
LABEL = {"label": {"classes": 10}}
X = Rng(0).normal(torch.empty(3, 1, 8, 8, dtype=torch.float64))
T, Y = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), {"label": torch.tensor([1, 2, 10])}


def alive(net):
    """The network with weights that are not zero, in float64."""
    with Rng(1).ambient(), torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.double().eval()


def made(kind, **slots):
    with Rng(2).ambient():
        return alive(kind((1, 8, 8), width=16, depth=3, heads=2, conditions=LABEL, **slots))


def members(slot):
    return [config.parse(f"{slot}.{name}") for name in CATALOGUE[slot]]


SLOTS = {
    "mixer": "mixers",
    "feed": "feeds",
    "positions": "positions",
    "wiring": "wirings",
    "modulation": "modulations",
    "plan": "plans",
}
ONE = [{name: member} for name, slot in SLOTS.items() for member in members(slot)]
ONE += [{"feed": Experts(4, router)} for router in members("routers")]


PRESETS = [(kind, {}) for kind in (FiT, PixArt, SD3, Flux)] + [(SD3, {"dual": 2}), (Flux, {"single": 2})]


@pytest.mark.parametrize(("kind", "slots"), [*itertools.product(KINDS, ONE), *PRESETS], ids=repr)
def test_every_member_keeps_the_promises_of_a_network(kind, slots):
    if kind is MMDiT and isinstance(slots.get("mixer"), OneStream):
        with pytest.raises(BeelineError, match="the streams x, text"):
            made(kind, **slots)
        return
    net = made(kind, **slots)
    value, slope = torch.func.jvp(lambda x, t: net(x, t, Y), (X, T), (X.cos(), torch.ones_like(T)))
    h = 1e-6
    difference = (net(X + h * X.cos(), T + h, Y) - net(X - h * X.cos(), T - h, Y)) / (2 * h)
    assert (slope - difference).abs().max() <= 1e-5 * slope.abs().max()
    alone = torch.cat([net(X[i : i + 1], T[i : i + 1], {"label": Y["label"][i : i + 1]}) for i in range(3)])
    assert (alone - value).abs().max() <= 1e-12, "a row does not depend on its batch"
    again = config.build(config.describe(net)).double().eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(X, T, Y), net(X, T, Y))
    with Rng(2).ambient():
        new = kind((1, 8, 8), width=16, depth=3, heads=2, conditions=LABEL, **slots)
    assert float(new(X.float(), T.float(), Y).abs().max()) == 0


def test_linear_attention_is_its_explicit_matrix_and_repeated_tokens_change_nothing():
    q, k, v = (Rng(i).normal(torch.empty(2, 3, 9, 4, dtype=torch.float64)) for i in range(3))
    f, g = (torch.nn.functional.elu(y) + 1 for y in (q, k))
    weights = f @ g.mT
    wanted = weights @ v / 9 / (weights.sum(-1, keepdim=True) / 9 + 1e-4)
    layout = Layout((3, 3))
    assert torch.allclose(LinearAttention().core(q, k, v, layout), wanted, atol=1e-14)
    more = [y.repeat_interleave(4, 2) for y in (k, v)]
    assert torch.allclose(LinearAttention().core(q, *more, layout), wanted, atol=1e-14)


def test_flow_attention_conserves_its_flows():
    v = Rng(2).normal(torch.empty(2, 3, 9, 4, dtype=torch.float64))
    same = torch.ones_like(v)
    wanted = torch.sigmoid(torch.ones((), dtype=v.dtype)) * v.mean(2, keepdim=True).expand_as(v)
    assert torch.allclose(FlowAttention().core(same, same, v, Layout((3, 3))), wanted, atol=1e-5)
    q, k = (Rng(i).normal(torch.empty_like(v)) for i in range(2))
    order = Rng(4).permutation(9)
    found = FlowAttention().core(q, k, v, Layout((3, 3)))
    turned = FlowAttention().core(q, k[:, :, order], v[:, :, order], Layout((3, 3)))
    assert torch.allclose(found, turned, atol=1e-12), "the order of keys and values does not matter"


def test_rotary_logits_depend_on_differences_of_positions():
    q, k = (Rng(i).normal(torch.empty(8, dtype=torch.float64)) for i in range(2))
    layout = Layout((5, 6), rotation((5, 6), 8, 100.0).double())
    every = [layout.turned(y.expand(1, 1, 30, 8))[0, 0].unflatten(0, (5, 6)) for y in (q, k)]
    logits = torch.einsum("abd,ced->abce", *every)
    assert torch.allclose(logits[:3, :2, 1:4, 2:4], logits[1:4, 2:4, 2:5, 4:6], atol=1e-5)
    assert not torch.allclose(logits[:3, :2, :3, :2], logits[:3, :2, 1:4, :2])
    rest = torch.ones(1, 1, 3, 8, dtype=torch.float64)
    assert torch.equal(layout.turned(torch.cat([q.expand(1, 1, 30, 8), rest], 2))[:, :, 30:], rest)


def test_experts_are_the_sum_of_the_chosen_feeds():
    with Rng(0).ambient():
        feed = alive(Experts(4, TopK(2)).build(6, 8, 0.0))
    h = Rng(1).normal(torch.empty(2, 5, 6, dtype=torch.float64))
    found, notes = feed(h, Layout((5,)))
    p = torch.softmax(feed.route.gate(h), -1)
    wanted = torch.zeros_like(h)
    for b, i in itertools.product(range(2), range(5)):
        weight, index = p[b, i].topk(2)
        for w, e in zip(weight / weight.sum(), index, strict=True):
            u = torch.nn.functional.gelu(h[b, i] @ feed.up[e] + feed.first[e])
            wanted[b, i] += w * (u @ feed.down[e] + feed.second[e])
    assert torch.allclose(found, wanted, atol=1e-12)
    with torch.no_grad():
        feed.route.gate.weight.zero_()
    assert abs(float(feed(h, Layout((5,)))[1]["balance"]) - 1) < 1e-12, "even probabilities"
    assert set(notes) == {"balance"}


def test_product_keys_find_the_best_experts_of_all_pairs():
    with Rng(0).ambient():
        feed = alive(PEER(side=6, heads=2, active=3).build(8, 16, 0.0))
    scores = Rng(1).normal(torch.empty(4, 5, 2, 2, 6, dtype=torch.float64))
    index, score = feed.best(scores)
    every = (scores[..., 0, :, None] + scores[..., 1, None, :]).flatten(-2)
    wanted, at = every.topk(3, -1)
    assert torch.equal(index, at) and torch.allclose(score, wanted)
    h = Rng(2).normal(torch.empty(2, 5, 8, dtype=torch.float64))
    with torch.no_grad():
        feed.down.zero_()
    assert float(feed(h, Layout((5,)))[0].detach().abs().max()) == 0


def test_the_activation_of_cauchy_is_its_formula():
    net, z = Cauchy(0.1), torch.linspace(-3, 3, 7)
    assert torch.allclose(net(z), (z + 1) / (z.square() + 1), atol=1e-6)
    assert float(net(torch.tensor(1e6)).detach().abs()) < 1e-5


def test_notes_of_all_blocks_are_returned_beside_an_equal_output():
    net = made(MMDiT, feed=Experts(4), single=1)
    with collected_notes() as seen:
        output = net(X, T, Y)
    assert torch.equal(output, net(X, T, Y)) and len(seen) == 1
    assert set(seen[0]) == {f"joint.{i}.{s}.balance" for i in range(3) for s in ("x", "text")} | {"single.0.balance"}


def test_single_blocks_of_two_streams_have_the_wiring_that_is_given():
    blocks = {type(made(MMDiT, single=1, **more).single[0]) for more in ({}, {"wiring": PreNorm()}, {"wiring": Peri()})}
    assert blocks == {ParallelBlock, PreNormBlock, PeriBlock}


def test_streams_with_equal_weights_are_one_stream():
    sizes = Sizes(8, 2, 16, 0.0)
    with Rng(0).ambient():
        parts = Attention(), FeedForward(), AdaLNZero()
        joint, serial = alive(JointBlock(sizes, *parts, ("x", "text"))), alive(PreNormBlock(sizes, *parts))
    for name, module in (("tell", joint.tell), ("mlp", joint.mlp)):
        for stream in ("x", "text"):
            module[stream].load_state_dict(getattr(serial, name).state_dict())
    for stream in ("x", "text"):
        joint.mix.get_submodule(stream).load_state_dict(serial.mix.state_dict())
    h = Rng(1).normal(torch.empty(2, 9, 8, dtype=torch.float64))
    e = Rng(2).normal(torch.empty(2, 8, dtype=torch.float64))
    assert torch.allclose(joint(h, e, Layout((6,))), serial(h, e, Layout((9,))), atol=1e-12)


def test_long_skips_start_as_the_network_without_them():
    plain, skipping = made(DiT), made(UViT)
    own = {k: v for k, v in skipping.state_dict().items() if not k.startswith("skip.")}
    plain.load_state_dict(own)
    with torch.no_grad():
        for layer in skipping.skip:
            layer.weight.copy_(torch.eye(16, 32))
            layer.bias.zero_()
    assert torch.allclose(skipping(X, T, Y), plain(X, T, Y), atol=1e-12)


@pytest.mark.parametrize("positions", [SinCos(), Rotary()], ids=repr)
@pytest.mark.parametrize("shape", [(2, 11), (1, 6, 9), (2, 3, 4, 6)])
def test_data_of_one_to_three_axes_and_of_other_sizes(shape, positions):
    with Rng(0).ambient():
        net = DiT(shape, 2, 24, 1, 2, any_size=True, positions=positions)
    for more in (0, 3):
        x = torch.randn(2, shape[0], *(n + more for n in shape[1:]))
        assert net(x, torch.rand(2)).shape == x.shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MMDiT((1, 8, 8), width=16, heads=2), "no conditions"),
        (lambda: DiT((8,), width=16, heads=2), "one to three axes"),
        (lambda: DiT((1, 8, 8), width=18, heads=2), "a multiple of 4"),
        (lambda: DiT((1, 8, 8), width=16, heads=8, positions=Rotary()), "pairs of channels"),
        (lambda: DiT((1, 8, 8), width=16, heads=2, feed=Experts(2, TopK(3))), "1 to 2"),
        (lambda: DiT((1, 8, 8), width=16, heads=2, feed=Experts(2, share=3)), "divisor"),
        (lambda: DiT((1, 8, 8), width=16, heads=2, feed=PEER(4, active=5)), "1 to 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_notes_are_terms_of_a_loss_and_a_network_without_them_is_refused():
    net = Network(made(DiT, feed=Experts(4)).float())
    batch = Batch(X.float(), cond=Y)
    plain, noted = (objective(net, batch, Rng(3)) for objective in (FlowMatching(), Noted(weights={"balance": 0.5})))
    assert torch.isclose(noted.value, plain.value + 0.5 * noted.terms["balance"])
    noted.value.backward()
    assert net.backbone.block[0].mlp.route.gate.weight.grad.abs().max() > 0
    with collected_notes() as seen:
        net(X.float(), T.float(), Y)
    assert len(seen) == 1 and set(seen[0]) == {f"block.{i}.balance" for i in range(3)}
    with pytest.raises(BeelineError, match="gives none"):
        Noted()(Network(made(DiT).float()), batch, Rng(0))


@pytest.mark.parametrize("mixer", [m for m in members("mixers") if not isinstance(m, OneStream)], ids=repr)
def test_padding_of_a_sequence_is_not_seen(mixer):
    """Padding may stand anywhere and be of any length, and a sequence of padding alone is the null."""

    def net(length):
        with Rng(2).ambient():
            spec = {"text": {"length": length, "size": 4}}
            return alive(MMDiT((1, 8, 8), width=16, depth=2, single=1, heads=2, conditions=spec, mixer=mixer))

    text = Rng(3).normal(torch.empty(3, 2, 4, dtype=torch.float64))
    void = torch.zeros(3, 3, 4, dtype=torch.float64)
    short, long = net(2), net(5)
    long.load_state_dict(short.state_dict())
    found = long(X, T, torch.cat([text[:, :1], void, text[:, 1:]], 1))
    assert (found - short(X, T, text)).abs().max() <= 1e-12
    assert (found - short(X, T, text.flip(1))).abs().max() <= 1e-12, "without positions their order does not matter"
    assert (found - short(X, T, text.roll(1, 0))).abs().max() > 1e-4
    assert torch.equal(short(X, T, torch.zeros_like(text)), short(X, T, None))
    assert short.traits.nulls == {"text": 0.0}
    rows = torch.tensor([2, 0])
    layout = short.begun(X, T, text, None, Asked()).told[0][1]
    assert torch.equal(layout.of_rows(rows).keep, layout.keep[rows])
    plain = made(DiT, mixer=mixer)
    assert plain.begun(X, T, Y, None, Asked()).told[0][1].keep is None
