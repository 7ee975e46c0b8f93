"""Attention by other functions: against explicit weights, against closed forms, and in blocks of networks."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import beeline as bl
from beeline.core.declared import TokenGrid, Traits, is_map, traits_of
from beeline.core.errors import BeelineError
from beeline.fields.flow import bind
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.functions import (
    entmax,
    gaussian,
    identity_attention,
    smoothed_attention,
    sparse_attention,
)
from beeline.networks.attending.mode import AttentionMode, ImageAttention
from beeline.networks.unet import UNet
from tests.networks.test_skipping import COND, T, X, network

GRID, TEXT = (2, 3), 4
LENGTHS = {"alone": (0, True), "before": (TEXT, True), "after": (TEXT, False)}


def attention(text, first, mask=None, dtype=torch.float64):
    """An attention over 6 tokens of an image and some of a text."""
    make = lambda k: bl.Rng(k).normal(torch.empty(2, 3, 6 + text, 5, dtype=dtype))  # noqa: E731
    return ImageAttention(make(0), make(1), make(2), mask, TokenGrid(*GRID, first=first), {})


def explicit(a, logits):
    return torch.softmax(logits, -1) @ a.v


def logits(a):
    return a.q @ a.k.mT / math.sqrt(a.q.shape[-1])


@pytest.mark.parametrize("text, first", LENGTHS.values(), ids=LENGTHS)
def test_tokens_of_the_image_see_themselves_and_the_text(text, first):
    a = attention(text, first)
    image = list(range(*a.image.indices(a.q.shape[2])))
    assert len(image) == 6 and (image[0] == 0) == (first or text == 0)
    z = logits(a)
    for i in image:
        for j in image:
            if i != j:
                z[:, :, i, j] = -torch.inf
    y = identity_attention(a)
    assert torch.allclose(y, explicit(a, z), atol=1e-12)
    if text == 0:
        assert torch.equal(y, a.v)


@pytest.mark.parametrize("text, first", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("sigma", [0.7, math.inf])
def test_blurred_queries_are_blurred_logits(text, first, sigma):
    a = attention(text, first)
    z, (rows, columns) = logits(a), GRID
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    weights = torch.exp(-torch.cdist(places, places).square() / (2 * sigma**2))
    weights = weights / weights.sum(1, keepdim=True)
    z[:, :, a.image] = weights @ z[:, :, a.image]
    assert torch.allclose(smoothed_attention(a, sigma), explicit(a, z), atol=1e-6)
    assert torch.allclose(gaussian(5, 1e-3, z), torch.eye(5).double())


def closed_form(z, alpha):
    """The weights of entmax at 1.5 and 2 by sorting."""
    z = z.sort(-1, descending=True).values if alpha == 2 else z.sort(-1, descending=True).values / 2
    k = torch.arange(1, z.shape[-1] + 1).double()
    if alpha == 2:
        tau = (z.cumsum(-1) - 1) / k
    else:
        mean, square = z.cumsum(-1) / k, z.square().cumsum(-1) / k
        tau = mean - ((1 - k * (square - mean**2)) / k).clamp(min=0).sqrt()
    support = (tau <= z).sum(-1, keepdim=True)
    return tau.gather(-1, support - 1)


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_entmax_against_the_closed_form(alpha):
    z = (3 * bl.Rng(0).normal(torch.empty(50, 9, dtype=torch.float64))).requires_grad_()
    tau = closed_form(z, alpha)
    wanted = (z - tau).clamp(min=0) if alpha == 2 else (z / 2 - tau).clamp(min=0) ** 2
    p = entmax(z, alpha)
    assert torch.allclose(p, wanted, atol=1e-12) and torch.allclose(p.sum(-1), torch.ones(50).double())
    assert (p == 0).any()
    weight = bl.Rng(1).normal(torch.empty_like(z))
    slopes = [torch.autograd.grad((y * weight).sum(), z, retain_graph=True)[0] for y in (p, wanted)]
    assert torch.allclose(*slopes, atol=1e-9)
    assert torch.equal(entmax(z, 1.0), torch.softmax(z, -1))
    near = entmax(1e-3 * z, 1.001)
    assert torch.allclose(near, torch.softmax(1e-3 * z, -1), atol=1e-5)


@pytest.mark.parametrize("text, first", LENGTHS.values(), ids=LENGTHS)
def test_sparse_attention_keeps_the_weight_of_the_text(text, first):
    a = attention(text, first)
    weights = torch.softmax(logits(a), -1)
    part, image = a.text if text else a.image, a.image
    z = logits(a)[:, :, image, part]
    sparse = weights.clone()
    sparse[:, :, image, part] = entmax(z, 1.5) * weights[:, :, image, part].sum(-1, keepdim=True)
    for scale in (0.0, 1.0, 2.0):
        wanted = (weights + scale * (sparse - weights)) @ a.v
        assert torch.allclose(sparse_attention(a, 1.5, scale), wanted, atol=1e-6)
    assert torch.equal(sparse_attention(a, 1.5, 0.0), a.softmax())


def test_masked_tokens_stay_masked():
    mask = torch.ones(2, 1, 1, 10, dtype=torch.bool)
    mask[1, ..., 8:] = False  # of the text
    added = torch.zeros(2, 1, 1, 10, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    for f in (identity_attention, partial(smoothed_attention, sigma=1.0), partial(sparse_attention, alpha=2, scale=1)):
        a, same = attention(TEXT, True, mask), attention(TEXT, True, added)
        assert torch.allclose(f(a), f(same), atol=1e-6)
        changed = ImageAttention(a.q, a.k, a.v.clone(), mask, a.grid, {})
        changed.v[1, :, 8:] += 100
        assert torch.allclose(f(a)[:, :, :6], f(changed)[:, :, :6], atol=1e-6)


def test_only_attention_over_the_image_is_changed():
    q, few = torch.ones(1, 1, 6, 2), torch.ones(1, 1, 3, 2)
    with AttentionMode(lambda a: a.q * 7, TokenGrid(2, 3)) as mode:
        assert torch.equal(F.scaled_dot_product_attention(q, key=q, value=q), 7 * q)
        assert torch.equal(F.scaled_dot_product_attention(few, few, few), few)
        assert torch.equal(F.scaled_dot_product_attention(q, few, few), q)
        F.scaled_dot_product_attention(q.repeat(1, 4, 1, 1), q, q, enable_gqa=True)
    assert mode.count == 2


def test_named_blocks_of_a_transformer_and_no_others():
    net = network()
    before = net(X, T, COND)
    found = with_attention(net, ["block.0", "block.2"], identity_attention)(X, T, COND)
    h, told, out = net.backbone.stages(X, T, COND)
    for i, block in enumerate(net.backbone.block):
        if i != 1:
            block.mix.forward = lambda x, layout, m=block.mix: m.out(m.qkv(x).chunk(3, -1)[2])
        h = block(h, *told[i])
    assert torch.allclose(found, out(h, *told[-1]), atol=1e-5)
    assert (found - before).abs().max() > 1e-3
    same = with_attention(network(), ["block.0", "block.2"], lambda a: a.softmax())
    assert torch.equal(same(X, T, COND), before)


def test_the_default_is_the_middle_block_with_attention():
    one = with_attention(network(), [], identity_attention)(X, T, COND)
    assert torch.equal(one, with_attention(network(), ["block.1"], identity_attention)(X, T, COND))
    with bl.Rng(0).ambient():
        net = UNet((1, 7, 9), width=8)
        for p in net.parameters():
            nn.init.normal_(p, std=0.1)
    x, t = bl.Rng(0).normal(torch.empty(2, 1, 7, 9)), torch.ones(2) / 2
    assert traits_of(net).tokens((1, 7, 9)) == (2, 3, True)
    changed = with_attention(net, [], identity_attention)(x, t)
    assert torch.equal(changed, with_attention(net, ["middle.1"], identity_attention)(x, t))
    assert (changed - net(x, t)).abs().max() > 1e-4
    with pytest.raises(BeelineError, match=r"'middle.0' was to be changed, and no attention among"):
        with_attention(net, ["middle.0"], identity_attention)(x, t)


class Plain(nn.Module):
    """A network of a user, whose blocks call the attention of PyTorch themselves."""

    class Block(nn.Linear):
        def forward(self, h):
            q, k, v = super().forward(h)[:, None].chunk(3, -1)
            return h + F.scaled_dot_product_attention(q, k, v)[:, 0]

    def __init__(self):
        super().__init__()
        self.block = nn.ModuleList(self.Block(4, 12) for _ in range(3))
        self.stacks, self.traits = {"block": self.block}, Traits(tokens=lambda shape: TokenGrid(*shape[-2:]))

    def forward(self, x, t, cond=None):
        h = x.flatten(2).mT
        for block in self.block:
            h = block(h)
        return h.mT.view_as(x)


def test_the_default_of_a_network_with_attention_of_its_own_is_the_middle_block():
    with bl.Rng(0).ambient():
        net, x = Plain(), torch.randn(2, 4, 3, 3)
    found = with_attention(net, [], identity_attention)(x, T[:2])
    assert torch.equal(found, with_attention(net, ["block.1"], identity_attention)(x, T[:2]))
    assert (found - net(x, T[:2])).abs().max() > 1e-3


def test_flow_maps_stay_flow_maps():
    with bl.Rng(0).ambient():
        net = bl.networks.MapNetwork(bl.networks.DiT((1, 8, 8), width=16, heads=2, span=True))
        for p in net.parameters():
            nn.init.normal_(p, std=0.3)
    changed, s = with_attention(net, [], identity_attention), (1 + T) / 2
    assert is_map(changed) and traits_of(changed).tokens is not None
    same = with_attention(net, [], lambda a: a.softmax())
    assert torch.equal(bind(same)(X, T, s), net(X, T, None, s)) and torch.equal(same(X, T), net(X, T))
    assert (bind(changed)(X, T, s) - net(X, T, None, s)).abs().max() > 1e-3


def test_changes_can_be_nested():
    blur = partial(smoothed_attention, sigma=1.0)
    both = with_attention(with_attention(network(), ["block.0"], identity_attention), ["block.2"], blur)
    other = with_attention(with_attention(network(), ["block.2"], blur), ["block.0"], identity_attention)
    assert torch.equal(both(X, T, COND), other(X, T, COND))


def test_refusals():
    with pytest.raises(BeelineError, match=r"no block 'block.9' in DiT; .*block.0"):
        with_attention(network(), ["block.9"], identity_attention)
    with pytest.raises(BeelineError, match="does not declare which tokens"):
        with_attention(bl.Network(bl.networks.MLP(2, width=8)), [], identity_attention)
