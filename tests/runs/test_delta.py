"""Differences of weights: what tuning added to one model is added to another one."""

from pathlib import Path

import pytest
import torch

from beeline.core.files import read_tensors, write_tensors
from beeline.core.rng import Rng
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.runs.averaging import difference, with_delta
from beeline.runs.bundle import Bundle


def bundle(seed: int, width: int = 8) -> Bundle:
    with Rng(seed).ambient():
        net = Network(MLP(2, width=width, depth=1))
        for p in net.parameters():
            torch.nn.init.normal_(p)
    return Bundle(Flow(net))


def test_a_difference_moves_another_model(tmp_path: Path) -> None:
    base, tuned, other = bundle(0), bundle(1), bundle(2)
    write_tensors(tmp_path / "delta.safetensors", difference(tuned, base))
    delta = read_tensors(tmp_path / "delta.safetensors")
    before = [p.clone() for p in other.flow.field.parameters()]
    parts = [list(b.flow.field.parameters()) for b in (with_delta(other, delta, 0.5), other, tuned, base)]
    for made, o, t, b in zip(*parts, strict=True):
        assert torch.allclose(made, o + 0.5 * (t - b), atol=1e-6)
    for p, q in zip(with_delta(base, delta).flow.field.parameters(), parts[2], strict=True):
        assert torch.allclose(p, q, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(before, other.flow.field.parameters(), strict=True))


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="weights match the network"):
        difference(bundle(0), bundle(0, width=16))
    with pytest.raises(ValueError, match="weights match the network"):
        with_delta(bundle(0, width=16), difference(bundle(1), bundle(0)))
