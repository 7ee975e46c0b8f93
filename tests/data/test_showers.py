"""The codec of showers: exact round trip, sums of layers, empty layers, and what is refused."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.showers import EncodedShowers, ShowerCodec


def showers(n: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    like = torch.empty(n, 4, 2, 3, dtype=torch.float64)
    energy = 10 + 90 * Rng(1).uniform(n, like)
    parts = (0.8 * Rng(0).normal(like)).exp()
    made = parts / parts.sum((1, 2, 3), keepdim=True) * 0.95 * energy[:, None, None, None]
    made[3, 2:] = 0  # empty layers behind
    made[4, 1] = 0  # an empty layer inside
    made[5] = 0
    made[6, 0, 1, 2] = 0
    return made, energy


def test_fractions_and_their_inverse() -> None:
    raw, energy = showers()
    codec, layers = ShowerCodec.fit(raw, energy), raw.sum((2, 3))
    u = codec.fractions(layers, energy)
    assert torch.allclose(u[0, 0] * 1.5, layers[0].sum() / energy[0]) and u.shape == layers.shape
    assert torch.allclose(u[0, 2], layers[0, 1] / layers[0, 1:].sum())
    assert (codec.energies(u, energy) - layers).abs().max() < 1e-12 * 100
    assert torch.equal(u[5], torch.zeros(4, dtype=torch.float64)) and torch.isfinite(u).all()


def test_showers_return_and_layers_keep_their_energy() -> None:
    raw, energy = showers()
    codec = ShowerCodec.fit(raw, energy)
    y = codec.encode(raw, energy)
    assert y.layers.shape == (50, 4, 1) and y.voxels.shape == raw.shape and torch.isfinite(y.voxels).all()
    assert torch.allclose(y.layers.mean(0), torch.zeros(4, 1).double(), atol=1e-9)
    assert torch.allclose(y.layers.std(0), torch.ones(4, 1).double()) and abs(float(y.voxels.std()) - 1) < 1e-9
    assert torch.allclose(codec.decode(y), raw, atol=1e-9)
    moved = EncodedShowers(y.layers, y.voxels + 0.3 * Rng(2).normal(y.voxels), y.energy)
    sums = codec.decode(moved).sum((2, 3))
    assert torch.allclose(sums, raw.sum((2, 3)), atol=1e-9) and not torch.allclose(codec.decode(moved), raw, atol=0.1)
    cut = ShowerCodec.fit(raw, energy, cut=2.0).decode(y)
    assert torch.allclose(cut.sum((2, 3)), raw.sum((2, 3)), atol=1e-9)
    assert bool((cut[raw < 1.9].abs() < raw.max()).all()) and bool((cut == 0).sum() > (raw == 0).sum())


def test_what_is_refused() -> None:
    raw, energy = showers()
    with pytest.raises(BeelineError, match="negative energies"):
        ShowerCodec.fit(-raw, energy)
    with pytest.raises(BeelineError, match="layers,angles,radii"):
        ShowerCodec.fit(raw[0], energy)
    with pytest.raises(BeelineError, match="more than 1.5 times"):
        ShowerCodec.fit(2 * raw, energy)
