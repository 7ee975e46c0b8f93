"""Formats and roundings that look at the inputs of layers, against exact answers and numbers of reference."""

import math

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.compressing.around import Corrected, IntegerProducts, Salient, Scaled, Smooth, Sparse
from beeline.networks.compressing.compressor import Call, Moments, Probe
from beeline.networks.compressing.factors import DenseSparse, Factors, Kronecker, Monarch, Signs, spread
from beeline.networks.compressing.formats import Format, Integers, OffsetIntegers
from beeline.networks.compressing.levels import BitMoD, NormalFloat4, PowersOfTwo, SmallFloats, StatsQ
from beeline.networks.compressing.quantize import GPTQ, Quantize
from beeline.networks.compressing.rounding import OptimalBrain, SearchedScale
from beeline.networks.dit import DiT


def gauss(seed=0):
    """Weights [256,512] from N(0, 0.02^2)."""
    return 0.02 * Rng(seed).normal(torch.empty(256, 512))


def decoded(form, w, moments=None):
    return form.decode(form.encode(w, moments), *w.shape)


def error(form, w, moments=None):
    return float((decoded(form, w, moments) - w).norm() / w.norm())


def loud(seed=0):
    """Weights [96,128], and 512 and 2000 correlated inputs, whose channels differ by e^(0.8 N), two 12 x louder."""
    rng = Rng(seed)
    n = 128
    w = rng.fork("w").normal(torch.empty(96, n)) / n**0.5
    mix = torch.eye(n) + 0.5 * rng.fork("mix").normal(torch.empty(n, n)) / n**0.5
    size = (0.8 * rng.fork("size").normal(torch.empty(n))).exp()
    size[[7, 70]] *= 12
    x = (rng.fork("x").normal(torch.empty(2512, n)) @ mix) * size
    moments = Moments()
    moments.add(x[:512])
    return w, moments, x[512:]


def output_error(form, w, moments, x):
    y = x @ w.mT
    return float((form.product(x, form.encode(w, moments), len(w)) - y).norm() / y.norm())


@pytest.mark.parametrize(
    "form, expected",
    [
        (Integers(2), 0.718), (Integers(3), 0.252), (Integers(4), 0.108), (OffsetIntegers(3), 0.192),
        (OffsetIntegers(4), 0.090), (PowersOfTwo(3), 0.213), (PowersOfTwo(4), 0.189), (SmallFloats(3, 2), 0.0523),
        (SmallFloats(2, 3), 0.0277), (SmallFloats(2, 1, 64), 0.105), (BitMoD(3), 0.195), (BitMoD(4), 0.0983),
        (StatsQ(1), 0.602), (StatsQ(2), 0.372), (StatsQ(3), 0.267), (StatsQ(4), 0.223),
        (Signs(), 0.602), (Signs(3), 0.240), (IntegerProducts(), 0.0075),
    ],
)  # fmt: skip
def test_errors_on_gaussian_weights_are_those_of_reference(form, expected):
    assert error(form, gauss()) == pytest.approx(expected, rel=0.04)


def test_normal_float_is_better_than_integers_on_gaussian_weights():
    assert error(NormalFloat4(), gauss()) < 0.95 * error(Integers(4), gauss())
    assert error(Signs(), gauss()) == pytest.approx(math.sqrt(1 - 2 / math.pi), rel=0.01)


def test_small_floats_are_those_of_their_bits():
    """e3m2: 2^(E-3) (1 + M/4) with E from 1 to 7, and M/16 below; the largest is 28."""
    levels = SmallFloats(3, 2).tables[0]
    given = {m / 16 for m in range(4)} | {2.0 ** (e - 3) * (1 + m / 4) for e in range(1, 8) for m in range(4)}
    assert [level / 4 for level in levels] == sorted(given | {-v for v in given}) or max(given) == 28
    assert sorted(abs(v) * 28 / levels[-1] for v in levels if v >= 0) == sorted(given)


def test_several_blocks_of_signs_are_prefixes_of_each_other():
    w = gauss()[:32, :64]
    three, two = Signs(3, 2).encode(w), Signs(2, 2).encode(w)
    assert all(torch.equal(three[name], value) for name, value in two.items())
    errors = [error(Signs(k, 2), w) for k in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)


def test_optimal_brain_rounds_to_nearest_with_uncorrelated_inputs():
    w, moments = gauss()[:16, :100], Moments()
    moments.add(torch.diag(torch.linspace(0.5, 2.0, 100)))
    for form in (Integers(3, 30), OffsetIntegers(3, 30), BitMoD(3, 30)):
        careful = type(form)(**{**vars(form), "rounding": OptimalBrain()})
        assert torch.equal(decoded(careful, w, moments), decoded(form, w))


def test_calibration_lowers_the_error_of_outputs():
    """The order of the methods on inputs with loud channels; a format that is not calibrated has no use of moments."""
    w, moments, x = loud()
    found = {
        form: output_error(form, w, moments, x)
        for form in (
            Integers(4), Integers(4, 64, OptimalBrain()), Scaled(Integers(4)), Integers(4, 64, SearchedScale()),
            Corrected(Integers(4), 8),
        )
    }  # fmt: skip
    nearest, *others = found.values()
    assert nearest == pytest.approx(0.107, rel=0.3)
    assert all(value < 0.95 * nearest for value in others), found
    assert others[-1] < 0.6 * nearest  # a correction of rank 8


def test_scales_and_smoothing_change_nothing_but_rounding():
    w, moments, x = loud(1)

    class Exact(Format):
        def encode(self, w, moments=None):
            return {"w": w}

        def decode(self, stored, out, into):
            return stored["w"]

    for scaling in (Salient(), Smooth()):
        assert output_error(Scaled(Exact(), scaling), w, moments, x) < 1e-5
    plain, smooth = (
        output_error(form, w, moments, x) for form in (IntegerProducts(), Scaled(IntegerProducts(), Smooth()))
    )
    assert smooth < 0.8 * plain


def test_factors_of_outputs_leave_the_tail_of_the_singular_values():
    w, moments, _ = loud(2)
    form = Factors(0.5)
    rank = form.rank(*w.shape)
    root = torch.linalg.cholesky(moments.second)
    tail = torch.linalg.svdvals(w.double() @ root)[rank:]
    assert moments.error(decoded(form, w, moments) - w) == pytest.approx(float(tail.square().sum()), rel=1e-3)
    assert moments.error(decoded(form, w, moments) - w) < 0.9 * moments.error(decoded(Factors(0.5, False), w) - w)
    plain = torch.linalg.svdvals(w)[rank:]
    assert error(Factors(0.5, outputs=False), w) == pytest.approx(float(plain.norm() / w.norm()), rel=1e-3)


def test_sums_of_products_and_blocks_of_low_rank_are_found_again():
    rng = Rng(3)
    a, b = (rng.fork(name).normal(torch.empty(3, 8, 8)) for name in "ab")
    w = sum(torch.kron(p, q) for p, q in zip(a, b, strict=True))
    assert error(Kronecker(3), w) < 1e-5 and error(Kronecker(2), w) > 0.1
    u, v = rng.fork("u").normal(torch.empty(4, 4, 16, 1)), rng.fork("v").normal(torch.empty(4, 4, 1, 8))
    blocks = (u @ v).transpose(1, 2).reshape(64, 32)
    assert error(Monarch(4), blocks) < 1e-5 < error(Monarch(2), blocks)


@pytest.mark.parametrize("seed", range(3))
def test_sums_of_few_atoms_are_found_again(seed):
    """Columns that are sums of 2 of 24 atoms; factors of as many numbers have rank 5."""
    rng = Rng(seed)
    chosen = torch.stack([rng.fork("chosen", j).permutation(24)[:2] for j in range(256)], 1)
    sparse = spread(chosen, rng.fork("values").normal(torch.empty(2, 256)), 24)
    w = rng.fork("atoms").normal(torch.empty(32, 24)) @ sparse
    form = DenseSparse((32 * 24 + 1.25 * 2 * 256) / w.numel(), 2)
    assert form.atoms(32, 256) == 24
    assert error(form, w) < 0.25 < 0.6 < error(Factors(5 * 288 / w.numel(), False), w)
    assert error(DenseSparse(1.0, 32, rounds=1), w) < 1e-4  # every column is a sum of as many atoms as it has numbers


def test_sums_of_atoms_look_at_inputs_and_name_them_in_bytes():
    w, moments, x = loud(5)
    plain, careful = (output_error(DenseSparse(0.5, inputs=kind), w, moments, x) for kind in (False, True))
    assert careful < 0.6 * plain and careful < 0.9 * output_error(Factors(0.5), w, moments, x)
    w = Rng(6).normal(torch.empty(8, 700))
    for share, kind in ((0.3, torch.uint8), (0.9, torch.int16)):
        form = DenseSparse(share, 1, rounds=1, inputs=False)
        stored = form.encode(w)
        assert stored["index"].dtype == kind and stored["atoms"].shape[1] == form.atoms(8, 700)
        assert sum(t.numel() * t.element_size() for t in stored.values()) <= share * 4 * w.numel()


def test_a_settled_sparse_weight_has_less_error_of_outputs():
    w, moments, x = loud(4)
    errors = [output_error(form, w, moments, x) for form in (Sparse(0.5, settled=True), Sparse(0.5))]
    assert errors[0] < errors[1] < output_error(Sparse(0.5), w, None, x)
    assert int((decoded(Sparse(0.25), w, moments) != 0).sum()) == 96 * 32
    kept = decoded(Sparse(0.25, inputs=False), w, moments) != 0
    assert w.abs()[kept].view(96, 32).amin(1).ge(w.abs().masked_fill(kept, 0).amax(1)).all()


def test_integers_are_multiplied_exactly():
    w, x = gauss()[:5, :40], Rng(5).normal(torch.empty(2, 3, 40))
    form = IntegerProducts()
    stored = form.encode(w)
    step = x.abs().amax(-1, keepdim=True) / 127
    wanted = ((x / step).round() * step) @ decoded(form, w).mT
    assert torch.allclose(form.product(x, stored, 5), wanted, atol=1e-6)


def dit():
    with Rng(2).ambient():
        net = DiT((1, 8, 8), width=32, heads=2, depth=2)
        for p in net.parameters():
            p.data.add_(0.05 * torch.randn_like(p))
    return net


def test_calibrated_methods_change_the_network_less():
    net = dit()
    calls = [
        Call(Rng(k).normal(torch.empty(16, 1, 8, 8)), torch.full((16,), t), None) for k, t in enumerate((0.1, 0.5, 0.9))
    ]
    probe = Probe(calls[:2] + calls[2:])

    def change(method):
        plan = method.plan(net, probe)
        made = method.apply(net, plan, probe, Rng(0))
        assert plan.seconds > 0
        return sum(float((made(*c) - net(*c)).detach().square().sum()) for c in calls), made

    plain, _ = change(Quantize(Integers(3)))
    careful, made = change(GPTQ(3))
    assert careful < 0.8 * plain
    with pytest.raises(BeelineError, match="stored in few bits already"):
        Quantize().plan(made, probe)


def mean_output(net, call):
    """The mean output of the first mixing layer."""
    found = []
    layer = dict(net.named_modules())["block.0.mix.qkv"]
    handle = layer.register_forward_hook(lambda _, __, y: found.append(y.detach().mean((0, 1))))
    net(*call)
    handle.remove()
    return found[0]


def test_means_of_outputs_are_kept_by_biases():
    net = dit()
    probe = Probe([Call(Rng(1).normal(torch.empty(64, 1, 8, 8)), torch.full((64,), 0.5), None)])
    means = {}
    for kept in (False, True):
        method = Quantize(Integers(2), rest=None, layers=("block.0.mix.qkv",), means=kept)
        made = method.apply(net, method.plan(net, probe), probe, Rng(0)).field
        seen = [mean_output(one, probe.calls[0]) for one in (net, made)]
        means[kept] = float((seen[0] - seen[1]).norm())
    assert means[True] < 1e-4 < means[False]
