"""Data of several sizes in one row, patches of two sizes, rotary positions of larger grids."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.dit import DiT, MMDiT
from beeline.networks.hub.sizes.rotary import NTKAware, PositionInterpolation, YaRN
from beeline.networks.transformer.counts.flexi import FlexiPatches, patch_means
from beeline.networks.transformer.counts.packed import fill, in_rows, packed, packed_loss
from beeline.networks.transformer.feeds import SwiGLU
from beeline.networks.transformer.mixers import LinearAttention
from beeline.networks.transformer.plans.plan import Shared
from beeline.networks.transformer.positions import Rotary, SinCos, rotation
from tests.networks.transformer.test_slots import T, X, Y, alive, made

SIDES = [(8, 8), (4, 6), (10, 4), (3, 5), (8, 2)]
DATA = [Rng(i).normal(torch.empty(1, *side, dtype=torch.float64)) for i, side in enumerate(SIDES)]
TIMES = torch.tensor([0.1, 0.9, 0.4, 0.6, 0.3], dtype=torch.float64)
LABELS = torch.tensor([0, 3, 10, 5, 2])


@pytest.mark.parametrize(
    "slots", [{}, {"positions": Rotary(), "feed": SwiGLU()}, {"plan": Shared(2)}], ids=["plain", "rotary", "shared"]
)
@pytest.mark.parametrize("context", [16, 24, 100])
def test_a_packed_datum_is_the_datum_alone(slots, context):
    net = made(DiT, any_size=True, **slots)
    found = packed(net, DATA, TIMES, {"label": LABELS}, context=context)
    for i, x in enumerate(DATA):
        alone = net(x[None], TIMES[i : i + 1], {"label": LABELS[i : i + 1]})[0]
        assert found[i].shape == x.shape and (found[i] - alone).abs().max() <= 1e-12
    order = [3, 1, 4, 0, 2]
    other = packed(net, [DATA[i] for i in order], TIMES[order], {"label": LABELS[order]}, context=context)
    assert all((other[k] - found[i]).abs().max() <= 1e-12 for k, i in enumerate(order))


def test_every_datum_counts_as_much_and_gradients_are_those_without_packing():
    net, x0 = made(DiT, any_size=True), [x.cos() for x in DATA]
    loss = packed_loss(net, x0, DATA, TIMES, {"label": LABELS}, context=20)
    loss.value.backward()
    grads = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    errors = []
    for i, (a, b) in enumerate(zip(x0, DATA, strict=True)):
        x = a + TIMES[i] * (b - a)
        v = net(x[None], TIMES[i : i + 1], {"label": LABELS[i : i + 1]})[0]
        errors.append((v - (b - a)).square().mean())
    torch.stack(errors).mean().backward()
    assert torch.isclose(loss.value, torch.stack(errors).mean())
    assert all(torch.allclose(g, p.grad, atol=1e-12) for g, p in zip(grads, net.parameters(), strict=True))
    assert in_rows([16, 6, 10, 6, 4], 20) == [[0, 4], [2, 1], [3]]
    assert float(loss.terms["fill"]) == pytest.approx(fill([16, 6, 10, 6, 4], 20)) == 42 / 60


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: packed(made(DiT, any_size=True, mixer=LinearAttention()), DATA, TIMES, {"label": LABELS}),
            "would mix",
        ),
        (lambda: packed(made(MMDiT, any_size=True), DATA, TIMES, {"label": LABELS}), "would mix"),
        (lambda: packed(made(DiT), DATA, TIMES, {"label": LABELS}), "any_size"),
        (lambda: packed(made(DiT, any_size=True), DATA, TIMES, {"label": LABELS}, context=9), "has 20 tokens"),
        (lambda: FlexiPatches(made(DiT), 3), "is a multiple"),
    ],
)
def test_what_cannot_be_packed_or_cut_is_refused(make, message):
    with pytest.raises(BeelineError, match=message.replace("20", r"\d+")):
        make()


@pytest.mark.parametrize("positions", [SinCos(), Rotary()], ids=repr)
def test_large_patches_start_as_the_network_for_shrunken_data(positions):
    with Rng(0).ambient():
        net = alive(DiT((2, 8, 12), 2, 24, 2, 2, positions=positions, any_size=True))
        flexi = FlexiPatches(net, 4, until=0.5).double()
    x = Rng(1).normal(torch.empty(2, 2, 8, 12, dtype=torch.float64))
    few = torch.nn.functional.avg_pool2d(x, 2)
    up = few.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(flexi.tokens(up)[0] - flexi.tokens(0 * up)[0], net.tokens(few)[0] - net.tokens(0 * few)[0])
    early, late = torch.full((2,), 0.2, dtype=x.dtype), torch.full((2,), 0.7, dtype=x.dtype)
    assert torch.equal(flexi(x, late), net(x, late)), "its own patches are as before"
    if positions == Rotary():
        small = net(few, early)
        # angles of centres are twice as far apart, so that the blocks see another distance
        assert flexi(x, early).shape == x.shape
        assert torch.equal(flexi.tokens(x)[2], net.tokens(x)[2].view(4, 6, 6, 2)[::2, ::2].flatten(0, 1))
        assert small.shape == few.shape
    both = torch.tensor([0.2, 0.7], dtype=torch.float64)
    mixed = flexi(x, both)
    assert torch.allclose(mixed[0], flexi(x, early)[0]) and torch.allclose(mixed[1], net(x, late)[1])
    again = FlexiPatches(**flexi.describe()).double()
    again.load_state_dict(flexi.state_dict())
    assert torch.equal(again(x, both), mixed)
    seen = []
    hook = net.block[0].register_forward_hook(lambda m, given, out: seen.append(out.shape[1]))
    flexi(x, early)
    hook.remove()
    assert seen == [6], "a quarter of the tokens"
    matrix = patch_means(2, 2, 2, 2)
    patch = torch.arange(32.0).view(2, 4, 4)
    assert torch.equal(matrix @ patch.flatten(), torch.nn.functional.avg_pool2d(patch, 2).flatten())


def test_scaled_rotary_positions_of_longer_axes():
    usual = rotation((4, 4), 16, 100.0)
    for scaling in (NTKAware(2.0), YaRN(2.0, trained=4), PositionInterpolation(2.0)):
        place = Rotary(100.0, scaling=scaling).build(32, 2, (4, 4))
        assert torch.equal(place.turn((4, 4), usual), usual), "the trained size is as it was"
        wide = place.turn((4, 8), usual).view(4, 8, 8, 2)
        plain = rotation((4, 8), 16, 100.0).view(4, 8, 8, 2)
        assert torch.allclose(wide[:, :, :4] / scaling.scale, plain[:, :, :4], atol=1e-6), "each axis by itself"
        assert not torch.allclose(wide[:, :, 4:], plain[:, :, 4:], atol=1e-2)
    halved = Rotary(100.0, scaling=PositionInterpolation(2.0)).build(32, 2, (4, 4)).turn((8, 8), usual)
    assert torch.allclose(halved.view(8, 8, 8, 2)[::2, ::2].flatten(0, 1), usual, atol=1e-6)
    net, scaled = (made(DiT, any_size=True, positions=Rotary(scaling=s)) for s in (None, NTKAware(2.0)))
    scaled.load_state_dict(net.state_dict())
    assert torch.equal(net(X, T, Y), scaled(X, T, Y))
    big = X.repeat(1, 1, 2, 2)
    assert (net(big, T, Y) - scaled(big, T, Y)).abs().max() > 1e-4
