"""Dense features against a forward pass by hand, and a head that learns from them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Network
from beeline.networks.dense import DenseHead, dense_features
from beeline.networks.dit import DiT
from beeline.networks.mlp import MLP
from beeline.networks.unet import UNet
from beeline.objectives.losses.distances import AffineInvariant
from beeline.objectives.regression import Regression
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine


def grown(backbone: nn.Module) -> Network:
    with Rng(3).ambient():
        for weight in backbone.parameters():
            nn.init.normal_(weight, std=0.2)
    return Network(backbone).eval()


def test_features_are_those_of_the_blocks_and_the_network_is_unchanged() -> None:
    net, x = grown(DiT((1, 8, 12), 2, 16, 3, 2)), Rng(1).normal(torch.empty(2, 1, 8, 12))
    before = {name: p.clone() for name, p in net.state_dict().items()}
    found = dense_features(net, x, maps=True, size=(4, 6))
    dit, t = net.backbone, torch.full((2,), 0.9)
    h, told, _ = dit.stages(x, t)  # type: ignore[operator]
    parts, maps = [], []
    for block, (e, layout) in zip(dit.block, told, strict=False):  # type: ignore[arg-type]
        shift, scale = block.tell(e)[:, None].chunk(6, -1)[:2]
        q, k, _ = block.mix.divided(F.layer_norm(h, (16,), eps=1e-6) * (1 + scale) + shift)
        maps.append(torch.softmax(torch.einsum("bhnd,bhmd->bhnm", q, k) / 8**0.5, -1).mean(1))
        h = block(h, e, layout)
        parts.append(h)
    wanted = torch.cat(parts + maps, 2).transpose(1, 2).reshape(2, 3 * 16 + 3 * 24, 4, 6)
    assert torch.allclose(found, wanted, atol=1e-5) and not found.requires_grad
    assert torch.allclose(found[:, 48:72].sum(1), torch.ones(2, 4, 6), atol=1e-5)
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())
    # the mean over noisy states
    noisy = dense_features(net, x, ["backbone.block.1"], t=0.8, noises=2, rng=Rng(5), size=(4, 6))
    each = [0.8 * x + 0.2 * Rng(5).fork("noise", k).normal(x) for k in range(2)]
    by_hand = [dense_features(net, y, ["backbone.block.1"], t=0.8, size=(4, 6)) for y in each]
    assert torch.allclose(noisy, (by_hand[0] + by_hand[1]) / 2, atol=1e-6)
    assert dense_features(net, x).shape == (2, 48, 8, 12)
    maps_of = dense_features(grown(UNet((1, 8, 8), width=8)), Rng(1).normal(torch.empty(2, 1, 8, 8)), ["backbone.inp"])
    assert maps_of.shape == (2, 8, 8, 8)


def test_what_has_no_place_is_refused() -> None:
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(BeelineError, match="no modules"):
        dense_features(grown(DiT((1, 4, 4), 2, 8, 1, 1)), x, ["backbone.block.7"])
    with pytest.raises(BeelineError, match="no place in an image"):
        dense_features(grown(MLP(shape=(1, 4, 4), width=8, depth=1)), x)
    with pytest.raises(BeelineError, match="no attention inside"):
        dense_features(grown(MLP(shape=(1, 4, 4), width=8, depth=1)), x, maps=True)
    with pytest.raises(BeelineError, match="give images"):
        dense_features(grown(DiT((1, 4, 4), 2, 8, 1, 1)), x[0])


def test_a_head_learns_a_map_up_to_shift_and_scale() -> None:
    h = Rng(0).normal(torch.empty(64, 3, 5, 5))
    depth = F.avg_pool2d(h[:, :1] - 2 * h[:, 1:2], 3, 1, 1)
    target = depth * torch.linspace(1, 5, 64)[:, None, None, None] + torch.linspace(-9, 9, 64)[:, None, None, None]
    distance = AffineInvariant()
    assert float(distance(3 * depth - 7, target).max()) < 1e-4 < 0.5 < float(distance(-depth, target).min())
    with Rng(1).ambient():
        head = DenseHead(3, 1, 8)
    training = Training(steps=60, batch_size=32, lr=WarmupCosine(3e-2, 5), ema=None)
    data = Batch(target, cond={"input": h})
    made = fit(head, Regression(distance=distance), data, training, rng=Rng(0), log=lambda entry: None)
    with torch.no_grad():
        assert float(distance(made(h), target).mean()) < 0.4
