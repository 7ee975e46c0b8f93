"""Plans: shared blocks, parts of networks, and what is done around visits."""

import pytest
import torch

from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Flow, Network
from beeline.networks.dit import DiT, MMDiT, UViT
from beeline.networks.transformer.experts import PEER, Experts
from beeline.networks.transformer.feeds import SwiGLU
from beeline.networks.transformer.layout import collected_notes, subnetwork
from beeline.networks.transformer.mixers import LinearAttention
from beeline.networks.transformer.mixing.scans import RWKV
from beeline.networks.transformer.mixing.windows import WindowsWithLatents
from beeline.networks.transformer.plans.depths import Depths
from beeline.networks.transformer.plans.elastic import SubNetwork, extracted
from beeline.networks.transformer.plans.plan import Plain, Shared
from beeline.networks.transformer.plans.replanned import replanned
from beeline.networks.transformer.plans.spectral import SpectralShrink
from beeline.networks.transformer.plans.subset import Subset
from beeline.objectives.subsets.draws import AnyPart
from beeline.objectives.subsets.elastic import Elastic
from beeline.runs.bundle import Bundle
from beeline.sampling.sampler import Sampler
from tests.networks.transformer.test_slots import KINDS, LABEL, T, X, Y, alive, made


@pytest.mark.parametrize("kind", KINDS)
def test_one_visit_is_the_network_without_a_plan(kind):
    plain, once = made(kind), made(kind, plan=Shared(1))
    once.load_state_dict(plain.state_dict() | {"visit.embedding": torch.zeros(3, 16)})
    assert torch.equal(once(X, T, Y), plain(X, T, Y))
    assert set(plain.state_dict()) == set(once.state_dict()) - {"visit.embedding"}


@pytest.mark.parametrize("kind", [DiT, UViT])
def test_a_shared_block_is_equal_blocks_and_its_gradient_their_sum(kind):
    with Rng(2).ambient():
        shared = alive(kind((1, 8, 8), width=16, depth=1, heads=2, conditions=LABEL, plan=Shared(4)))
        unrolled = alive(kind((1, 8, 8), width=16, depth=4, heads=2, conditions=LABEL))
    with torch.no_grad():
        shared.visit.embedding.zero_()
    own = shared.state_dict()
    unrolled.load_state_dict({k: own[k.replace(f"block.{k.split('.')[1]}", "block.0")] for k in unrolled.state_dict()})
    assert (shared(X, T, Y) - unrolled(X, T, Y)).abs().max() <= 1e-12
    shared(X, T, Y).square().sum().backward()
    unrolled(X, T, Y).square().sum().backward()
    for name, p in shared.block[0].named_parameters():
        every = sum(block.get_parameter(name).grad for block in unrolled.block)
        assert torch.allclose(p.grad, every, rtol=1e-9, atol=1e-10)
    assert shared.visit.embedding.grad.abs().min(1).values.max() > 0
    assert shared.stages(X, T, Y) is None and shared.modulation(T, Y) is None


def test_notes_of_shared_blocks_are_those_of_visits():
    net = made(DiT, plan=Shared(2, rounds=True), feed=Experts(4))
    with collected_notes() as seen:
        net(X, T, Y)
    assert set(seen[0]) == {f"block.{k}.balance" for k in range(6)}


@pytest.mark.parametrize("slots", [{}, {"feed": SwiGLU()}, {"mixer": LinearAttention()}, {"plan": Shared(2)}], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_a_view_of_a_network_is_the_network_with_the_weights_of_that_part(kind, slots):
    net = Network(made(kind, **slots, **({"single": 1} if kind is MMDiT else {})))
    outputs = [net(X, T, Y)]
    for width, visits, feeds in ((0.5, None, None), (1.0, (0, 2), (0.5,)), (0.25, (1,), None), (0.5, (), None)):
        view, small = SubNetwork(net, width, visits, feeds=feeds), extracted(net, width, visits, feeds)
        assert (view(X, T, Y) - small(X, T, Y)).abs().max() <= 1e-12
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
        outputs.append(view(X, T, Y))
        again = config.build(config.describe(small)).double()
        again.load_state_dict(small.state_dict())
        assert torch.equal(again.eval()(X, T, Y), small(X, T, Y))
    assert min(float((a - b).abs().max()) for i, a in enumerate(outputs) for b in outputs[:i]) > 1e-3
    assert torch.equal(outputs[0], net(X, T, Y)), "the network itself is not changed"
    assert torch.equal(outputs[0], SubNetwork(net)(X, T, Y))


def test_blocks_have_feeds_of_their_own_widths():
    net = made(DiT)
    view, small = SubNetwork(net, feeds=(0.25, 1.0, 0.5)), extracted(net, feeds=(0.25, 1.0, 0.5))
    assert [block.mlp[0].out_features for block in small.field.block] == [16, 64, 32]
    assert (view(X, T, Y) - small(X, T, Y)).abs().max() <= 1e-12 < (view(X, T, Y) - net(X, T, Y)).abs().max()
    assert torch.equal(SubNetwork(net, feeds=(1.0,) * 3)(X, T, Y), net(X, T, Y))
    with torch.no_grad():
        net.block[0].mlp[3].weight[:, 16:] = 0
        net.block[2].mlp[3].weight[:, 32:] = 0
    assert (view(X, T, Y) - net(X, T, Y)).abs().max() <= 1e-12, "blocks 0 and 2 use their first channels"


def test_mixers_without_a_narrow_form_stay_whole():
    for mixer in (RWKV(), WindowsWithLatents()):
        net = made(DiT, mixer=mixer)
        view, small = SubNetwork(net, feeds=(0.5,)), extracted(net, feeds=(0.5,))
        assert (view(X, T, Y) - small(X, T, Y)).abs().max() <= 1e-12 < (view(X, T, Y) - net(X, T, Y)).abs().max()
        with pytest.raises(BeelineError, match=r"weights \['mix\..*narrow forms"):
            extracted(net, 0.5)


def test_parts_of_parts():
    net = made(DiT)
    small = extracted(net, 0.5, (0, 2))
    for width, visits, feeds in ((0.5, None, None), (1.0, (0, 1), (0.5,)), (1.0, None, (0.25, 1.0, 0.5))):
        outer = {"width": width, "visits": visits, "feeds": feeds}
        found = [SubNetwork(part, **outer)(X, T, Y) for part in (SubNetwork(net, 0.5, (0, 2)), small)]
        own = None if feeds is None else tuple(0.5 * f for f in feeds)
        wanted = SubNetwork(net, 0.5 * width, (0,) if visits else (0, 2), feeds=own)(X, T, Y)
        assert all((v - wanted).abs().max() <= 1e-12 for v in found)
    assert (small(X, T, Y) - wanted).abs().max() > 1e-3


def test_only_weights_of_the_part_are_trained():
    net = made(DiT)
    with subnetwork(Subset(0.5, (0, 2))):
        net(X, T, Y).square().sum().backward()
    assert all(p.grad is None for p in net.block[1].parameters())
    grad = net.block[0].mix.out.weight.grad
    assert grad[:, :8].abs().max() > 0 and grad[:, 8:].abs().max() == 0
    assert net.block[0].mlp[3].weight.grad[:, 32:].abs().max() == 0
    with subnetwork(Subset(0.5, (0, 2))):
        assert net.stages(X, T, Y) is None
    with subnetwork(Subset(0.5)):
        assert net.stages(X, T, Y) is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SubNetwork(torch.nn.Identity()), "without a flow transformer"),
        (lambda: SubNetwork(made(DiT), visits=(3,)), "numbered from 0"),
        (lambda: SubNetwork(made(DiT), feeds=(0.5, 1.0)), "give one for all of them, or 3"),
        (lambda: extracted(made(DiT, plan=Shared(2)), feeds=(0.5, 1.0) * 3), "all visits of a block"),
        (lambda: extracted(made(DiT, feed=PEER(4, active=2)), 0.5), "narrow forms"),
    ],
)
def test_what_is_no_part_is_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_elastic_training_draws_parts_and_every_part_can_be_sampled():
    objective, net = Elastic(draws=AnyPart(0.25, 0.5, whole=0.25)), Network(made(DiT).float())
    drawn = [objective.draws(8, Rng(seed))[0] for seed in range(400)]
    assert 0.2 < sum(d == Subset() for d in drawn) / 400 < 0.3
    parts = [d for d in drawn if d.visits is not None]
    assert all({0, 7} <= set(d.visits) and 0.25 <= d.width <= 1 for d in parts)
    assert abs(sum(d.width for d in parts) / len(parts) - 0.625) < 0.05
    assert abs(sum(len(d.visits) - 2 for d in parts) / len(parts) / 6 - 0.75) < 0.05
    batch = Batch(X.float(), cond=Y)
    values = {float(objective(net, batch, Rng(seed)).value.detach()) for seed in range(4)}
    assert len(values) == 4 and objective(net, batch, Rng(1)).value == objective(net, batch, Rng(1)).value
    view = Bundle(Flow(net)).subnetwork(0.5, (0, 2))
    small = Bundle(Flow(net)).subnetwork(0.5, (0, 2), own=True)
    made_by = [b.draw(X[:2].float(), {"label": Y["label"][:2]}, sampler=Sampler(4)) for b in (view, small)]
    assert torch.allclose(*made_by, atol=1e-5)
    assert small.parameters < view.parameters


def test_a_trained_network_is_visited_by_another_plan():
    net = Network(made(MMDiT, single=1))
    again = replanned(net, SpectralShrink(keep=1.0))
    assert torch.equal(again(X, T, Y), net(X, T, Y)) and net.backbone.plan == Plain()
    coarse, routed = replanned(net, SpectralShrink()), replanned(net, Depths())
    assert 1e-4 < (coarse(X, T, Y) - net(X, T, Y)).abs().max() < 10
    assert routed.backbone.visit.route.weight.dtype == torch.float64
    shared = {id(p) for p in net.parameters()}
    assert {id(p) for p in coarse.parameters()} == shared < {id(p) for p in routed.parameters()}
    assert config.build(config.describe(coarse)).backbone.plan == SpectralShrink()
    with pytest.raises(BeelineError, match="belong to visits"):
        replanned(made(UViT), Shared(2))
