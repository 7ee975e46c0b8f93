"""Guidance of images by frequency, by region and by saliency, in closed form."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from beeline.core.declared import Declared, TokenGrid, Traits
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import Flow
from beeline.sampling.blur import gaussian_blur
from beeline.sampling.guidance.composition.attention_maps import RecordedAttention
from beeline.sampling.guidance.composition.fusion import SaliencyFusion
from beeline.sampling.guidance.composition.merged import Merged
from beeline.sampling.guidance.composition.spatial import AttentionRegions, GivenRegions, Regional, region_factors
from beeline.sampling.guidance.guide import CFG, Extrapolate, Unconditional, Weak
from beeline.sampling.guidance.references.conditions import OtherCondition
from beeline.sampling.guidance.rules.frequencies import PerFrequency
from beeline.sampling.guidance.rules.norms import NormRestored, PerChannel, PerToken
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER


def images(name, *shape):
    return Rng(0).fork(name).normal(torch.empty(*shape, dtype=torch.float64))


def wave(k, side=9):
    """Eigenvectors of every symmetric kernel with reflection at the edges."""
    return torch.cos(math.pi * k * torch.arange(side, dtype=torch.float64) / (side - 1))[None, :].repeat(side, 1)


def test_a_blur_multiplies_waves_by_its_frequency_response():
    at = torch.arange(-3, 4, dtype=torch.float64)
    kernel = torch.softmax(-at.square() / 2, 0)
    for k in range(9):
        response = (kernel * torch.cos(math.pi * k * at / 8)).sum()
        assert torch.allclose(gaussian_blur(wave(k), 1.0), response * wave(k), atol=1e-12)
    assert torch.equal(gaussian_blur(wave(1), 0.0), wave(1))


@pytest.mark.parametrize("bands", [2, 4])
def test_equal_scales_of_all_frequencies_are_extrapolation(bands):
    strong, weak = images("s", 2, 3, 8, 6), images("w", 2, 3, 8, 6)
    made = PerFrequency((3.0,) * bands).for_run()(strong, weak, strong, torch.zeros(2))
    assert torch.allclose(made, Extrapolate(3.0).for_run()(strong, weak, strong, torch.zeros(2)), atol=1e-12)


def test_scales_apply_to_their_frequencies():
    """A wave gets the scales in proportion to what each band passes."""
    at = torch.arange(-6, 7, dtype=torch.float64)
    for k in (0, 1, 4, 8):
        r1, r2 = (
            float((torch.softmax(-at[keep].square() / (2 * s * s), 0) * torch.cos(math.pi * k * at[keep] / 8)).sum())
            for s, keep in ((1.0, at.abs() <= 3), (2.0, at.abs() <= 6))
        )
        weak = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
        made = PerFrequency((2.0, 3.0, 5.0)).for_run()(weak + wave(k), weak, weak, torch.zeros(1))
        total = 5.0 * (1 - r1) + 3.0 * (r1 - r1 * r2) + 2.0 * r1 * r2
        assert torch.allclose(made, total * wave(k) + weak, atol=1e-12)


def test_norms_per_channel_are_restored():
    strong, weak = images("s", 2, 3, 4, 5), images("w", 2, 3, 4, 5)
    made = NormRestored(4.0, PerChannel()).for_run()(strong, weak, strong, torch.zeros(2))
    assert torch.allclose(made.flatten(2).norm(dim=2), strong.flatten(2).norm(dim=2), atol=1e-9)


def test_factors_of_regions_even_out_their_strength():
    """Two halves with differences of 1 and 2: 1.5 and 0.75, clamped to 0.8."""
    size = torch.ones(1, 4, 4, dtype=torch.float64)
    size[..., 2:] = 2
    labels = (size == 2).long() + 1
    assert torch.allclose(region_factors(size, labels, 3, (0.8, 3.0)), torch.where(size == 2, 0.8, 1.5).to(size))
    assert torch.allclose(region_factors(size, labels, 3, (0.1, 3.0)), 1.5 / size)
    background = torch.where(size == 2, 0, 1)  # the foreground is the weak half
    assert torch.equal(region_factors(size, background, 2, (0.1, 3.0)), 1 / size)
    assert torch.equal(region_factors(size, 0 * labels, 1, (0.1, 3.0)), torch.ones_like(size))
    assert torch.equal(region_factors(0 * size, labels, 3, (0.1, 3.0)), torch.ones_like(size))


def field(x, t, cond=None):
    """A field of images with a difference of 1 in the left half and 2 in the right half."""
    change = torch.ones_like(x)
    change[..., x.shape[-1] // 2 :] = 2
    return torch.sin(x) + change * cond["label"].to(x).view(-1, 1, 1, 1)


X = images("x", 2, 1, 4, 4)
LABEL = {"label": torch.ones(2)}


def at(t, n=2):
    return torch.full((n,), t, dtype=torch.float64)


@pytest.mark.parametrize("together", [True, False])
def test_guidance_by_given_regions_in_closed_form(together):
    halves = torch.ones(2, 4, 4)
    halves[..., 2:] = 2
    cond = {**LABEL, "regions": halves}
    made = Regional(3.0, GivenRegions(3), Unconditional({"label": 0}), deviation=0.0, together=together)
    v = made(field, cond)(X, at(0.5))
    weak = field(X, at(0.5), {"label": torch.zeros(2)})
    expected = weak + 3.0 * torch.where(halves == 2, 0.8, 1.5).to(X)[:, None] * halves.to(X)[:, None]
    assert torch.allclose(v, expected, atol=1e-12)
    one = {**LABEL, "regions": torch.ones(2, 4, 4)}
    cfg = CFG(3.0, {"label": 0})(field, LABEL)(X, at(0.5))
    for regions in (one, {**one, "regions": 0 * one["regions"]}):
        same = Regional(3.0, GivenRegions(2), Unconditional({"label": 0}))(field, regions)(X, at(0.5))
        assert torch.allclose(same, cfg, atol=1e-12)
    late = Regional(3.0, GivenRegions(2), Unconditional({"label": 0}), window=(0.0, 0.4))(field, one)
    assert torch.equal(late(X, at(0.5)), field(X, at(0.5), LABEL))


TO_TEXT = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 9, 0], [0, 0, 9]])


class Attending(torch.nn.Module):
    """A network whose image tokens attend to three others with known logits, in one joint attention."""

    def __init__(self, first):
        super().__init__()
        self.first, self.rows = first, 0
        self.traits = Traits(tokens=lambda shape: TokenGrid(2, 2, first))

    def forward(self, x, t, cond=None):
        self.rows += len(x)
        image, text = torch.cat([TO_TEXT, 40 * torch.eye(4)], 1).to(x), torch.eye(3, 7).to(x)
        parts = [(image, torch.eye(7)[3:].to(x)), (0 * text, text)]
        parts = parts if self.first else parts[::-1]
        q, k = (torch.cat(p)[None, None].repeat(len(x), 2, 1, 1) for p in zip(*parts, strict=True))
        F.scaled_dot_product_attention(q, k, k)
        return field(x, t, cond)


@pytest.mark.parametrize("first", [True, False])
def test_attention_is_recorded(first):
    network = Attending(first)
    with RecordedAttention(TokenGrid(2, 2, first)) as recorded:
        network(X, at(0.5), LABEL)
        network(X, at(0.5), LABEL)
    assert torch.allclose(recorded.text, (TO_TEXT / math.sqrt(7)).softmax(1).expand(2, -1, -1), atol=1e-5)
    assert torch.allclose(recorded.image, (40 / math.sqrt(7) * torch.eye(4)).softmax(1).expand(2, -1, -1), atol=1e-6)


def test_masks_and_scales_are_those_of_the_attention():
    q, k = images("q", 1, 2, 6, 8).float(), images("k", 1, 2, 6, 8).float()
    mask = torch.tensor([True, True, False, True, False, True])[None, None, None]
    with RecordedAttention(TokenGrid(2, 2)) as recorded:
        made = F.scaled_dot_product_attention(q, k, k, attn_mask=mask, scale=0.3)
    p = (0.3 * q @ k.mT).masked_fill(~mask, -torch.inf).softmax(-1)
    assert torch.allclose(made, p @ k, atol=1e-6)
    for found, part in ((recorded.image, slice(0, 4)), (recorded.text, slice(4, 6))):
        expected = p.mean(1)[:, :4, part]
        assert torch.allclose(found, expected / expected.sum(-1, keepdim=True), atol=1e-6)


def test_regions_follow_the_tokens_that_are_attended_to():
    network = Attending(True)
    regions = AttentionRegions(deviation=0.0).for_run(network, LABEL)
    with regions.recording(X) as recorded:
        network(X, at(0.5), LABEL)
    labels, count = regions.labels(recorded, X)
    assert count == 4 and labels[0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [2, 2, 3, 3], [2, 2, 3, 3]]
    behind = AttentionRegions(background=1, deviation=0.0).for_run(network, LABEL)
    labels, _ = behind.labels(recorded, X)
    assert labels[0, ::2, ::2].tolist() == [[1, 0], [0, 2]]
    some = AttentionRegions(tokens=(0, 2), deviation=0.0).for_run(network, LABEL)
    assert some.labels(recorded, X)[0][0, ::2, ::2].flatten().tolist()[::3] == [1, 2]


def test_guidance_by_attention_counts_its_evaluations():
    network = Attending(True)
    guidance = Regional(2.0, AttentionRegions(), Unconditional({"label": 0}), window=(0.0, 0.5))
    sampler = Sampler(4, solver=EULER, guidance=guidance)
    made = sampler(Flow(network), X, LABEL)
    assert network.rows == 2 * sampler.evaluations == 2 * 7 and made.isfinite().all()


@pytest.mark.parametrize("name, texts", [("flux", 7), ("sd3", 5)])
def test_regions_of_tiny_pipelines(name, texts):
    pytest.importorskip("diffusers")
    from beeline.hub.pipelines import from_pipeline
    from tests.networks.hub.test_families import CASES

    case = CASES[name]()
    bundle = from_pipeline(case.pipe, **case.size)
    regions = AttentionRegions(tokens=(1, 2, 3)).for_run(bundle.flow.field, case.cond)
    with torch.no_grad(), regions.recording(case.x0) as recorded:
        bundle.flow.field(case.x0, torch.full((len(case.x0),), 0.5), case.cond)
    labels, count = regions.labels(recorded, case.x0)
    assert recorded.text.shape[2] == texts and count == 4
    assert labels.shape == (len(case.x0), *case.x0.shape[2:]) and {1, 2, 3} >= set(labels.flatten().tolist())
    cond = {**case.cond, "negative": case.null}
    made = Sampler(2, solver=EULER, guidance=Regional(3.0, AttentionRegions()))(bundle.flow, case.x0, cond)
    plain = Sampler(2, solver=EULER, guidance=CFG(3.0))(bundle.flow, case.x0, cond)
    assert made.isfinite().all() and 1e-4 < (made - plain).abs().max() < plain.abs().max()


def test_fusion_takes_the_field_that_reacts_more():
    """The first field reacts in the left half alone, the second in the right half alone."""
    left = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
    left[..., :4] = 1

    def one(x, t, cond):
        return 0 * x + left * cond["label"].to(x).view(-1, 1, 1, 1)

    def two(x, t, cond):
        return 0 * x + 3 * (1 - left) * cond["label"].to(x).view(-1, 1, 1, 1)

    x = images("x", 2, 1, 4, 8)
    made = SaliencyFusion(CFG(2.0, {"label": 0}), Weak(two), deviation=0.0)(one, LABEL)(x, at(0.5))
    assert torch.equal(made, (2 * left + 6 * (1 - left)).expand(2, -1, -1, -1))
    same = SaliencyFusion(CFG(2.0, {"label": 0}), Weak(one))(one, LABEL)(x, at(0.5))
    assert torch.equal(same, CFG(2.0, {"label": 0})(one, LABEL)(x, at(0.5)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PerFrequency((1.0,)), "at least two"),
        (lambda: PerFrequency((1.0, 2.0)).for_run()(torch.ones(1, 2), torch.ones(1, 2), None, None), "images"),
        (lambda: PerToken(2)(torch.ones(1, 4)), "images"),
        (lambda: PerToken(2)(torch.ones(1, 1, 4, 5)), "divisor of both sides"),
        (lambda: Regional(2.0, GivenRegions())(field, LABEL), "without 'regions'"),
        (lambda: GivenRegions(2).for_run(field, {"regions": torch.full((1, 2, 2), 5)}), "outside 0 .. 1"),
        (
            lambda: Regional(2.0, GivenRegions(), Unconditional(0))(field, {**LABEL, "regions": torch.ones(2, 3, 3)})(
                X, at(0.5)
            ),
            "one region for every pixel",
        ),
        (lambda: Regional(2.0, AttentionRegions())(field, LABEL), "does not declare its image tokens"),
        (
            lambda: Regional(2.0, AttentionRegions(), Unconditional({"label": 0}))(
                Declared(field, traits=Traits(tokens=lambda shape: TokenGrid(2, 2))), LABEL
            )(X, at(0.5)),
            "no joint attention",
        ),
        (lambda: Regional(2.0, GivenRegions(), bounds=(2.0, 1.0)), "bounds"),
        (lambda: AttentionRegions(tokens=(-1,)), "counted from 0"),
        (lambda: AttentionRegions(tokens=(1, 2), background=2), "one of them"),
        (
            lambda: Regional(2.0, AttentionRegions(background=3), Unconditional({"label": 0}))(Attending(True), LABEL)(
                X, at(0.5)
            ),
            "the text has 3 tokens",
        ),
        (lambda: SaliencyFusion(CFG(2.0, 0, (0.0, 0.5)), Weak(field)), "without a window"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_every_part_has_the_velocity_of_its_own_condition():
    mask = torch.zeros(8, 8)
    mask[2:5, 1:4] = 1
    half = torch.full((8, 8), 0.5)

    def of_label(x, t, cond):
        return 0 * x + cond["label"].to(x).view(-1, 1, 1, 1)

    cond, x = {"label": torch.tensor([1, 2])}, torch.ones(2, 1, 8, 8)
    other = OtherCondition({"label": 5})
    made = Merged((other, Weak(lambda x, t, cond: 0 * x + 7)), (mask, half), window=(0.0, 0.6))(of_label, cond)
    v = made(x, torch.tensor([0.5, 0.7]))
    inside = v[0, 0][mask > 0]
    assert torch.allclose(inside, torch.tensor((5 + 0.5 * 7) / 1.5)) and torch.allclose(
        v[0, 0][mask == 0], torch.tensor(0.5 * 1 + 0.5 * 7)
    )
    assert bool((v[1] == 2).all())  # outside of the window
    apart = Merged((other,), (mask,), together=False)(of_label, cond)(x, at(0.5))
    assert torch.equal(Merged((other,), (mask,))(of_label, cond)(x, at(0.5)), apart)
    with pytest.raises(BeelineError, match="every reference has its part"):
        Merged((other,), ())
    with pytest.raises(BeelineError, match="mask of shape"):
        Merged((other,), (torch.ones(3, 3),))(of_label, cond)(x, at(0.5))
