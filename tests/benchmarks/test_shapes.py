"""Sizes of transformers by formula are those of the networks."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from beeline.core.errors import BeelineError
from beeline.networks.dit import DiT
from benchmarks.shapes import Shape, multiply_adds, parameters, shapes


@pytest.mark.parametrize("size", [parameters, multiply_adds])
def test_shapes_have_the_sizes_of_their_networks(size):
    budget = size(Shape(32, 3, 4, 4.0))
    found = list(shapes(budget, size, (8, 3, 1)))
    assert found[1][:3] == (32, 3, 4) and found[1].hidden == 128
    for shape in found:
        net = DiT((1, 8, 8), 2, shape.width, shape.depth, shape.heads, ratio=shape.ratio)
        assert sum(p.numel() for p in net.parameters()) == parameters(shape)
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # which it sees
            net(torch.zeros(1, 1, 8, 8), torch.zeros(1))
        assert counter.get_total_flops() == 2 * multiply_adds(shape)
        assert abs(size(shape) - budget) <= 0.03 * budget
    assert found[0].width < found[1].width < found[2].width


def test_a_budget_without_a_shape_is_refused():
    with pytest.raises(BeelineError, match="smaller heads"):
        list(shapes(1000, parameters, (8,)))
