"""What a pretrained field remembers between evaluations: the dtype of its network, and positions."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from beeline.networks.hub import layout
from beeline.networks.hub.family import Pretrained
from beeline.networks.hub.layout import dtype_of, positions, zeros
from tests.networks.hub.tiny_images import flux_net

X = torch.zeros(1, 4, 4, 4)


def test_the_dtype_of_a_network_is_found_again_after_its_conversion():
    net = flux_net()
    field = Pretrained(net, None, {}, lambda t, x: t)
    other = copy.deepcopy(field)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float32):
        net.to(dtype)
        assert field._dtype(X) == dtype == dtype_of(net, X)
    assert field.on(copy.deepcopy(net).to(torch.bfloat16))._dtype(X) == torch.bfloat16
    assert field._dtype(X) == other._dtype(X) == torch.float32
    net.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert field._dtype(X) == torch.bfloat16 == dtype_of(net, X)


def test_a_network_without_parameters_takes_the_dtype_of_the_state():
    field = Pretrained(nn.Identity(), None, {}, lambda t, x: t)
    assert [field._dtype(X.to(dtype)) for dtype in (torch.float32, torch.float64)] == [torch.float32, torch.float64]


def test_the_modules_of_a_network_are_searched_once(monkeypatch):
    net = flux_net()
    field = Pretrained(net, None, {}, lambda t, x: t)
    field._dtype(X)
    with monkeypatch.context() as patch:
        patch.setattr(net, "named_modules", None)
        assert field._dtype(X) == torch.float32
    assert [name for name, _ in field.named_parameters()] == [f"net.{name}" for name, _ in net.named_parameters()]


def test_positions_are_stored_by_size_dtype_and_device_and_without_fake_tensors(monkeypatch):
    monkeypatch.setattr(layout, "_constants", {})
    with FakeTensorMode():
        fake = positions(2, 3, before=1, like=torch.zeros(1))
        assert isinstance(fake, FakeTensor)
        assert isinstance(zeros(2, 3, like=torch.zeros(1)), FakeTensor)
    assert not layout._constants
    with torch.inference_mode():
        first = positions(2, 3, before=1, like=X)
    assert not first.is_inference()
    assert first.tolist() == [[0, i, j] for i in range(2) for j in range(3)]
    assert positions(2, 3, before=1, like=X) is first
    assert positions(2, 3, before=1, like=X.double()).dtype == torch.float64
    assert zeros(2, 3, like=X) is zeros(2, 3, like=X)
    with FakeTensorMode():
        assert isinstance(positions(2, 3, before=1, like=torch.zeros(1)), FakeTensor)
    for i in range(200):
        positions(i + 1, like=X)
    assert len(layout._constants) <= 64


def test_the_field_of_another_network_has_that_network_also_if_weights_are_offloaded():
    first, second = flux_net(), flux_net()
    for net, count in ((first, len(list(second.parameters()))), (copy.deepcopy(first).to("meta"), 0)):
        made = Pretrained(net, None, {}, lambda t, x: t).on(second)
        assert made.net is second and len(list(made.parameters())) == count
