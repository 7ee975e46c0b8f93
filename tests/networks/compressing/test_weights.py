"""Codes, scales and sensitivities of weights, against exact answers and numbers of reference."""

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.weights.entropy import EntropyCoded, code_lengths, code_words
from tests.networks.compressing.test_calibrated import gauss
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
    net = dit().to(torch.bfloat16)
    x, t = X.bfloat16(), T.bfloat16()
    made = applied(Quantize(EntropyCoded(), rest=None, kept=True), net)
    assert torch.equal(made(x, t), net(x, t)) and torch.equal(again(made).to(torch.bfloat16)(x, t), net(x, t))
