"""Number formats against their bounds, and networks that store their weights in them."""

import importlib.util

import pytest
import torch

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.compressing.compressed import Compressed, stored_bytes
from beeline.networks.compressing.compressor import Call, Moments, Probe
from beeline.networks.compressing.formats import Format, Gridded, Integers, pack, unpack
from beeline.networks.compressing.quantize import Quantize, int4, int8
from beeline.networks.compressing.rounding import Nearest
from beeline.networks.dit import DiT
from beeline.networks.unet import UNet

needs_torchao = pytest.mark.skipif(
    not importlib.util.find_spec("torchao"), reason="the library torchao is not installed"
)
FORMATS = [
    pytest.param(config.parse(f"formats.{name}()"), marks=[needs_torchao] * (name == "AOTensor"))
    for name in CATALOGUE["formats"]
]
FORMATS += [Integers(bits, group) for bits in range(2, 9) for group in (16, 50)]
X, T = Rng(0).normal(torch.empty(3, 1, 8, 8)), torch.tensor([0.1, 0.5, 0.9])


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("n", [1, 7, 64])
def test_codes_are_packed_in_their_bits(bits, n):
    codes = Rng(bits, (n,)).integers(2**bits, 5 * n).view(5, n).to(torch.uint8)
    packed = pack(codes, bits)
    assert torch.equal(unpack(packed, bits, n), codes)
    assert packed.dtype == torch.uint8 and packed.shape[1] * 8 - bits * n < 8 * bin(bits).count("1")


@pytest.mark.parametrize("form", FORMATS, ids=repr)
def test_decoding_is_within_the_bound_and_repeats(form):
    w = 0.02 * Rng(1).normal(torch.empty(6, 75))
    stored = form.encode(w)
    found = form.decode(stored, 6, 75)
    assert found.shape == w.shape and found.dtype == w.dtype
    if isinstance(form, Gridded) and form.rounding == Nearest():
        assert ((found - w).abs() <= form.bound(w) * (1 + 1e-5)).all()
        assert torch.allclose(form.decode(form.encode(found), 6, 75), found, atol=1e-7)
    assert float((found - w).norm()) < float(w.norm())
    assert torch.equal(form.decode(form.encode(torch.zeros(2, 75)), 2, 75), torch.zeros(2, 75))
    x, moments = Rng(3).normal(torch.empty(4, 75)), Moments()
    moments.add(x)
    if form.timed:  # has ranges of inputs
        stored = form.encode(w, moments)
    exact = torch.equal if type(form).product is Format.product else lambda a, b: torch.allclose(a, b, atol=4e-3)
    assert exact(form.product(x, stored, 6), x @ found.mT)


def test_errors_of_rounding_to_nearest_are_those_of_a_uniform_error():
    """The error of a step s is uniform on [-s/2, s/2], of deviation s / sqrt(12)."""
    w = 0.02 * Rng(2).normal(torch.empty(256, 512))
    form = Integers(4, 64)
    error = (form.decode(form.encode(w), 256, 512) - w) / (2 * form.bound(w))
    assert abs(float(error.std()) - 12**-0.5) < 0.01 and float(error.abs().max()) <= 0.5 + 1e-5


@pytest.mark.parametrize("kind", [DiT, UNet])
def test_a_compressed_network_computes_with_decoded_weights(kind):
    with Rng(2).ambient():
        net = kind((1, 8, 8), width=64, **({"heads": 2, "depth": 2} if kind is DiT else {}))
        for p in net.parameters():
            p.data.add_(0.05 * torch.randn_like(p))
    probe = Probe((Call(X, T, None),))
    for method, share in ((int8(), 0.35), (int4(), 0.25)):
        plan = method.plan(net, probe)
        small = method.apply(net, plan, probe, Rng(0))
        assert stored_bytes(small) == plan.after < share * plan.before == share * stored_bytes(net)
        decoded = dict(small.field.named_modules())
        for name in plan.decisions:
            w = dict(net.named_modules())[name].weight
            assert torch.equal(
                decoded[name].weight,
                plan.decisions[name]
                .decode(plan.decisions[name].encode(w.detach().flatten(1)), len(w), w[0].numel())
                .view(w.shape),
            )
        again = config.build(config.describe(small))
        again.load_state_dict(small.state_dict())
        assert torch.equal(again(X, T), small(X, T))
        change = (small(X, T) - net(X, T)).detach().norm() / net(X, T).detach().norm()
        assert float(change) < (0.04 if method == int8() else 0.4)


def test_what_cannot_be_quantized_is_refused():
    net, probe = DiT((1, 8, 8), width=16, depth=1, heads=2), Probe(())
    with pytest.raises(BeelineError, match="merge adapters first"):
        Quantize().plan(Adapted(net).field, probe)
    net = DiT((1, 8, 8), width=16, depth=1, heads=2)
    small = int8().apply(net, int8().plan(net, probe), probe, Rng(0))
    with pytest.raises(
        BeelineError, match="stored in few bits: .*keep the adapter beside it, or merge into the network"
    ):
        Adapted(small).merged()
    with pytest.raises(BeelineError, match="is a LayerNorm.* the kinds of layers are Linear, Conv1d, Conv2d, Conv3d"):
        Quantize(layers=("norm",)).plan(
            torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "norm": torch.nn.LayerNorm(4)}), probe
        )
    with pytest.raises(BeelineError, match="a LayerNorm was to be stored in .* the kinds of layers are Linear"):
        Compressed(torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(4)}), [Integers(8)], [["norm"]])
    with pytest.raises(BeelineError, match="no layer 'nothing'"):
        Compressed(DiT((1, 8, 8), width=16, depth=1, heads=2), [Integers(8)], [["nothing"]])


@pytest.mark.parametrize("form", FORMATS[: len(CATALOGUE["formats"])], ids=repr)
def test_weights_of_16_bits(form):
    """Every format takes bfloat16, and gives what it gives for float32 up to its rounding."""
    w, moments = 0.02 * Rng(1).normal(torch.empty(8, 32)), Moments()
    moments.add(Rng(2).normal(torch.empty(200, 32)))
    small = w.bfloat16()
    found = form.decode(form.encode(small, moments), 8, 32)
    wanted = form.decode(form.encode(small.float(), moments), 8, 32)
    assert found.dtype == torch.bfloat16
    assert float((found - wanted).norm()) < 0.1 * float(w.norm())
    y = form.product(torch.ones(2, 32, dtype=torch.bfloat16), form.encode(small, moments), 8)
    assert y.dtype == torch.bfloat16 and y.shape == (2, 8)
