"""What plans do around visits: tokens that skip, coarse grids, merged tokens, tapes, dynamic widths."""

import math

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.dit import DiT, MMDiT
from beeline.networks.fp32 import layer_norm
from beeline.networks.transformer.layout import Layout, collected_notes
from beeline.networks.transformer.mixers import Attention
from beeline.networks.transformer.mixing.convolutions import RecConv
from beeline.networks.transformer.plans.depths import Depths, Routed, entropy_rank
from beeline.networks.transformer.plans.dynamic import Choosing, DynamicWidth, Used
from beeline.networks.transformer.plans.plan import Visiting
from beeline.networks.transformer.plans.reduction import Reduce, Reduced, shares, spread_out
from beeline.networks.transformer.plans.spectral import Coarse, SpectralShrink, along, shrinking
from beeline.networks.transformer.plans.tape import Tape, Taped
from beeline.networks.transformer.positions import NoPositions, Rotary
from tests.networks.transformer.test_slots import KINDS, T, X, Y, alive, made


class Linear(nn.Module):
    """A block that is a matrix on every token."""

    def __init__(self, matrix):
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, h, told, layout):
        return h + h @ self.matrix


def normal(seed, *shape):
    return Rng(seed).normal(torch.empty(*shape, dtype=torch.float64))


@pytest.mark.parametrize(
    "plan", [Depths(keep=1.0), SpectralShrink(keep=1.0), Reduce(share=0.0), Tape(most=0)], ids=repr
)
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_change_a_plan_is_the_plain_one(kind, plan):
    plain, net = made(kind), made(kind, plan=plan)
    net.load_state_dict({**net.state_dict(), **plain.state_dict()})
    assert torch.equal(net(X, T, Y), plain(X, T, Y))


def test_tokens_that_skip_are_unchanged_and_the_rest_is_a_block_on_them_alone():
    visit, h = Routed(Visiting(), (1,), 6, 0.4).double(), normal(0, 3, 10, 6)
    with torch.no_grad():
        visit.route.weight.copy_(normal(1, 2, 6))
    block, layout = Linear(normal(2, 6, 6)), Layout((5, 2))
    out = visit(1, block, h, None, layout)
    p = torch.softmax(visit.route(layer_norm(h)), -1)[..., 1]
    for b in range(3):
        chosen = p[b].topk(4).indices
        rest = [i for i in range(10) if i not in chosen.tolist()]
        assert torch.equal(out[b, rest], h[b, rest])
        assert torch.allclose(out[b, chosen], block(h[b, chosen], None, layout), atol=1e-12)
    assert torch.equal(visit(0, block, h, None, layout), block(h, None, layout)), "other visits are not changed"
    out.square().sum().backward()
    assert visit.route.weight.grad.abs().max() > 0, "the router learns from the loss"
    _, notes = visit(1, lambda h, told, layout: (h, {}), h, None, layout._replace(noting=True))
    wanted = torch.zeros_like(p).scatter(1, p.topk(4, 1).indices, 1.0)
    assert torch.isclose(notes["depth"], -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean())


@pytest.mark.parametrize("positions", [Rotary(), NoPositions()], ids=repr)
def test_attention_of_chosen_tokens_is_that_with_the_others_masked(positions):
    net = made(MMDiT, plan=Depths(keep=0.5, blocks=(1,)), positions=positions)
    with torch.no_grad():
        net.visit.route.weight.copy_(normal(3, 2, 16))
    seen = []
    hook = net.joint[1].register_forward_hook(lambda m, given, out: seen.append((given, out)))
    net(X, T, Y)
    hook.remove()
    (given, told, layout), out = seen[0]
    assert layout.grid == (8,) and given.shape[1] == 9, "the token of the label never skips"
    if positions == Rotary():
        assert layout.turn.shape[:2] == (3, 8)
        alone = net.joint[1](given[1:2], told[1:2], layout.of_rows(torch.tensor([1])))
        assert torch.allclose(alone, out[1:2], atol=1e-12)


def test_the_entropy_rank_orders_maps():
    ranks = [float(entropy_rank(torch.softmax(s * normal(0, 24, 24), -1))) for s in (0.1, 1.0, 4.0)]
    assert ranks == sorted(ranks) and 1 < ranks[0] < 5 < ranks[2] < 24


@pytest.mark.parametrize(("n", "m"), [(8, 4), (9, 5), (7, 3), (6, 6)])
def test_shrinking_and_its_inverse(n, m):
    down = shrinking(n, m)
    up = down.mT * (n / m)
    assert torch.allclose(down @ up, torch.eye(m, dtype=torch.float64), atol=1e-13)
    assert torch.allclose(up @ down @ up @ down, up @ down, atol=1e-13)
    ones = torch.ones(n, dtype=torch.float64)
    assert torch.allclose(down @ ones, ones[:m], atol=1e-13) and torch.allclose(up @ (down @ ones), ones, atol=1e-13)


def test_low_frequencies_pass_through_the_block_and_high_ones_by_it():
    visit, block, grid = Coarse(Visiting(), (0, 1), 0.5), Linear(normal(2, 6, 6)), (8, 6)
    low = along(normal(0, 2, 12, 6), (4, 3), [shrinking(8, 4).mT * 2, shrinking(6, 3).mT * 2])
    assert torch.allclose(visit(0, block, low, None, Layout(grid)), block(low, None, None), atol=1e-12)
    h = normal(1, 2, 48, 6)
    down = [shrinking(8, 4), shrinking(6, 3)]
    out = visit(0, block, h, None, Layout(grid))
    up = [m.mT * 2 for m in down]
    high = h - along(along(h, grid, down), (4, 3), up)
    assert torch.allclose(out - along(along(out, grid, down), (4, 3), up), high, atol=1e-12)
    again = visit(1, block, out, None, Layout(grid))  # two visits are one with both blocks inside
    z = along(h, grid, down)
    both = block(block(z, None, None), None, None)
    assert torch.allclose(again, h + along(both - z, (4, 3), up), atol=1e-12)
    layout = Layout(grid, Rotary().build(8, 1, grid).turn(grid, h))
    seen = []
    visit(0, lambda h, told, layout: seen.append(layout) or h, h, None, layout)
    assert seen[0].grid == (4, 3) and torch.equal(seen[0].turn[0], layout.turn[0])
    assert torch.equal(seen[0].turn.view(4, 3, 4, 2)[1, 1], layout.turn.view(8, 6, 4, 2)[2, 2])


def test_merged_duplicates_with_ln_of_their_number_are_the_full_attention():
    with Rng(0).ambient():
        mix = alive(Attention().build(8, 2, (12,)))
    few = normal(1, 2, 7, 8)
    twice = few.repeat_interleave(torch.tensor([1, 2, 3, 1, 1, 2, 2]), 1)
    sizes = torch.tensor([[1.0, 2, 3, 1, 1, 2, 2]], dtype=torch.float64).expand(2, -1)
    merged = mix(few, Layout((7,), sizes=sizes))
    assert torch.allclose(merged.repeat_interleave(sizes[0].long(), 1), mix(twice, Layout((12,))), atol=1e-14)
    text = normal(2, 2, 3, 8)
    whole = mix(torch.cat([twice, text], 1), Layout((12,)))
    assert torch.allclose(mix(torch.cat([few, text], 1), Layout((7,), sizes=sizes))[:, 7:], whole[:, 12:], atol=1e-14)


def test_what_is_left_out_goes_into_similar_tokens_and_comes_back():
    w = shares(normal(0, 2, 5, 8), normal(1, 2, 7, 8), 3)
    assert torch.allclose(w.sum(-1), torch.ones(2, 5, dtype=torch.float64)) and ((w > 0).sum(-1) == 3).all()
    visit, h = Reduced(Visiting(), (0,), 0.25, 1, 2), normal(2, 2, 16, 8)
    same = visit(0, lambda h, told, layout: h, h, None, Layout((4, 4)))
    assert torch.equal(same, h), "without a change every token is as before"
    moved = visit(0, lambda h, told, layout: h + 1.5, h, None, Layout((4, 4)))
    assert torch.allclose(moved, h + 1.5, atol=1e-14), "tokens that are left out move with their targets"
    score = spread_out(torch.arange(-7.5, 8.5, dtype=torch.float64).expand(1, -1)[..., None], (4, 4), 2)
    lowest = [0, 2, 8, 10]
    assert torch.equal(score[0, lowest], torch.tensor([-15.0, -11, 0.25, 1.25], dtype=torch.float64))
    assert torch.equal(score[0, 1], torch.tensor(-6.5, dtype=torch.float64))


def test_a_tape_is_the_loop_by_hand():
    with Rng(0).ambient():
        visit = alive(Taped(Visiting(), 0, 8, 20, 6, 2.0))
    q = 6 * normal(1, 5, 8)
    tape, on, ponder = visit.tape(q)
    keys, spread, lengths = layer_norm(visit.bank), [], []
    for b in range(5):
        query, left, halting, steps = q[b], list(range(20)), 0.0, 0
        while steps < 6 and halting < 2.0:
            best = sorted(left, key=lambda i: -float(query @ keys[i]))[:3]
            w = torch.softmax(torch.stack([query @ keys[i] for i in best]) / math.sqrt(8), -1)
            assert torch.allclose(tape[b, steps], sum(a * visit.bank[i] for a, i in zip(w, best, strict=True)))
            query = (query + sum(a * keys[i] for a, i in zip(w, best, strict=True))) / 2
            left = [i for i in left if i not in best]
            halting, steps = halting + float(w[0]), steps + 1
            spread.append(1 - w.square().sum())
        lengths.append(steps)
    assert on.sum(1).tolist() == lengths and len(set(lengths)) > 1
    assert torch.isclose(ponder, torch.stack(spread).mean())
    h, layout = normal(2, 5, 9, 8), Layout((3, 3))
    whole = visit(0, Linear(normal(3, 8, 8)), h, None, layout)
    alone = visit(0, Linear(normal(3, 8, 8)), h[2:3], None, layout)
    assert torch.allclose(whole[2:3], alone, atol=1e-12), "the tape of a sample does not depend on others"


def test_gates_by_time_are_the_network_cut_to_them():
    plain, net = made(DiT), made(DiT, plan=DynamicWidth(groups=2))
    visit = net.visit
    with torch.no_grad():
        for part in (*visit.groups, *visit.tokens):
            part.weight.zero_()
            part.bias.fill_(9.0)
    net.load_state_dict({**net.state_dict(), **plain.state_dict()})
    assert torch.allclose(net(X, T, Y), plain(X, T, Y), atol=1e-12), "everything is used at first"
    with torch.no_grad():
        visit.groups[1].bias.copy_(torch.tensor([-1.0, 1.0]))  # no second head, all hidden channels
        visit.tokens[2].weight.copy_(normal(0, 1, 16))
        visit.tokens[2].bias.zero_()
        plain.block[1].mix.out.weight[:, 8:] = 0
    fed = []
    hook = net.block[2].mlp.register_forward_hook(lambda m, given, out: fed.append(out[0]))
    found = net(X, T, Y)
    hook.remove()
    off = (fed[0] == 0).all(-1)
    assert 0 < off.sum() < off.numel()
    hook = plain.block[2].mlp.register_forward_hook(lambda m, given, out: (out[0] * ~off[..., None], out[1]))
    assert torch.allclose(plain(X, T, Y), found, atol=1e-12)
    hook.remove()
    net.train()
    with Rng(0).ambient(), collected_notes() as seen:
        net(X, T, Y)
    used, budget = (seen[0][f"block.1.{name}"] for name in ("used", "budget"))
    assert used < 1 and torch.isclose(budget, (used - 0.5).square(), atol=1e-6)
    budget.backward()
    assert visit.groups[1].bias.grad.abs().max() > 0
    gates = Used(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0]]))
    assert gates.heads(torch.ones(1, 3, 2, 1))[0, :, 0, 0].tolist() == [1, 1, 0]
    assert gates.hidden(torch.ones(1, 2, 6))[0, 0].tolist() == [1, 1, 0, 0, 1, 1]
    assert isinstance(visit, Choosing)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made(DiT, plan=Depths(), mixer=RecConv()), "no grid"),
        (lambda: made(DiT, plan=Depths(blocks=(3,))), "numbered from 0"),
    ],
)
def test_plans_that_do_not_fit_are_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()
