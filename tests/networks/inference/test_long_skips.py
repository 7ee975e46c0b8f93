"""Long skips that are changed in sampling, against the formulas."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Network
from beeline.networks.dit import UViT
from beeline.networks.inference.long_skips import FreeU, SkipTuned, fewer_low
from beeline.networks.unet import UNet
from tests.networks.transformer.test_slots import LABEL, DiT, T, X, Y, alive, made


def unet():
    with Rng(2).ambient():
        return alive(UNet((1, 8, 8), width=8, multipliers=(1, 2, 2), blocks=2, conditions=LABEL))


@pytest.mark.parametrize("make", [unet, lambda: made(UViT)], ids=["UNet", "UViT"])
def test_without_a_change_it_is_the_network_and_changes_are_at_the_named_joins(make):
    net = make()
    plain = net(X, T, Y)
    assert torch.allclose(FreeU(Network(net), (1.0,), (1.0,))(X, T, Y), plain, atol=1e-12)
    assert torch.equal(SkipTuned(net, 1.0, 1.0)(X, T, Y), plain)
    free, tuned = FreeU(net, (1.3,), (0.5,)), SkipTuned(Network(net), 0.5, 0.5)
    assert (free(X, T, Y) - plain).abs().max() > 1e-4 < (tuned(X, T, Y) - plain).abs().max()
    assert torch.equal(net(X, T, Y), plain), "the network itself is not changed"
    seen = []
    hooks = [j.module.register_forward_pre_hook(lambda m, given: seen.append(given[0])) for j in net.joins]
    net(X, T, Y)
    before, dim = [*seen], net.joins[0].dim
    seen.clear()
    halved = SkipTuned(net, 0.5, 1.0)
    for k, join in enumerate(net.joins):
        late, early = before[k].split([join.late, before[k].shape[dim] - join.late], dim)
        new = halved.changed(k, *(p if dim == 1 else p.mT.unflatten(-1, (4, 4)) for p in (late, early)))
        wanted = 0.5 + 0.5 * k / max(1, len(net.joins) - 1)
        ratio = new[1].norm() / early.norm()
        assert torch.isclose(ratio, torch.tensor(wanted, dtype=ratio.dtype))
    for hook in hooks:
        hook.remove()


def test_the_factor_of_the_backbone_part_follows_its_mean():
    net = FreeU(unet(), (1.4,), (1.0,))
    late, early = (Rng(i).normal(torch.empty(2, 6, 5, 4, dtype=torch.float64)) for i in range(2))
    new, same = net.changed(0, late, early)
    mean = late.mean(1)
    low, high = mean.amin((1, 2), keepdim=True), mean.amax((1, 2), keepdim=True)
    factor = 1 + 0.4 * ((mean - low) / (high - low))[:, None]
    assert torch.allclose(new[:, :3], late[:, :3] * factor) and torch.equal(new[:, 3:], late[:, 3:])
    assert torch.allclose(same, early) and all(
        torch.equal(a, b) for a, b in zip(net.changed(1, late, early), (late, early), strict=True)
    )
    flat = net.changed(0, torch.ones_like(late), early)[0]
    assert torch.isfinite(flat).all() and torch.equal(flat, torch.ones_like(late)), "a constant mean divides by nothing"


@pytest.mark.parametrize(("symmetric", "first"), [(False, 0.6), (True, 0.2)])
def test_low_frequencies_have_the_factors_of_the_mask(symmetric, first):
    i = torch.arange(8, dtype=torch.float64)
    for k, wanted in ((0, 0.2), (1, first), (2, 1.0)):
        x = torch.cos(2 * torch.pi * k * i / 8).expand(1, 1, 6, 8)
        assert torch.allclose(fewer_low(x, 0.2, symmetric), wanted * x, atol=1e-12)


@pytest.mark.parametrize("make", [lambda: FreeU(made(DiT)), lambda: SkipTuned(Network(made(DiT)))])
def test_networks_without_long_skips_are_refused(make):
    with pytest.raises(BeelineError, match="without long skips"):
        make()


def test_more_factors_than_joins_are_refused():
    with pytest.raises(BeelineError, match="one of each"):
        FreeU(made(UViT), (1.1, 1.2), (0.9, 0.8))
