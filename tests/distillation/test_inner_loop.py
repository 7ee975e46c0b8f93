"""Inner loop feedback: the frozen network, the alternation of evaluations, and training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.distillation.inner_loop import InnerLoop, InnerLoopFeedback, InnerLoopMatching
from beeline.solvers.runge_kutta import EULER
from tests.objectives.exact import MIXTURE


def network(kind="MLP", depth=4):
    with bl.Rng(0).ambient():
        if kind == "MLP":
            net = bl.networks.MLP(2, width=16, depth=depth)
        else:
            net = bl.networks.DiT((1, 4, 4), width=16, depth=depth, heads=2, any_size=True)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return bl.Network(net).eval()


@pytest.mark.parametrize("kind, shape", [("MLP", (2,)), ("DiT", (1, 4, 4)), ("DiT", (1, 8, 8))])
def test_full_evaluations_are_those_of_the_network(kind, shape):
    net = network(kind)
    loop, x, t = InnerLoop(net, 3), torch.randn(5, *shape), torch.rand(5)
    assert torch.equal(loop(x, t), net(x, t))
    flow, never = bl.Flow(net), replace(bl.Flow(loop), field=InnerLoop(net, 3, until=0.0))
    assert torch.equal(bl.Sampler(4, solver=EULER)(never, x), bl.Sampler(4, solver=EULER)(flow, x))


def test_at_a_gate_of_zero_features_are_reused_with_the_modulation_of_the_new_time():
    net = network("DiT")
    loop, x, y = InnerLoop(net, 3), *torch.randn(2, 5, 1, 4, 4).unbind()
    t, s = torch.full((5,), 0.2), torch.full((5,), 0.3)
    run = loop.for_branch()
    assert torch.equal(run(x, t), net(x, t))
    h, told, _ = net.backbone.stages(x, t)
    for block, modulation in zip(net.backbone.block[:3], told, strict=False):
        h = block(h, *modulation)
    _, told, out = net.backbone.stages(y, s)
    wanted = out(net.backbone.block[3](h, *told[3]), *told[4])
    assert torch.allclose(run(y, s), wanted, atol=1e-6)
    assert torch.equal(run(x, t), net(x, t)), "full and inner evaluations alternate"
    assert torch.equal(run(x, torch.full((5,), 0.95)), net(x, torch.full((5,), 0.95))), "late ones are in full"


def test_the_calls_of_blocks_fall():
    net, calls = network("MLP"), []
    net.backbone.block[0].register_forward_hook(lambda *_: calls.append(1))
    loop = InnerLoop(net, 3)
    bl.Sampler(20, solver=EULER)(bl.Flow(loop), torch.randn(3, 2))
    assert len(calls) == 11, "ten of twenty, and the last one"


@pytest.mark.slow
def test_training_halves_the_error_of_reuse_and_leaves_the_network(tmp_path):
    with bl.Rng(1).ambient():
        net = bl.Network(bl.networks.MLP(2, width=32, depth=4))
    quiet = dict(rng=bl.Rng(2), log=lambda entry: None)
    data = MIXTURE.batch(1000, bl.Rng(1), dtype=torch.float32)
    data = replace(data, cond=None)
    net = bl.fit(net, bl.objectives.FlowMatching(), data, bl.Training(steps=200, batch_size=128, ema=None), **quiet)
    teacher, method = bl.Flow(net), InnerLoopFeedback(after=3, steps=10)
    before = [w.clone() for w in net.parameters()]
    start, objective = method.networks(teacher)["student"], method.objective(teacher)
    made = bl.fit(start, objective, data, bl.Training(steps=300, batch_size=128, ema=None), **quiet)
    reused, learned = (
        float(objective(one, data, bl.Rng(5)).terms["error"]) for one in (method.networks(teacher)["student"], made)
    )
    assert learned < 0.5 * reused
    assert all(torch.equal(a, b) for a, b in zip(before, made.field.parameters(), strict=True))
    flow, sampler = method.student(teacher, {"student": made})
    x0 = torch.randn(200, 2)
    exact, plain = (bl.Sampler(n, solver=EULER)(teacher, x0) for n in (10, 5))
    assert (sampler(flow, x0) - exact).square().mean() < (plain - exact).square().mean()
    bl.Bundle(flow, sampler, lineage={"shape": [2]}).save(tmp_path / "student")
    again = bl.load(tmp_path / "student")
    assert torch.allclose(again.sampler(again.flow, x0), sampler(flow, x0), atol=1e-5)


def test_networks_without_blocks_are_refused():
    with pytest.raises(BeelineError, match="from 1 to 3"):
        InnerLoop(network(), 4)
    with pytest.raises(BeelineError, match="one sequence of repeated blocks"):
        InnerLoop(torch.nn.Linear(2, 2), 1)
    assert not InnerLoopMatching(20).spec.baselines


def test_another_network_is_refused():
    net = bl.networks.Network(bl.networks.MLP(2))
    with pytest.raises(BeelineError, match="InnerLoopMatching got a Network"):
        InnerLoopMatching(4)(net, bl.Batch(torch.zeros(3, 2)), bl.Rng(0))
