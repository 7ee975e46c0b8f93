"""Operators and controllers of inverse problems on a second device, without waiting for it."""

from __future__ import annotations

import pytest
import torch

import beeline as bl
from beeline.sampling.steering.energies.measured import Measured
from beeline.sampling.steering.inverse.moments import MomentMatching
from beeline.sampling.steering.inverse.pulls import PseudoInverse, Pull, Replacement
from beeline.sampling.steering.operators.axes import BlockMean, GaussianBlur
from beeline.sampling.steering.operators.channels import Grey
from beeline.sampling.steering.operators.masks import Beginning, Columns, Mask
from beeline.sampling.steering.operators.operator import Identity, Magnitudes
from beeline.sampling.steering.operators.projections import Matrix, Projections
from tests.second_device import DEVICE, second_device

SHAPE = (3, 4, 4)
OPERATORS = [
    Identity(),
    Mask(torch.eye(4)),
    Columns((0, 2)),
    Beginning(2),
    BlockMean(2),
    GaussianBlur(1.0),
    Grey(),
    Projections(5, SHAPE),
    Matrix(torch.ones(2, 48), SHAPE),
]


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators(operator):
    with second_device():
        x = torch.ones(2, *SHAPE).to(DEVICE)
        y = operator.apply(x)
        assert y.device == operator.adjoint(y).device == operator.prepared(x).apply(x).device == DEVICE
        values = torch.zeros(tuple(y.shape[1:]))
        assert Measured(operator, values)(x, torch.zeros(2).to(DEVICE)).device == DEVICE
        assert Measured(Magnitudes(operator), values)(x, torch.zeros(2).to(DEVICE)).device == DEVICE


@pytest.mark.parametrize("kind", [MomentMatching, PseudoInverse, Pull, Replacement])
@pytest.mark.parametrize("operator", [Mask((1, 0)), Matrix(((1.0, 2.0), (0.0, 1.0)))])
def test_a_steered_run_synchronises_once(kind, operator):
    with bl.Rng(0).ambient():
        net = bl.Network(bl.networks.MLP(2, width=8, depth=1))
    with second_device() as mode:
        flow, x = bl.Flow(net.to(DEVICE)), torch.ones(3, 2).to(DEVICE)
        sampler = bl.Sampler(4, controllers=(kind(Measured(operator, (0.5, 0.0))),))
        mode.waits.clear()
        assert sampler(flow, x).device == DEVICE
        assert sum(mode.waits.values()) == 1
