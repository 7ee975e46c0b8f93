"""Rotary position embeddings for other sizes: closed forms, and networks of diffusers with them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.hub.pipelines import from_pipeline
from beeline.hub.sizes import extended
from beeline.networks.hub.sizes.positions import CHANGES
from beeline.networks.hub.sizes.rotary import NTKAware, PositionInterpolation, YaRN, proportional
from tests.networks.hub.test_families import CASES, ours
from tests.networks.hub.tiny import df

LIKE = torch.empty(0, dtype=torch.float64)
SLOW = ("flux-kontext", "flux-fill", "flux-control", "flux2-klein", "longcat-image", "wan-image-to-video")
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in (*SLOW, "wan, two experts") else [])
    for name in (*CHANGES, "wan, two experts")
]


@pytest.fixture(scope="module")
def made():
    """Cases and bundles by name; no test changes their networks."""
    found = {}

    def get(name):
        if name not in found:
            df.utils.logging.set_verbosity_error()
            with bl.Rng(0).ambient():
                case = CASES[name]()
            found[name] = case, from_pipeline(case.pipe, **case.size)
        return found[name]

    return get


def test_frequencies_are_those_of_the_closed_forms():
    width, theta, s = 32, 10000.0, 2.5
    i = torch.arange(width // 2, dtype=torch.float64)
    usual = torch.exp(-2 * i / width * math.log(theta))
    assert torch.allclose(PositionInterpolation(s).frequencies(width, theta, LIKE), usual / s, rtol=1e-12)
    ntk = NTKAware(s).frequencies(width, theta, LIKE)
    assert torch.allclose(ntk, usual * s ** (-2 * i / (width - 2)), rtol=1e-12)
    assert ntk[0] == 1 and math.isclose(ntk[-1], usual[-1] / s, rel_tol=1e-12)
    turns = 64 / (2 * math.pi) * usual  # of every frequency over a trained side of 64 tokens
    yarn = YaRN(s, 64).frequencies(width, theta, LIKE)
    assert torch.equal(yarn[turns >= 32], usual[turns >= 32])
    assert torch.allclose(yarn[turns <= 1][1:], usual[turns <= 1][1:] / s, rtol=1e-12)  # ``high`` is rounded up
    assert ((yarn <= usual) & (yarn >= usual / s * (1 - 1e-12))).all()


def test_the_attention_scale_is_that_of_the_formulas():
    assert YaRN(4.0, 64).scale == 1 + 0.1 * math.log(4)
    assert math.isclose(NTKAware(2.0, proportional(8192, 4096)).scale ** 4, 13 / 12)
    assert NTKAware(2.0).scale == 1.0


@pytest.mark.parametrize("rotary", [PositionInterpolation(1.0), NTKAware(1.0), YaRN(1.0, 8)])
def test_a_factor_of_one_changes_no_frequency(rotary):
    usual = rotary.frequencies(12, 500.0, LIKE)
    assert torch.equal(usual, 1.0 / 500.0 ** (torch.arange(0, 12, 2, dtype=torch.float64) / 12))
    assert rotary.scale == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_a_factor_of_one_gives_the_plain_network_and_another_one_does_not(made, name):
    case, bundle = made(name)
    plain = ours(case, False, bundle, 2)
    assert torch.equal(ours(case, False, extended(bundle, YaRN(1.0, 8)), 2), plain)
    other = extended(bundle, PositionInterpolation(3.0))
    assert not torch.equal(ours(case, False, other, 2), plain)
    assert torch.equal(ours(case, False, bundle, 2), plain), "the weights are shared, the embeddings are not"
    assert torch.equal(ours(case, False, extended(other, NTKAware(1.0)), 2), plain)
    assert other.lineage["rotary"] == "PositionInterpolation(factor=3.0, logits=1.0)"


@pytest.mark.parametrize("name", ["flux", "flux2", "chroma"])
def test_interpolated_positions_are_those_of_divided_ids(made, name):
    case, bundle = made(name)
    net, found = bundle.flow.field.net, extended(bundle, PositionInterpolation(2.0)).flow.field.net
    ids = torch.randint(0, 50, (9, len(net.pos_embed.axes_dim))).float()
    half = ids.clone()
    half[:, 1:3] /= 2
    for one, two in zip(found.pos_embed(ids), net.pos_embed(half), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_tables_are_those_of_diffusers(made):
    def table(width, count, **kind):
        return df.models.embeddings.get_1d_rotary_pos_embed(
            width, count, linear_factor=2.0, freqs_dtype=torch.float64, **kind
        )

    rotary = PositionInterpolation(2.0, logits=4.0)
    rope = extended(made("lumina2")[1], rotary).flow.field.net.rope_embedder
    assert torch.allclose(rope.freqs_cis[2], 2 * table(rope.axes_dim[2], rope.axes_lens[2]))
    rope = extended(made("wan")[1], rotary).flow.field.net.rope
    wanted = table(rope.w_dim, rope.max_seq_len, use_real=True)
    assert torch.allclose(rope.freqs_cos[:, -rope.w_dim :], 2 * wanted[0], atol=1e-6)
    assert torch.allclose(rope.freqs_sin[:, -rope.w_dim :], 2 * wanted[1], atol=1e-6)
    rope = extended(made("qwen-image")[1], rotary).flow.field.net.pos_embed
    wanted = rope.rope_params(torch.arange(-4096, 0) / 2, rope.axes_dim[1], rope.theta)
    first = rope.axes_dim[0] // 2
    assert torch.allclose(rope.neg_freqs[:, first : first + wanted.shape[1]], 2 * wanted, atol=1e-5)


class Sharper(TorchFunctionMode):
    """Multiplies the queries of self-attention by 3."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            kwargs.update(zip(("query", "key", "value"), args, strict=False))
            args, same = (), kwargs["query"].shape == kwargs["key"].shape
            kwargs["query"] = 3.0 * kwargs["query"] if same else kwargs["query"]
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", ["flux", "qwen-image", "lumina2", "wan"])
def test_logits_of_self_attention_have_the_factor(made, name):
    case, bundle = made(name)
    t = torch.full((len(case.x0),), 0.3)
    found = extended(bundle, NTKAware(1.0, logits=3.0)).flow.field(case.x0, t, case.cond)
    with Sharper():
        wanted = bundle.flow.field(case.x0, t, case.cond)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_it_combines_with_caches_and_other_sizes(made):
    case, bundle = made("flux")
    longer = bl.hub.resized(extended(bundle, NTKAware(2.0)), 24, 16)
    quick = bl.hub.cached(longer, bl.hub.FirstBlock(0.0))
    x0 = torch.randn(2, *longer.modality.shape)
    one, two = (bl.Sampler(2)(b.flow, x0, case.cond) for b in (longer, quick))
    assert torch.allclose(one, two, atol=1e-6)
    assert x0.shape[-2:] == (24, 16) and longer.sampler.schedule.tokens == 4 * bundle.sampler.schedule.tokens


def test_what_cannot_be_extended_is_refused(made):
    with pytest.raises(BeelineError, match="a model of the family sd3; they are tested for flux"):
        extended(from_pipeline(CASES["sd3"]().pipe, height=8, width=8), NTKAware(2.0))
    with pytest.raises(BeelineError, match="before a cache"):
        extended(bl.hub.cached(made("flux")[1], bl.hub.FirstBlock(0.1)), NTKAware(2.0))
    with pytest.raises(BeelineError, match="factor=0"):
        NTKAware(0.0)
    with pytest.raises(BeelineError, match="ratio of their logarithms"):
        proportional(1, 64)
