"""Weights in tensors of torchao against torchao's own layers."""

import copy
import importlib

import pytest
import torch
from torch import nn

from beeline.config import build as config
from beeline.core import errors
from beeline.core.errors import BeelineError
from beeline.core.files import read_tensors, write_tensors
from beeline.core.rng import Rng
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.compressor import Call, Probe
from beeline.networks.compressing.quantize import Quantize, TorchAO
from beeline.networks.compressing.torchao import AOTensor
from beeline.networks.dit import DiT

ao = pytest.importorskip("torchao.quantization", reason="the library torchao is not installed")
CONFIGS = {
    "Int8WeightOnly": ao.Int8WeightOnlyConfig(),
    "Int8DynamicActivationInt8WeightConfig()": ao.Int8DynamicActivationInt8WeightConfig(),
    "IntxWeightOnly(weight_dtype=int4, granularity=PerGroup(16))": ao.IntxWeightOnlyConfig(
        weight_dtype=torch.int4, granularity=ao.PerGroup(16)
    ),
    "Float8WeightOnly()": ao.Float8WeightOnlyConfig(),
}
X, T = Rng(0).normal(torch.empty(3, 1, 8, 8)), torch.tensor([0.1, 0.5, 0.9])


@pytest.mark.parametrize("text", CONFIGS)
def test_products_are_those_of_torchao(text):
    for dtype in (torch.float32, torch.bfloat16):
        layer = nn.Linear(48, 20, bias=False, dtype=dtype)
        layer.weight = nn.Parameter(0.1 * Rng(1).normal(torch.empty(20, 48)).to(dtype), requires_grad=False)
        x, form = Rng(2).normal(torch.empty(5, 48)).to(dtype), AOTensor(text)
        stored = form.encode(layer.weight)
        assert all(type(t) is torch.Tensor for t in stored.values())
        theirs = copy.deepcopy(layer)
        ao.quantize_(theirs, CONFIGS[text])
        assert torch.equal(form.product(x, stored, 20), theirs(x))
        assert torch.equal(form.decode(stored, 20, 48), theirs.weight.dequantize())


@pytest.mark.parametrize("text", CONFIGS)
def test_a_network_is_saved_as_plain_tensors_and_is_equal_when_loaded(text, tmp_path):
    net = DiT((1, 8, 8), width=32, depth=1, heads=2).requires_grad_(False)
    for p in net.parameters():
        p.add_(0.1 * Rng(3).normal(torch.empty_like(p)))
    method, probe = TorchAO(text), Probe((Call(X, T, None),))
    plan = method.plan(net, probe)
    made = method.apply(net, plan, probe, Rng(0))
    assert stored_bytes(made) == plan.after < plan.before
    write_tensors(tmp_path / "a.safetensors", made.state_dict())
    again = config.build(config.describe(made))
    again.load_state_dict(read_tensors(tmp_path / "a.safetensors"))
    assert torch.equal(again(X, T), made(X, T))
    small, half = made(X, T), copy.deepcopy(made).bfloat16()(X.bfloat16(), T)
    assert float((half.float() - small).norm()) < 0.05 * float(small.norm())
    assert float((small - net(X, T)).norm()) < 0.2 * float(net(X, T).norm())


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "Int4WeightOnly(group_size=32)",
            "layer of 32 x .* by Int4WeightOnly.*on the device cpu, and cannot.*give one",
        ),
        ("Float8DynamicActivationFloat8Weight()", "requires CUDA.*compress on a device that has its kernels"),
        ("IntxWeightOnly(weight_dtype=int4, granularity=PerGroup(7))", "whose n divides the inputs"),
        ("Int8WeightOnl()", "did you mean 'Int8WeightOnly'"),
        ("IntxWeightOnly(granularity=open('x'))", "its settings are numbers, dtypes"),
        ("IntxWeightOnly(wide=4)", "its settings are numbers, dtypes"),
    ],
)
def test_what_torchao_cannot_do_here_is_refused_before_any_work(text, message):
    with pytest.raises(BeelineError, match=message):
        TorchAO(text).plan(DiT((1, 8, 8), width=32, depth=1, heads=2), Probe(()))


def test_the_missing_library_names_its_extra(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(errors, "importlib", type(importlib)("none"))
    monkeypatch.setattr(errors.importlib, "import_module", missing, raising=False)
    with pytest.raises(BeelineError, match=r"pip install 'beeline\[torchao\]'"):
        Quantize(AOTensor()).plan(DiT((1, 8, 8), width=32, depth=1, heads=2), Probe(()))
