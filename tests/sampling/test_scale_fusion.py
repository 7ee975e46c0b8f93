"""Self-attention at two scales: one scale is the network, windows and blur against direct computations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.sampling.scale_fusion import Fusion, ScaleFused, blurred

T = torch.tensor([0.3, 0.8])


@pytest.fixture(scope="module")
def net():
    with bl.Rng(0).ambient():
        made = bl.networks.DiT((1, 8, 8), width=16, depth=2, heads=2, any_size=True)
        for p in made.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return made.eval()


def test_one_scale_is_the_network(net):
    small, large = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 16, 12)
    assert torch.equal(ScaleFused(net, (4, 4))(small, T), net(small, T))
    assert torch.equal(ScaleFused(net, (8, 6))(large, T), net(large, T))
    assert not torch.allclose(ScaleFused(net, (4, 4))(large, T), net(large, T), atol=1e-3)


def test_one_window_with_all_tokens_gives_plain_attention():
    q, k, v = torch.randn(3, 2, 3, 12 + 5, 4).unbind()
    plain = F.scaled_dot_product_attention(q, k, v)
    for image_first in (False, True):
        with Fusion((3, 4), (3, 4), image_first):
            assert torch.allclose(F.scaled_dot_product_attention(q, k, v), plain, atol=1e-6)


@pytest.mark.parametrize("image_first", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_windows_are_those_of_a_direct_computation(image_first, masked):
    grid, trained, text = (4, 6), (2, 4), 3
    n = grid[0] * grid[1]
    q, k, v = torch.randn(3, 1, 1, n + text, 5, dtype=torch.float64).unbind()
    mask = torch.rand(n + text, n + text) > 0.2 if masked else torch.ones(n + text, n + text, dtype=torch.bool)
    offset = 0 if image_first else text
    logits = (q @ k.mT / math.sqrt(5)).masked_fill(~mask, -math.inf)
    wanted_global = logits.softmax(-1) @ v
    total, counts = torch.zeros(n, 5, dtype=torch.float64), torch.zeros(n, 1, dtype=torch.float64)
    for row in (0, 1, 2):
        for column in (0, 2):
            inside = torch.zeros(grid, dtype=torch.bool)
            inside[row : row + 2, column : column + 4] = True
            seen = torch.ones(n + text, dtype=torch.bool)
            seen[offset : offset + n] = inside.flatten()
            local = logits.masked_fill(~seen, -math.inf).softmax(-1) @ v
            total += torch.where(inside.flatten()[:, None], local[0, 0, offset : offset + n], 0.0)
            counts += inside.flatten()[:, None]
    image = wanted_global[0, 0, offset : offset + n]
    smooth = lambda y: blurred(y.view(*grid, 5), 2).reshape(n, 5)  # noqa: E731
    wanted = smooth(total / counts) + (image - smooth(image))
    with Fusion(grid, trained, image_first):
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask if masked else None)
    assert torch.allclose(found[0, 0, offset : offset + n], wanted, atol=1e-12)
    rest = slice(n, None) if image_first else slice(0, text)
    assert torch.equal(found[..., rest, :], F.scaled_dot_product_attention(q, k, v, mask)[..., rest, :])


def test_the_blur_is_a_reflected_gaussian():
    x = torch.zeros(5, 5, 1)
    x[2, 2] = 1.0
    line = torch.tensor([math.exp(-0.5), 1.0, math.exp(-0.5)])
    line = line / line.sum()
    assert torch.allclose(blurred(x, 2)[1:4, 1:4, 0], torch.outer(line, line), atol=1e-6)
    assert torch.allclose(blurred(torch.full((2, 4, 3, 2), 3.0), 3), torch.full((2, 4, 3, 2), 3.0), atol=1e-5)


def test_attention_to_a_text_is_unchanged():
    q, k = torch.randn(1, 2, 16, 4), torch.randn(1, 2, 7, 4)
    with Fusion((4, 4), (2, 2), False):
        found = F.scaled_dot_product_attention(q, k, k)
    assert torch.equal(found, F.scaled_dot_product_attention(q, k, k))


def test_it_samples_and_keeps_batches_apart(net):
    flow, x0 = bl.Flow(ScaleFused(net, (4, 4))), torch.randn(3, 1, 16, 16)
    whole = bl.Sampler(2)(flow, x0)
    assert torch.isfinite(whole).all()
    assert torch.allclose(bl.Sampler(2)(flow, x0[1:2]), whole[1:2], atol=1e-5)
    with pytest.raises(BeelineError, match="numbers from 1"):
        ScaleFused(net, (0, 4))
