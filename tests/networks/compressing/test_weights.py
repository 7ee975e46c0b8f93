"""Codes, scales and sensitivities of weights, against exact answers and numbers of reference."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.compressing.around import IntegerProducts, Salient, Scaled
from beeline.networks.compressing.compressor import Call
from beeline.networks.compressing.factors import Signs
from beeline.networks.compressing.formats import Integers, OffsetIntegers
from beeline.networks.compressing.levels import BitMoD
from beeline.networks.compressing.mixed import MixedBits
from beeline.networks.compressing.packed import packed
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.weights.entropy import EntropyCoded, code_lengths, code_words
from beeline.networks.compressing.weights.sensitivity import Curvature, Measured
from beeline.networks.compressing.weights.trained_scales import TrainedScales, rounded
from tests.networks.compressing.test_calibrated import decoded, gauss, loud, output_error
from tests.networks.compressing.test_smaller import T, X, again, applied, dit


def test_every_bfloat16_is_found_again():
    """With the negative zero, infinities, all NaN and numbers below the normal ones."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).view(256, 256)
    order = Rng(0).permutation(2**16)
    for numbers in (every, every.flatten()[order].view(64, 1024)):
        form = EntropyCoded(8.0)
        found = form.decode(form.encode(numbers), *numbers.shape)
        assert torch.equal(found.view(torch.int16), numbers.view(torch.int16))


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (1, 256), (2, 300), (17, 31)])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_codes_end_where_they_should(shape, scale):
    w = scale * Rng(shape[1]).normal(torch.empty(shape))
    form = EntropyCoded(8.0)
    assert torch.equal(form.decode(form.encode(w), *shape), w.bfloat16().float())


def test_codes_of_gaussian_weights_have_the_length_of_reference():
    """The entropy of the exponents is 2.551 bits, and their Huffman code takes 2.595."""
    exponents = gauss().bfloat16().view(torch.int16).flatten().int() >> 7 & 0xFF
    counts = exponents.bincount(minlength=256)
    lengths = torch.tensor(code_lengths(counts.tolist()))
    assert float((counts * lengths).sum() / counts.sum()) == pytest.approx(2.595, abs=0.005)
    assert float((0.5 ** lengths[lengths > 0]).sum()) == 1
    form = EntropyCoded(2.65)
    stored = form.encode(gauss().bfloat16())
    assert sum(t.numel() * t.element_size() for t in stored.values()) < 0.68 * 2 * gauss().numel()
    with pytest.raises(BeelineError, match=r"take 2\.5\d* bits in their Huffman code: set exponent_bits"):
        EntropyCoded(2.5).encode(gauss())


def test_no_word_begins_another_and_rare_symbols_have_short_words_as_well():
    counts = [2**k for k in range(30)] + [0, 5]
    lengths = code_lengths(counts)
    assert max(lengths) <= 15 and lengths[30] == 0 and lengths[29] == 1
    words = [f"{int(w):0{n}b}" for w, n in zip(code_words(torch.tensor(lengths)), lengths, strict=True) if n]
    assert sum(0.5 ** len(w) for w in words) == 1
    assert not any(b.startswith(a) for i, a in enumerate(words) for j, b in enumerate(words) if i != j)


def test_a_network_of_16_bits_is_smaller_and_the_same():
    net = dit(depth=1).to(torch.bfloat16)
    x, t = X.bfloat16(), T.bfloat16()
    made = applied(Quantize(EntropyCoded(), rest=None, kept=True), net)
    assert torch.equal(made(x, t), net(x, t)) and torch.equal(again(made).to(torch.bfloat16)(x, t), net(x, t))


@pytest.mark.parametrize("form", [Integers(3, 30), OffsetIntegers(3, 30), BitMoD(3, 30)], ids=repr)
def test_rounding_with_gradients_rounds_as_the_format(form):
    """The scale of a group moves all of its numbers; those that are not the largest move their own code as well."""
    w = gauss()[:6, :75].double().requires_grad_()
    made = rounded(form, w)
    assert torch.equal(made, decoded(form, w.detach()))
    # a common factor c of a group: codes stay, and c round(w / S) S is linear in c
    (slope,) = torch.autograd.grad((made * torch.ones_like(made)).sum(), w)
    assert float((slope * w).detach().sum()) == pytest.approx(float(made.detach().sum()), rel=1e-9)


@pytest.mark.parametrize("form", [Integers(3), Integers(4), OffsetIntegers(3)], ids=repr)
def test_trained_scales_are_better_than_those_they_start_from(form):
    w, moments, x = loud()
    start, trained = (Scaled(form, scales) for scales in (Salient(), TrainedScales(steps=60)))
    errors = [moments.error(decoded(one, w, moments) - w) for one in (trained, start, form)]
    assert errors[0] < 0.97 * errors[1] < errors[2]
    assert output_error(trained, w, moments, x) < output_error(start, w, moments, x)


def test_formats_without_scales_of_groups_are_not_trained_for():
    w, moments, _ = loud()
    for form in (Signs(), IntegerProducts()):
        with pytest.raises(BeelineError, match="no scales of groups: use it with Integers"):
            Scaled(form, TrainedScales(steps=1)).encode(w, moments)


class TwoLayers(torch.nn.Module):
    """v = (a x_1, gain b x_2) of x = (x_1, x_2)."""

    def __init__(self, gain):
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Linear(8, 6) for _ in range(3))
        self.gain = gain

    def forward(self, x, t, cond=None):
        return torch.cat([self.a(x[:, :8]), self.gain * self.b(x[:, 8:])], 1)


@pytest.mark.parametrize("entries", [True, False])
def test_the_curvature_is_the_error_where_that_is_a_sum_over_numbers(entries):
    """Inputs that are unit vectors: |v' - v|^2 = gain^2 |w' - w|^2, for any random signs."""
    with Rng(0).ambient():
        net = TwoLayers(3.0)
    layers = {name: getattr(net, name) for name in "abc"}
    calls = [Call(torch.eye(16), torch.zeros(16), None), Call(-torch.eye(16), torch.zeros(16), None)]
    made = {name: packed(layer, Integers(3)) for name, layer in layers.items()}
    estimated, measured = (how(net, calls, layers) for how in (Curvature(2, entries), Measured()))
    found = {name: float((made[name].weight - layers[name].weight).detach().square().sum()) for name in layers}
    with torch.no_grad():
        for name, factor in (("a", 2), ("b", 18), ("c", 0)):  # two evaluations; c is not used
            assert estimated(name, made[name]) == pytest.approx(factor * found[name], rel=1e-5)
            assert measured(name, made[name]) == pytest.approx(factor * found[name], rel=1e-4)
    assert all(p.requires_grad for p in net.parameters()) and net.a.weight.grad is None


def test_bits_by_curvature_meet_a_share_of_the_bytes():
    net = dit()
    stiff = net.block[1].mix.out
    stiff.weight.mul_(1e-3)  # whose errors do not matter
    stiff.bias.mul_(1e-3)
    method = MixedBits(0.28, (Integers(2), Integers(4), Integers(8)), Curvature(2))
    made = applied(method, net)
    assert torch.equal(again(made)(X, T), made(X, T))
    small = [name for name, form in zip(made.formats, made.layers, strict=True) if "block.1.mix.out" in form]
    assert small == [Integers(2)]
