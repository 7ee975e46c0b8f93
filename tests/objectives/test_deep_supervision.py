"""Deep supervision: losses on deterministic pairs, times and inputs of the branches."""

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Network
from beeline.networks.dit import DiT
from beeline.networks.mlp import MLP
from beeline.objectives.deep_supervision.network import Deep, EarlyExit, SampleExit, TimedExit
from beeline.objectives.deep_supervision.objective import DeepSupervision
from beeline.objectives.losses.basic import squared
from beeline.objectives.matching import FlowMatching
from beeline.paths.affine import Cosine
from tests.objectives.test_terms import INSIDE, ONE, Net, certain, one


class Zero(nn.Module):
    def forward(self, h):
        return torch.zeros_like(h)


def test_deep_supervision_on_certain_pairs_is_zero_without_acceleration():
    deep = Deep(Net(), ["block"], [nn.Identity()], [Zero()], [Zero()])
    objective = DeepSupervision(FlowMatching(times=INSIDE), gap=0.0)
    loss = objective(deep, one(30), Rng(0))
    assert float(loss.value) < 1e-20
    # the loss of an unneeded acceleration is ((1-t)^2/2 A)^2
    bent = Deep(Net(), ["block"], [nn.Identity()], [nn.Identity()], [Zero()])
    example = objective.objective.examples(one(30), Rng(0))
    known = ((1 - example.t)[:, None] ** 2 / 2 * certain(example.x, example.t)).square().mean()
    assert torch.allclose(objective(bent, one(30), Rng(0)).terms["acceleration 0"], known)
    # the refiner changes the output
    refined = Deep(Net(), ["block"], [nn.Identity()], [Zero()], [nn.Identity()])
    x, t = torch.zeros(3, 2, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64)
    assert torch.allclose(refined(x, t), 2 * certain(x, t))
    assert torch.allclose(refined.branches(x, t)[0][0], certain(x, t))
    assert not refined.network.block._forward_hooks
    with pytest.raises(BeelineError, match="has no heads"):
        objective(Net(), one(3), Rng(0))
    with pytest.raises(BeelineError, match="every named module"):
        Deep(Net(), ["block"], [], [], [])
    with pytest.raises(BeelineError, match="straight path"):
        DeepSupervision(FlowMatching(Cosine()))


def grown(backbone):
    """A network without zero layers, in float64."""
    with Rng(3).ambient():
        for weight in backbone.parameters():
            nn.init.normal_(weight, std=0.3)
    return Network(backbone).double()


BACKBONES = (MLP(2, width=16, depth=3), torch.Size([2])), (DiT((1, 5, 5), 2, 16, 3, 2), torch.Size([1, 5, 5]))


@pytest.mark.parametrize(("backbone", "shape"), BACKBONES, ids=["MLP", "DiT"])
def test_deep_branches_are_initialised_to_the_network_and_modulated_by_their_times(backbone, shape):
    net = grown(backbone)
    batch = Batch(Rng(0).normal(torch.empty(6, *shape, dtype=torch.float64)))
    deep = DeepSupervision().wrap(net.float(), Batch(batch.x1.float()), Rng(1)).double()
    assert deep.names == ("backbone.block.0", "backbone.block.1")
    x, t = batch.x1, Rng(2).uniform(6, batch.x1) * 0.8
    assert torch.equal(deep(x, t), net(x, t))  # the refiners are initialised to zero
    gaps = [torch.full_like(t, 0.03), torch.full_like(t, 0.05)]
    assert not torch.allclose(deep.branches(x, t, gaps=gaps)[2], net(x, t), atol=1e-6)
    told = [backbone.modulation(t + shift)[k] for k, shift in enumerate((0.0, 0.03, 0.08))]
    hooks = [
        b.register_forward_pre_hook(lambda _, g, k=k: (g[0], *told[k], *g[1 + len(told[k]) :]))
        for k, b in enumerate(backbone.block)
    ]
    by_hand = net(x, t)  # every block modulated by the time of its branch
    for hook in hooks:
        hook.remove()
    assert torch.allclose(deep.branches(x, t, gaps=gaps)[2], by_hand, atol=1e-12)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
    # h, the gap and the state are inputs of the next branch, and h of the acceleration
    refine = deep.refiners[0]
    with Rng(4).ambient():
        for weight in refine.parameters():
            nn.init.normal_(weight, std=0.3)
    h = Rng(5).normal(torch.empty(6, *((9, 16) if len(shape) == 3 else (16,)), dtype=torch.float64))
    base, moved = refine(h, x, gaps[0]), (refine(h + 0.1, x, gaps[0]), refine(h, x, gaps[1]), refine(h, 2 * x, gaps[0]))
    assert all(not torch.allclose(other[0], base[0], atol=1e-6) for other in moved)
    assert [torch.allclose(other[1], base[1], atol=1e-12) for other in moved] == [False, True, True]


def test_accelerations_are_compared_on_the_same_pair_at_the_time_of_their_branch():
    """x_{t_i} + (1 - t_i) v_i + (1 - t_i)^2 / 2 A_i is the datum where v_i is exact at x_{t_i} and A_i is zero."""
    net = grown(MLP(2, width=16, depth=3))
    deep = DeepSupervision().wrap(net.float(), Batch(ONE.float().repeat(4, 1)), Rng(1)).double()
    objective = DeepSupervision(FlowMatching(times=INSIDE), gap=0.1)
    loss = objective(deep, Batch(ONE.expand(8, 2)), Rng(0))
    example, sign = (
        objective.objective.examples(Batch(ONE.expand(8, 2)), Rng(0)),
        float(Rng(0).fork("sign").uniform(1, ONE)) < 0.5,
    )
    t = example.t
    steps = [(1 if sign else -1) * 0.1 * Rng(0).fork("gap", i).uniform(8, t) for i in range(2)]
    times = [t, (t + steps[0]).clamp(0, 1)]
    times.append((times[1] + steps[1]).clamp(0, 1))
    early, bends, v = deep.branches(example.x, t, None, [b - a for a, b in zip(times, times[1:], strict=False)])
    known = squared(v, example.v).mean()
    for at, velocity, bend in zip(times, early, bends, strict=False):
        left, x = (1 - at)[:, None], at[:, None] * ONE + (1 - at)[:, None] * example.batch.x0
        known = known + 0.2 * squared(velocity, example.v).mean()
        known = known + squared(x + left * velocity + left**2 / 2 * bend, ONE.expand(8, 2)).mean()
    assert torch.allclose(loss.value, known, atol=1e-9)
    with pytest.raises(BeelineError, match="at least two branches"):
        DeepSupervision(pieces=1)


@pytest.mark.parametrize(("backbone", "shape"), BACKBONES, ids=["MLP", "DiT"])
def test_an_early_exit_gives_the_intermediate_velocity_without_later_blocks(backbone, shape):
    net = grown(backbone)
    x, t = Rng(1).normal(torch.empty(6, *shape, dtype=torch.float64)), torch.linspace(0.1, 0.9, 6).double()
    deep = DeepSupervision().wrap(net, Batch(x), Rng(2)).double()
    with Rng(4).ambient():
        for weight in deep.parameters():
            nn.init.normal_(weight, std=0.3)
    known = deep.branches(x, t)[0]
    ran = []
    for k, block in enumerate(next(iter(net.stacks.values()))):
        block.register_forward_hook(lambda *_, k=k: ran.append(k))
    for i, last in enumerate((0, 1)):
        ran.clear()
        assert torch.equal(EarlyExit(deep, i)(x, t), known[i])
        assert max(ran, default=-1) <= last
    assert not torch.equal(known[0], known[1])
    plan = TimedExit(deep, [(0.5, 1), (0.0, 0), (0.8, -1)])
    at = torch.linspace(0.1, 0.9, len(x)).to(t)
    alone = [EarlyExit(deep, 0), EarlyExit(deep, 1), deep]
    for k in range(len(x)):
        which = alone[int(at[k] >= 0.5) + int(at[k] >= 0.8)]
        assert torch.allclose(plan(x, at)[k], which(x[k : k + 1], at[k : k + 1])[0], atol=1e-6)
    with pytest.raises(BeelineError, match="the first one 0"):
        TimedExit(deep, [(0.2, 0)])
    assert len(ran) and torch.isfinite(deep(x, t)).all() and ran[-1] == 2  # the whole network still runs
    with pytest.raises(BeelineError, match="named modules of a Deep"):
        EarlyExit(deep, 2)
    with pytest.raises(BeelineError, match="give a Deep network"):
        EarlyExit(net)


@pytest.mark.parametrize(("backbone", "shape"), BACKBONES, ids=["MLP", "DiT"])
def test_samples_exit_where_velocities_agree_and_do_not_depend_on_their_batch(backbone, shape):
    net = grown(backbone)
    x, t = Rng(1).normal(torch.empty(12, *shape, dtype=torch.float64)), torch.linspace(0.1, 0.9, 12).double()
    deep = DeepSupervision().wrap(net, Batch(x), Rng(2)).double()
    assert len(deep.velocities) == 1 and torch.equal(deep.branches(x, t)[0][0], torch.zeros_like(x))  # starts at zero
    with Rng(4).ambient():
        for weight in deep.parameters():
            nn.init.normal_(weight, std=0.3)
    (first, second), _, last = deep.branches(x, t)
    assert torch.allclose(SampleExit(deep, 0.0)(x, t), last, atol=1e-12)
    change = (second - first).detach().flatten(1).norm(dim=1) / second.flatten(1).norm(dim=1)
    middle = float(change.detach().median()) + 1e-9
    stops = (change < middle).reshape(-1, *(1,) * len(shape))
    ran = []
    hook = net.backbone.block[2].register_forward_hook(lambda m, i, out: ran.append(len(out)))
    exited = SampleExit(deep, middle)(x, t)
    assert torch.allclose(exited, torch.where(stops, second, last), atol=1e-12) and ran == [6]
    alone = torch.cat([SampleExit(deep, middle)(x[i : i + 1], t[i : i + 1]) for i in range(12)])
    assert torch.allclose(alone, exited, atol=1e-12)
    assert torch.allclose(SampleExit(deep, 1e9)(x, t), second) and ran[-1] == 1  # no block after the second branch
    hook.remove()
    # the velocity head is modulated by the time of its branch
    gaps = [torch.full_like(t, 0.05), torch.zeros_like(t)]
    h = Rng(5).normal(torch.empty(12, *((9, 16) if len(shape) == 3 else (16,)), dtype=torch.float64))
    assert not torch.allclose(deep.velocity(0, h, t), deep.velocity(0, h, t + 0.05), atol=1e-6)
    assert torch.allclose(deep.branches(x, t, gaps=gaps)[0][0], first, atol=1e-12)
    assert not torch.allclose(deep.branches(x, t, gaps=gaps)[0][1], second, atol=1e-6)
    with pytest.raises(BeelineError, match="around a Network"):
        SampleExit(net)
    with pytest.raises(BeelineError, match="not divided"):
        SampleExit(Deep(Network(nn.Identity()), [], [], [], []))(x, t)
