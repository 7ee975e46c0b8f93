"""The delta of Walsh-Hadamard coefficients, and its start that undoes rounding, against exact answers."""

import copy

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.delta import LoRA, changed_layers
from beeline.networks.adapters.members.sparse import WalshHadamard, walsh
from beeline.networks.adapters.starts import cancelling
from beeline.networks.compressing.around import Corrected
from beeline.networks.compressing.compressed import Compressed
from beeline.networks.compressing.compressor import Moments
from beeline.networks.compressing.formats import Integers
from tests.networks.compressing.test_calibrated import loud, output_error


class One(torch.nn.Module):
    """A linear layer."""

    def __init__(self, w):
        super().__init__()
        self.linear = torch.nn.Linear(w.shape[1], len(w), bias=False)
        self.linear.weight.data = w.clone()

    def forward(self, x, t=None, cond=None):
        return self.linear(x)


def started(w, moments, count, bits=2):
    net = One(w)
    few = Adapted(Compressed(copy.deepcopy(net), [Integers(bits)], [["linear"]]), WalshHadamard(count))
    return few, cancelling(few, net, {"linear": moments.second})


def test_the_transform_is_that_of_hadamard_matrices():
    h = torch.ones(1, 1, dtype=torch.float64)
    for n in (2, 4, 8, 16):
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
        x = Rng(n).normal(torch.empty(3, n, dtype=torch.float64))
        assert torch.allclose(walsh(x), x @ h / n**0.5) and torch.allclose(walsh(walsh(x)), x)


def test_coefficients_are_those_of_least_error():
    """All of them undo the rounding; of some, no other value is better: the derivative of the error is zero."""
    w, moments = Rng(0).normal(torch.empty(5, 11)), Moments()
    moments.add(Rng(1).normal(torch.empty(200, 11)) @ Rng(2).normal(torch.empty(11, 11)))
    base, full = started(w, moments, 16)
    assert torch.allclose(full(torch.eye(11), None), w.mT, atol=1e-3)
    assert torch.equal(base(torch.eye(11), None), base.field(torch.eye(11), None))
    _, some = started(w, moments, 4)
    (layer,) = changed_layers(some).values()
    error = (layer.weight - w).double()
    loss = ((error @ moments.second) * error).sum()
    (slope,) = torch.autograd.grad(loss, [layer.changes[0].numbers["coefficients"]])
    assert float(slope.abs().max()) < 1e-3 * float(loss.detach())


def test_it_undoes_more_of_two_bits_than_a_fitted_lora_of_equal_numbers():
    w, moments, x = loud()
    base, made = started(w, moments, 6 * sum(w.shape) // len(w))
    y = x @ w.mT
    errors = [float((net(x, None) - y).detach().norm() / y.norm()) for net in (made, base)]
    assert errors[0] < 0.95 * output_error(Corrected(Integers(2), 6), w, moments, x) < errors[1]


def test_what_it_cannot_start_is_refused():
    w, moments = torch.ones(4, 4), Moments()
    moments.add(torch.eye(4))
    with pytest.raises(BeelineError, match="adapt it with WalshHadamard"):
        cancelling(Adapted(One(w), LoRA(1)), One(w), {"linear": moments.second})
    with pytest.raises(BeelineError, match="no moments of the inputs of the layer 'linear'"):
        cancelling(Adapted(One(w), WalshHadamard(2)), One(w), {})
    with pytest.raises(BeelineError, match="the original has no layer"):
        cancelling(Adapted(One(w), WalshHadamard(2)), torch.nn.Linear(4, 4), {"linear": moments.second})
