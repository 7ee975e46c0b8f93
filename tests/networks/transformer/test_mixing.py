"""Mixers in groups, by convolutions and by scans, against explicit forms."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.dit import DiT
from beeline.networks.transformer.layout import Layout
from beeline.networks.transformer.mixers import Attention
from beeline.networks.transformer.mixing.convolutions import Deformable, PointConv, RecConv
from beeline.networks.transformer.mixing.scan import recurrence
from beeline.networks.transformer.mixing.scans import RWKV, BiRWKV, RationalSSM, Selective, orders
from beeline.networks.transformer.mixing.windows import (
    Causal,
    ChunkCausal,
    Multipole,
    SlicedAttention,
    WindowsWithLatents,
)
from beeline.networks.transformer.positions import NoPositions
from tests.networks.transformer.test_slots import alive
from tests.second_device import DEVICE, second_device

MIXERS = [config.parse(f"mixers.{name}") for name in CATALOGUE["mixers"]]


def normal(*shape, key=0):
    return Rng(key).normal(torch.empty(*shape, dtype=torch.float64))


def qkv(n, heads=2, channels=4):
    return [normal(2, heads, n, channels, key=i) for i in range(3)]


def core(mixer, grid, heads=2, width=8, live=True):
    """The core of a mixer, with weights that are not zero where ``live``."""
    with Rng(0).ambient():
        made = mixer.made(width, heads, grid)
    if isinstance(made, torch.nn.Module):
        made = alive(made) if live else made.double()
    return made


def module(mixer, grid, width=8, heads=2, live=True):
    with Rng(0).ambient():
        made = mixer.build(width, heads, grid)
    return alive(made) if live else made.double().eval()


def depends(fn, x: Tensor) -> Tensor:
    """Whether output token i depends on input token j, [N,N], for fn of tokens [1,N,D]."""
    slope = torch.autograd.functional.jacobian(fn, x)[0, :, :, 0]  # [N,D,N,D]
    return slope.abs().amax((1, 3)) > 1e-12


def whole(mixer, grid, n, heads=2, live=True):
    """Which token sees which through a core, with queries, keys and values that are the token."""
    made = core(mixer, grid, heads, live=live)

    def fn(u):
        y = u.unflatten(-1, (heads, -1)).transpose(1, 2)
        return made(y, y, y, Layout(grid)).transpose(1, 2).flatten(2)

    return depends(fn, normal(1, n, 8))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 21])
def test_a_scan_is_the_loop_over_its_parts(n):
    decay, x = normal(2, n, 3).sigmoid(), normal(2, n, 3, key=1)
    found, state = recurrence(decay, x), torch.zeros(2, 3, dtype=x.dtype)
    for i in range(n):
        state = decay[:, i] * state + x[:, i]
        assert torch.allclose(found[:, i], state, atol=1e-14)


@pytest.mark.parametrize(
    "mixer",
    [
        SlicedAttention(1),
        Multipole(7),
        Multipole(2, levels=1),
        WindowsWithLatents(7),
        ChunkCausal(),
        Causal(),
        SlicedAttention(5),
    ],
    ids=repr,
)
def test_attentions_in_groups_are_those_with_a_mask(mixer):
    """Parts that start at zero are zero here; tokens after those of the datum are seen by all, with padding."""
    grid, n = (5, 7), 35
    q, k, v = qkv(n + 3)
    keep = torch.ones(2, n + 3, dtype=torch.bool)
    keep[1, -2:] = False
    found = core(mixer, grid, live=False)(q, k, v, Layout(grid, keep=keep))
    rows, columns = (i.flatten() for i in torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij"))
    index = torch.arange(n)
    same = torch.ones(2, n, n, dtype=torch.bool)  # of each head
    rest = torch.ones(3, n + 3, dtype=torch.bool)
    if mixer == Multipole(2, levels=1):
        same[:] = (rows[:, None] // 2 == rows // 2) & (columns[:, None] // 2 == columns // 2)
    elif mixer == ChunkCausal():
        same[:] = rows[:, None] == rows
        rest[:, :n] = False
    elif mixer == Causal():
        same[:] = index[:, None] >= index
        rest[:, :n] = False
    elif mixer == SlicedAttention(5):
        same[0], same[1] = index[:, None] // 7 == index // 7, index[:, None] % 5 == index % 5
    mask = torch.cat([torch.cat([same, torch.ones(2, n, 3, dtype=torch.bool)], 2), rest.expand(2, -1, -1)], 1)
    wanted = F.scaled_dot_product_attention(q, k, v, mask[None] & keep[:, None, None])
    if mixer == ChunkCausal():  # the gate is zero: sigmoid 1/2 of every frame between
        for s in range(5):
            for earlier in range(s):
                some = rows == earlier
                gamma = 0.5 ** ((s - 1 - earlier) / 16)
                state = k[:, :, :n][:, :, some].mT @ v[:, :, :n][:, :, some] / (7 * 2)
                wanted[:, :, :n][:, :, rows == s] += gamma * q[:, :, :n][:, :, rows == s] @ state
    assert torch.allclose(found, wanted, atol=1e-12)


def test_two_blocks_of_slices_join_all_tokens_where_there_are_enough():
    for n, groups, full in ((16, 4, True), (64, 8, True), (16, 8, False)):
        seen = whole(SlicedAttention(groups), (n,), n).double()
        assert bool((seen @ seen > 0).all()) == full


def test_windows_of_a_pyramid_see_all_tokens_where_the_coarsest_level_is_one_window():
    for levels, full in ((1, False), (2, False), (3, True), (9, True)):
        assert bool(whole(Multipole(2, levels), (3, 5), 15).all()) == full
    assert torch.equal(whole(Multipole(2, 3), (3, 5), 15, live=False), whole(Multipole(2, 1), (3, 5), 15))


def test_frames_see_no_later_ones():
    seen = whole(ChunkCausal(), (4, 3, 2), 24).unflatten(0, (4, 6)).unflatten(2, (4, 6)).any(3).any(1)
    assert torch.equal(seen, torch.ones(4, 4, dtype=torch.bool).tril())


def test_windows_hear_of_each_other_by_their_latents_alone():
    seen = whole(WindowsWithLatents(2), (4, 5), 20, live=False)
    assert torch.equal(seen, whole(Multipole(2, 1), (4, 5), 20))
    assert whole(WindowsWithLatents(2), (4, 5), 20).all()


def test_a_recursive_convolution_starts_as_a_small_one_and_has_the_count_of_its_formula():
    x = normal(2, 8, 11, 9)
    net = module(RecConv(), (11, 9), live=False)
    tokens = x.flatten(2).mT
    wanted = F.conv2d(x, net.fine, padding=2, groups=8).flatten(2).mT
    assert torch.allclose(net(tokens, Layout((11, 9))), wanted, atol=1e-12)
    for side, levels, count in ((3, 1, 27), (3, 2, 36), (5, 2, 100), (5, 3, 125)):
        made = RecConv(side, levels).build(8, 2, (16, 16))
        assert sum(p.numel() for p in made.parameters()) == 8 * count
    for levels in (1, 2):
        net = module(RecConv(3, levels), (64,), live=False)
        with torch.no_grad():
            for p in net.parameters():
                p.fill_(1.0)
        reads = net(torch.eye(64, dtype=torch.float64)[..., None].expand(-1, -1, 8), Layout((64,)))[:, :, 0].mT
        for i in (30, 31, 32, 33):
            assert set(reads[i].nonzero().flatten().tolist()) == support({i}, levels)


def support(wanted, levels):
    """The patches that kernels of 3 read, level by level."""
    wanted = {i + tap for i in wanted for tap in (-1, 0, 1)}
    if not levels:
        return wanted
    between = {(i - 1) // 2 + end for i in wanted for end in (0, 1)}  # linear interpolation of twice the length
    return wanted | {2 * i + tap for i in support(between, levels - 1) for tap in (-1, 0, 1)}


def test_points_on_the_nodes_are_any_kernel_and_finer_grids_sample_it_between():
    net = module(PointConv(5, 25), (6, 6), live=False)
    kernel = normal(8, 5, 5)
    with torch.no_grad():
        axis = torch.linspace(-1, 1, 5).double()
        net.at.copy_(torch.cartesian_prod(axis, axis))
        net.radius.copy_(torch.full_like(net.radius, 0.5 - 1e-4).logit())
        net.weight.copy_(kernel.flatten(1))
    assert torch.allclose(net.kernel((2, 2)), kernel, atol=1e-10)
    x = normal(2, 8, 6, 6)
    wanted = F.conv2d(x, kernel[:, None], padding=2, groups=8).flatten(2).mT
    assert torch.allclose(net(x.flatten(2).mT, Layout((6, 6))), wanted, atol=1e-10)
    fine = net.kernel((4, 4))
    assert torch.allclose(fine[:, ::2, ::2] * 81 / 25, kernel, atol=1e-10)


def test_a_deformable_sum_with_whole_places_is_a_convolution():
    net = module(Deformable(), (6, 7), heads=1, live=False)
    kernel, x = normal(8, 3, 3)[:1], normal(2, 8, 6, 7)
    with torch.no_grad():
        net.tell.bias[:9] = kernel.flatten()
        net.tell.bias[-1] = 40.0  # sigmoid 1
        for layer in (net.value, net.out):
            layer.weight.copy_(torch.eye(8))
            layer.bias.zero_()
    net.reach = 2.0
    wanted = F.conv2d(x, kernel[:, None].expand(8, -1, -1, -1), padding=2, dilation=2, groups=8).flatten(2).mT
    assert torch.allclose(net(x.flatten(2).mT, Layout((6, 7))), wanted, atol=1e-12)
    net = module(Deformable(1.5), (12, 12), heads=2)
    u = normal(1, 8, 12, 12)
    moved = net(u.roll((1, 2), (2, 3)).flatten(2).mT, Layout((12, 12))).unflatten(1, (12, 12))
    still = net(u.flatten(2).mT, Layout((12, 12))).unflatten(1, (12, 12)).roll((1, 2), (1, 2))
    assert torch.allclose(moved[:, 5:8, 6:8], still[:, 5:8, 6:8], atol=1e-12), "no positions"


def test_a_deformable_sum_of_a_finer_grid_is_that_of_the_coarse_one():
    net = module(Deformable(2.0), (16, 16), heads=2)
    with torch.no_grad():
        net.tell.weight.mul_(0.1)

    def wave(side):
        at = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 3.0
        return torch.stack(
            [(at[:, None] * a + at * b).cos() for a, b in itertools.product((0.3, 0.6), (0.2, 0.5, 0.8, 1.1))]
        )

    found, finer = (net(wave(n).flatten(1).mT[None], Layout((n, n))).unflatten(1, (n, n)) for n in (16, 32))
    means = F.avg_pool2d(finer.movedim(-1, 1), 2).movedim(1, -1)
    inside = slice(5, 11)
    assert (means - found)[:, inside, inside].abs().max() < 0.02 * found[:, inside, inside].abs().max()


def weighted(k, v, rate, bonus, n=1, both=False):
    """The formula of RWKV as sums over pairs."""
    out = torch.empty_like(v)
    for i in range(k.shape[1]):
        top = torch.exp(bonus / n + k[:, i]) * v[:, i]
        below = torch.exp(bonus / n + k[:, i])
        for j in range(k.shape[1]) if both else range(i):
            if j != i:
                share = torch.exp(k[:, j] - (abs(i - j) - 1) * rate / n)
                top, below = top + share * v[:, j], below + share
        out[:, i] = top / below
    return out


def test_rwkv_is_its_sum_over_pairs_without_overflow():
    k, v = normal(2, 9, 8), normal(2, 9, 8, key=1)
    net = module(RWKV(), (9,))
    assert torch.allclose(net.mixed(k, v), weighted(k, v, net.decay.exp(), net.bonus), atol=1e-12)
    both = module(BiRWKV(), (9,))
    assert torch.allclose(both.mixed(k, v), weighted(k, v, both.decay, both.bonus, 9, True), atol=1e-12)
    assert torch.allclose(both.mixed(k.flip(1), v.flip(1)).flip(1), both.mixed(k, v), atol=1e-12)
    for one in (net, both):
        assert torch.allclose(one.mixed(k, torch.ones_like(v)), torch.ones_like(v), atol=1e-12)
        huge = one.float().mixed(300 * k.float(), v.float())
        assert huge.isfinite().all()
        one.double()
    with torch.no_grad():
        both.decay.zero_()
        both.bonus.zero_()
    mean = (torch.softmax(k, 1) * v).sum(1, keepdim=True).expand_as(v)
    assert torch.allclose(both.mixed(k, v), mean, atol=1e-12)
    u = normal(1, 9, 8)
    assert torch.equal(depends(lambda u: net(u, Layout((9,))), u), torch.ones(9, 9, dtype=torch.bool).tril())


def test_neighbours_on_a_grid_are_those_of_the_four_sides():
    x = normal(1, 8, 3, 4)
    moved = module(BiRWKV(), (3, 4)).moved(x)
    assert torch.equal(moved[:, 0:2, 1:], x[:, 0:2, :-1]) and not moved[:, 0:2, 0].any()
    assert torch.equal(moved[:, 2:4, :-1], x[:, 2:4, 1:])
    assert torch.equal(moved[:, 4:6, :, 1:], x[:, 4:6, :, :-1])
    assert torch.equal(moved[:, 6:8, :, :-1], x[:, 6:8, :, 1:])


def test_a_selective_state_space_is_its_loop_in_every_order():
    grid, net = (3, 4), module(Selective(state=5, expand=1), (3, 4))
    u, step, b, c = normal(2, 12, 8), normal(2, 12, 8, key=1).exp(), normal(2, 12, 5, key=2), normal(2, 12, 5, key=3)
    ways = orders(grid, torch.device("cpu"))
    assert ways[:5, 2].tolist() == [0, 4, 8, 1, 5] and ways[:2, 1].tolist() == [11, 10]
    found, rates = net.states(u, step, b, c, ways), -net.rates.exp()
    for way in range(4):
        own = slice(2 * way, 2 * way + 2)
        s = torch.zeros(2, 2, 5, dtype=u.dtype)
        for i in ways[:, way]:
            decay = torch.exp(step[:, i, own, None] * rates[own])
            s = decay * s + (step * u)[:, i, own, None] * b[:, i, None]
            assert torch.allclose(found[:, i, own], (s * c[:, i, None]).sum(-1), atol=1e-12)


def test_a_rational_filter_is_its_recurrence_at_every_length():
    net = module(RationalSSM(3), (16,))
    a, b = net.a / (net.a.abs().sum(-1, keepdim=True) + net.slack.abs() + 1e-6), net.b
    for length in (1, 2, 5, 16, 40):
        impulse = torch.zeros(length, dtype=torch.float64)
        impulse[0] = 1.0
        w = torch.zeros(2, 8, length + 3, dtype=torch.float64)
        y = torch.zeros(2, 8, length, dtype=torch.float64)
        for t in range(length):  # w_t is at t + 3
            past = w[..., t : t + 3].flip(-1)
            w[..., t + 3] = impulse[t] - (a * past).sum(-1)
            y[..., t] = net.first * impulse[t] + (b * past).sum(-1)
        assert torch.allclose(net.kernels(length, torch.device("cpu")), y, atol=1e-12)
    new = module(RationalSSM(), (16,), live=False)
    wanted = torch.zeros(2, 8, 16, dtype=torch.float64)
    wanted[..., 0] = new.first
    assert torch.allclose(new.kernels(16, torch.device("cpu")), wanted, atol=1e-14)


@pytest.mark.parametrize("mixer", MIXERS, ids=repr)
def test_mixers_of_every_size_and_precision(mixer):
    for shape in ((2, 11), (1, 6, 9), (1, 3, 4, 6)):
        if mixer == ChunkCausal() and len(shape) == 2:
            continue
        with Rng(0).ambient():
            net = DiT(shape, 2, 24, 1, 2, any_size=True, mixer=mixer, positions=NoPositions())
        net = alive(net).float()
        for more in (0, 3):
            x = Rng(1).normal(torch.empty(2, shape[0], *(n + more for n in shape[1:])))
            found = net(x, torch.tensor([0.2, 0.7]))
            assert found.shape == x.shape and found.isfinite().all()
        rough = net.bfloat16()(x.bfloat16(), torch.tensor([0.2, 0.7]))
        assert rough.dtype == torch.bfloat16 and (rough - found).abs().max() < 0.1 * found.abs().max()
    with second_device():
        moved = net.float().to(DEVICE)(x.to(DEVICE), torch.tensor([0.2, 0.7], device=DEVICE))
        assert moved.device == DEVICE


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiT((1, 8), width=24, heads=2, mixer=ChunkCausal()), "1 axis"),
        (lambda: RecConv(4), "set 3 or 5"),
        (lambda: PointConv(6), "set 5 or 7"),
        (lambda: Deformable().build(10, 4, (4,)), "multiple of heads"),
        (lambda: RecConv().build(8, 2, (4,))(torch.zeros(1, 5, 8), Layout((4,))), "no place for others"),
        (lambda: RecConv().build(8, 2, (2, 2))(torch.zeros(1, 4, 8), Layout((4,))), "no grid"),
        (lambda: Multipole().build(8, 2, (2, 2))(torch.zeros(1, 4, 8), Layout((4,))), "no grid"),
        (
            lambda: SlicedAttention().build(8, 2, (4,))(
                torch.zeros(1, 4, 8), Layout((4,), segments=torch.zeros(1, 4, dtype=torch.long))
            ),
            "several data",
        ),
        (lambda: RWKV().joint(8, 2, (4,), ("x", "text")), "LinearAttention"),
    ],
)
def test_what_a_mixer_cannot_do_is_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_one_group_is_attention_of_the_same_network():
    x, t = Rng(0).normal(torch.empty(2, 1, 8, 8)), torch.tensor([0.3, 0.6])
    with Rng(2).ambient():
        plain = alive(DiT((1, 8, 8), width=16, depth=2, heads=2, mixer=Attention())).float()
    for mixer in (SlicedAttention(1), Multipole(4)):
        other = DiT((1, 8, 8), width=16, depth=2, heads=2, mixer=mixer)
        other.load_state_dict(plain.state_dict())
        assert torch.allclose(other(x, t), plain(x, t), atol=1e-6)
