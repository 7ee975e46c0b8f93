"""Blocks whose change is kept, and the order in which blocks are removed."""

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Network
from beeline.networks.dit import DiT, UViT
from beeline.networks.inference.inherited import Inherited, removal_order
from beeline.networks.unet import UNet
from tests.networks.transformer.test_slots import LABEL, T, X, Y, alive, made


def drawn(field, steps=10):
    cond = {"label": torch.tensor([1, 2, 3])}
    return bl.Sampler(steps, solver=bl.solvers.EULER)(bl.Flow(field), X, cond)


@pytest.mark.parametrize("kind", [DiT, UViT])
def test_blocks_are_computed_in_every_nth_evaluation(kind):
    net, ran = Network(made(kind)), []
    plain = drawn(net)
    assert torch.equal(drawn(Inherited(net, every=1)), plain)
    inherited = Inherited(net, ["block.1"], every=3, until=0.85)
    forward = net.backbone.block[1].mlp.forward
    net.backbone.block[1].mlp.forward = lambda h, layout: ran.append(1) or forward(h, layout)
    found = drawn(inherited)
    del net.backbone.block[1].mlp.forward
    assert len(ran) == 4, "evaluations 0, 3, 6 and 9"
    assert 0 < (found - plain).abs().max()
    assert torch.equal(inherited(X, T, Y), net(X, T, Y)), "outside of a run nothing is reused"


def test_a_field_that_does_not_change_is_inherited_exactly():
    net = Network(made(DiT))
    run = Inherited(net, ["block.0", "block.2"], every=2).for_branch()
    first = run(X, T.clamp(max=0.5), Y)
    assert torch.allclose(run(X, T.clamp(max=0.5), Y), first, atol=1e-12) and run.reuses
    other = run(X[:2], T[:2].clamp(max=0.5), {"label": Y["label"][:2]})
    assert torch.allclose(other, first[:2], atol=1e-12), "another batch is computed in full"


def test_blocks_of_a_unet_that_change_shape_repeat_their_output():
    with Rng(2).ambient():
        net = alive(UNet((1, 8, 8), width=8, multipliers=(1, 2), conditions=LABEL))
    names = ["down.0", "down.1"]
    run = Inherited(net, names, every=2).for_branch()
    first = run(X, T.clamp(max=0.5), Y)
    assert torch.allclose(run(X, T.clamp(max=0.5), Y), first, atol=1e-12) and run.reuses
    assert torch.allclose(drawn(Inherited(net, names, every=1)), drawn(net))


def test_a_block_that_does_nothing_is_removed_first():
    net = made(DiT)
    with torch.no_grad():
        for p in net.block[1].tell.parameters():
            p.zero_()
    wanted = net(X, T, Y)
    order = removal_order(net, lambda field: float((field(X, T, Y) - wanted).square().mean()), 2)
    assert order[0] == ("block.1", 0.0) and order[1][1] > 0
    for make in (lambda: removal_order(net, lambda f: 0.0, 4), lambda: Inherited(net, every=0)):
        with pytest.raises(BeelineError, match=r"give a number"):
            make()
